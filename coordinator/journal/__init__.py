"""Batches that outlive every process: what was accepted is on disk until each item has ended, exactly once."""

"""MAIFS from Python."""

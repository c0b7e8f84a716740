"""MAIFS beyond one host."""

"""Measurements of the project, and the pictures that it makes itself."""

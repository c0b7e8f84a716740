"""Learned cues: networks that the project defines, and plug-ins with weights that users bring."""

"""The vision service: four forensic tools on the original bytes of a picture."""

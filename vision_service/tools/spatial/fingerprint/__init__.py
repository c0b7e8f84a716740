"""A learned map of where a picture's processing history differs; the weights and their model card lie beside it."""

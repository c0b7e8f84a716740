"""A learned cue for pictures that a generator's decoder made; the weights and their model card lie beside it."""

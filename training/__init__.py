"""Makes the weights of learned cues from authentic photographs. The product never imports it."""

"""A local web page over a coordinator: drop pictures, watch findings arrive, compare reports, browse batches."""

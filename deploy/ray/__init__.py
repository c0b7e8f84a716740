"""The three services on a Ray cluster, and batch analysis of whole corpora by Ray Data."""

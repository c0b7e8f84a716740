"""The services behind the coordinator: which of them can work, and whose turn it is."""

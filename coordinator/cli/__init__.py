"""coordinator-cli: analyses pictures from the command line."""

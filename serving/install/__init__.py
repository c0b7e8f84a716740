"""Puts the product on a host: environment, units, users, settings; and takes it away again."""

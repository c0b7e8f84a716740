"""Prometheus metrics: instruments of each service in a registry of its own, shown over HTTP where an address is set."""

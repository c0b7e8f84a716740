"""What every MAIFS service needs: configuration, errors, server lifecycle, logs."""

__version__ = "0.1.0"

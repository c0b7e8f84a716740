"""What every MAIFS service needs: configuration, errors, server lifecycle, logs."""

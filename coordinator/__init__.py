"""The coordinator: takes pictures, asks the services, fuses the findings, writes the report."""

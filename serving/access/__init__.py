"""Who may call a service, how much, and the record of it."""

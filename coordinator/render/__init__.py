"""Reports for people and programs: text for a terminal, JSON, and self-contained HTML."""

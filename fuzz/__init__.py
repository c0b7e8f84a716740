"""Coverage-guided fuzzing of everything here that parses bytes from outside: `make fuzz`, docs/reliability.md."""

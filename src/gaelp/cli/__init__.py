"""Floor 5, the entrance: commands that parse, call one thing and print what it said."""

"""An ad network of our own: its own process, database, users and rivals. It imports nothing of the market."""

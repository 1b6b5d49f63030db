"""Floor 0: the values that every other floor speaks in."""

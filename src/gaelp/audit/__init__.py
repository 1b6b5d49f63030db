"""Floor 4: what is checked about the house itself and about what it did."""

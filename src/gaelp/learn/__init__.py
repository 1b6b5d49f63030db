"""Floor 2: experience becomes weights, and what is claimed about them is verified."""

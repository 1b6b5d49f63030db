"""Floor 1: bounds and off-policy estimates, in float64 NumPy, that say how sure a number is."""

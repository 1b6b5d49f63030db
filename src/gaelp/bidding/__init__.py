"""Floor 1: observing, acting and pacing, written once for NumPy and jax.numpy (`xp`)."""

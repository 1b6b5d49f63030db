"""Floor 4: the loop that takes an agent through the phases, and the live market it plays in. Imports no JAX here."""

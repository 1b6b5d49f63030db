"""Floor 3: the only SQL of the main program, and weights on disk. State is a fold of an append-only event log."""

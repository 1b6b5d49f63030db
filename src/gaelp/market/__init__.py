"""Floor 2: auctions, simulated and replayed."""

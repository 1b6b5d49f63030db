"""Floor 3: ad networks. Only calls; what to call and whether it may be called is decided elsewhere."""

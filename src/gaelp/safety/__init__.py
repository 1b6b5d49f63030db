"""Floor 1: money, guards, gates, approvals as pure functions and small records, on the standard library."""

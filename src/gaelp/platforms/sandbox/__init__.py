"""An ad network of our own: its own process, database, users and rivals. It imports nothing of the market."""

OVER_DELIVERY = 2
"""The documented worst case: a day may be charged this many times its highest daily budget."""

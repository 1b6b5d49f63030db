"""gaelp takes an ad-buying agent from simulation to live spend, one proven step at a time."""

__version__ = "0.1.0"

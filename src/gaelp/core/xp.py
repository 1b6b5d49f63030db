"""The array type of code that is written once for NumPy and jax.numpy (`xp`)."""

from __future__ import annotations

from typing import Any

# There is no static type for "an array of either library whose arithmetic stays in that library": a union
# loses its kind at the first operator. Shapes and units stand in the docstrings; tests run both libraries.
Array = Any
"""An array of numpy or of jax.numpy."""

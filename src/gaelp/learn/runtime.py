"""What the process must be told before JAX compiles anything: where compiled programs are kept."""

from __future__ import annotations

from pathlib import Path

import jax


def enable_compilation_cache(directory: Path) -> None:
    """Keep every compiled program in `directory`, so that a second process starts in a second.

    The thresholds are set to keep everything: our programs are many and small, and by JAX's own
    defaults none of them would be kept.
    """
    directory.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

"""What the process must be told before JAX compiles anything: where programs are kept, and on what heap."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

import jax

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""glibc's names for what `mallopt` sets, from malloc.h."""
_LARGE = 1 << 20
"""Bytes from which on an allocation has pages of its own, which go back once it is freed."""


def enable_compilation_cache(directory: Path) -> None:
    """Keep every compiled program in `directory`, so that a second process starts in a second.

    The thresholds are set to keep everything: our programs are many and small, and by JAX's own
    defaults none of them would be kept.
    """
    directory.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def keep_one_heap() -> None:
    """Have all threads allocate on one heap, and give back what is freed, from now on; call it before they start.

    By itself glibc opens heaps of their own for the threads that compile, and moves ever larger blocks onto them, where
    whatever lies above keeps them from being given back. Other C libraries have no such heaps, and nothing is done.
    Raises OSError when glibc refuses.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for option, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _LARGE), (_TRIM_THRESHOLD, _LARGE)):
        if libc.mallopt(option, value) != 1:
            raise OSError(f"glibc refused mallopt({option}, {value}).")

"""What the process must be told before JAX compiles anything: where programs are kept, and on what heap."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

import jax

_ARENA_MAX = -8
"""glibc's name for how many heaps it opens, from malloc.h."""
_COMPILED = "/jax/core/compile/backend_compile_duration"
"""What JAX tells its listeners each time XLA has compiled a program."""
_LONG = 0.25
"""Seconds of compiling from which on there is something to give back."""


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
    """Have all threads allocate on one heap, and give back what compiling freed; call it before they start.

    By itself glibc opens heaps of their own for the threads that compile, and keeps what LLVM has freed there: a few
    hundred megabytes for each of the largest programs. Other C libraries have no such heaps, and nothing is done.
    Raises OSError when glibc refuses.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    if libc.mallopt(_ARENA_MAX, 1) != 1:
        raise OSError("glibc refused to keep to one heap.")

    def give_back(event: str, duration_secs: float, **_: str | int) -> None:
        if event == _COMPILED and duration_secs >= _LONG:
            libc.malloc_trim(0)

    jax.monitoring.register_event_duration_secs_listener(give_back)

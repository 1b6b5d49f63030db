"""What every benchmark process is told before JAX or torch is imported, since neither listens afterwards: one
thread, one core, no graphics card. It imports nothing that computes."""

from __future__ import annotations

import os
import sys

ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    **{f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")},
}


def cores() -> list[int]:
    """The cores this process may use, the last first: the first one serves interrupts on many machines."""
    return sorted(os.sched_getaffinity(0), reverse=True) if sys.platform == "linux" else [0]


def pin_to(core: int) -> None:
    """One core and one thread for everything in this process, where the system can be asked for that."""
    os.environ.update(ONE_THREAD)
    if sys.platform == "linux":
        os.sched_setaffinity(0, {core})
    else:
        print("this system cannot pin a process to one core: contestants may use more", file=sys.stderr)

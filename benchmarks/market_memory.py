"""Peak memory of one process that judges campaign worlds: `market_memory.py ITEMS SAMPLES WORLDS CHUNK` prints bytes.

A process of its own, since a peak never falls.
"""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

import numpy as np

from one_core import cores, pin_to


def peak_bytes() -> int:
    """The most that this process ever held."""
    if sys.platform == "linux":
        # getrusage remembers the process that started this one, too.
        told = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert told is not None
        return 1024 * int(told[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Judge the pacer once and print the peak."""
    items, samples, worlds, chunk = (int(word) for word in sys.argv[1:])
    pin_to(cores()[0])
    from campaign_worlds import sized_market

    market = sized_market(items=items, samples=samples, chunk=chunk)
    market.pacer(market.certified, np.arange(worlds))
    print(peak_bytes())


if __name__ == "__main__":
    main()

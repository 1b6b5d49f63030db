"""`make bench-market`: how fast auctions and campaigns are on one core; the auctions beside NumPy of the same rules.

Decides what is compared and whether the bars are met; market_contest.py measures. This process is pinned to one core
and told to use one thread before JAX is imported.
"""

from __future__ import annotations

import argparse
import platform
import sys
from dataclasses import replace
from importlib.metadata import version

from one_core import cores, pin_to
from side_by_side import Bar, Line, judge, ratio

CELLS = ("second price", "first price", "gsp")


def lines() -> dict[str, Line]:
    """Everything that is measured; imported late, after the process is pinned."""
    import market_contest as contest

    return {
        "auctions": Line(
            unit="million impressions per second (differing: results)",
            measure=contest.auctions,
            bars=(
                ratio("auctions, times NumPy", "ours", "numpy", 3.0),
                Bar(name="auctions, results that differ from NumPy's", figure=lambda t: t.figures["differing"],
                    bar=0.0, at_most=True),
            ),
        ),
        "cells": Line(
            unit="million sampled auctions per second",
            measure=contest.cells,
            bars=tuple(
                # A second of one core is a processor second, however many neighbours the core has.
                Bar(name=f"cells, {name}, million a processor second", figure=lambda t, k=name: t.processor[k],
                    bar=50.0)
                for kind in CELLS
                for name in (kind, f"{kind}, drawn")
            ),
        ),
        "campaigns": Line(
            unit="half hours of a campaign per second",
            measure=contest.campaigns,
            bars=tuple(
                Bar(name=f"campaigns, a unit of work at {large}, times that at {small}",
                    figure=lambda t, large=large, small=small: contest.dearer(t, large, small), bar=1.5, at_most=True)
                for large, small in (
                    (contest.LARGEST, contest.MIDDLE),
                    (replace(contest.MIDDLE, items=64), contest.MIDDLE),
                    (replace(contest.MIDDLE, samples=256), contest.MIDDLE),
                )
            ),
        ),
        "memory": Line(
            unit="megabytes at most",
            measure=contest.memory,
            bars=(
                Bar(name="memory, eight chunks of worlds, times that of one chunk",
                    figure=lambda t: t.ratios("eight chunks", "one chunk"), bar=1.1, at_most=True),
            ),
        ),
    }  # fmt: skip


NAMES = ("auctions", "cells", "campaigns", "memory")


def main() -> int:
    """Print the tables, then one JSON object on the last line; 0 only when every bar is met."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog='example: make bench-market ARGS="--line cells"'
    )
    parser.add_argument(
        "--line", action="append", choices=NAMES, help="one line; may be repeated (default: all)"
    )
    parser.add_argument(
        "--repetitions", type=int, default=5, help="how often each is timed (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    asked = parser.parse_args()
    if asked.repetitions < 1:
        parser.error("--repetitions must be at least 1")
    pin_to(cores()[0])

    say = sys.stderr if asked.json else sys.stdout
    packages = ", ".join(f"{p} {version(p)}" for p in ("jax", "numpy"))
    print(f"{platform.machine()}, Python {platform.python_version()}, {packages}; one core, one thread each",
          file=say, flush=True)  # fmt: skip
    chosen = {name: line for name, line in lines().items() if asked.line is None or name in asked.line}
    return judge(chosen, asked.repetitions, say)


if __name__ == "__main__":
    sys.exit(main())

"""`make bench-log-ladder`: the certified pacer on made-up auction logs, as a share of the LP bound.

Logs whose prices keep their level have a bar: there the bound can be reached by whoever learns the prices in time,
given wins enough to learn from. Where levels move, the bound knows the whole log and no pacer does: that share is
shown, beside dual pacing's.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import product

import numpy as np

from auction_logs import LogKind, auction_log
from gaelp.market.log_ladder import climb
from gaelp.market.replay import BidGrid, ReplayOptions

SHARE = 0.98
FRACTIONS = (4, 8, 16, 32, 64)
SIZES = (30_000, 100_000, 300_000)
SPREADS, CORRELATIONS = (0.5, 1.0, 2.0), (0.0, 0.4, 0.8)
WEATHER = {
    "still": {},
    "mild": {"wander": 0.05, "value_wander": 0.05, "drift": 0.05, "swing": 0.05},
    "drifting": {"drift": 0.3, "value_drift": 0.2, "jump": 0.3},
    "rough": {"wander": 0.15, "value_wander": 0.2, "swing": 0.1},
}
"""Levels of log price and log pCTR, in LogKind's words."""
BARRED, ENOUGH_WINS = "still", 500
"""The bar is on this weather, where the best single multiplier wins at least so many: of fewer, each is a lot."""
PACERS = ("certified pacer", "certified pacer x10", "certified pacer x0.1")


@dataclass(frozen=True)
class Cell:
    """One log and budget: the pacers' shares of the LP bound, the dual pacing's, and the worst overspend."""

    weather: str
    auctions: int
    spread: float
    correlation: float
    fraction: int
    shares: tuple[float, ...]
    dual: float
    wins: int
    """Of the best single multiplier in hindsight."""
    overspend: float


def measured(weather: str, seed: int) -> Iterator[Cell]:
    """Every combination of spread and correlation once, sizes in turn, each under every budget."""
    for number, (spread, correlation) in enumerate(product(SPREADS, CORRELATIONS)):
        kind = LogKind(
            auctions=SIZES[(number + seed) % len(SIZES)],
            spread=spread,
            correlation=correlation,
            zero_prices=0.03 * (number % 2),
            **WEATHER[weather],
        )
        log = auction_log(kind, 1000 * seed + number)
        for fraction in FRACTIONS:
            options = ReplayOptions(
                budget_fraction=Fraction(1, fraction), max_bid=Fraction(300), bid_grid=BidGrid.INTEGER
            )
            rungs = {rung.name: rung for rung in climb([log], options).rungs}
            yield Cell(
                weather=weather,
                auctions=kind.auctions,
                spread=spread,
                correlation=correlation,
                fraction=fraction,
                shares=tuple(rungs[name].share_of_lp for name in PACERS),
                dual=rungs["dual"].share_of_lp,
                wins=rungs["hindsight"].bought.impressions,
                overspend=float(max(rung.bought.overspend for rung in rungs.values())),
            )


def told(weather: str, cells: list[Cell]) -> dict[str, object]:
    """What is printed of one weather."""
    shares = np.array([cell.shares for cell in cells])
    worst = min(cells, key=lambda cell: min(cell.shares))
    return {
        "weather": weather,
        "shares": shares.size,
        "at_least_098": float((shares >= SHARE).mean()),
        "mean": dict(zip(PACERS, shares.mean(axis=0).tolist(), strict=True)),
        "mean_dual": float(np.mean([cell.dual for cell in cells])),
        "worst": min(worst.shares),
        "worst_of_enough_wins": min(min(cell.shares) for cell in cells if cell.wins >= ENOUGH_WINS),
        "worst_cell": asdict(worst),
        "overspend": max(cell.overspend for cell in cells),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2, help="logs of each combination")
    parser.add_argument(
        "--weather", choices=WEATHER, help="only this one; without the barred one no bar is judged"
    )
    parser.add_argument("--json", action="store_true", help="the object alone")
    asked = parser.parse_args()
    lines = []
    for weather in WEATHER if asked.weather is None else (asked.weather,):
        began = time.perf_counter()
        line = told(weather, [cell for seed in range(1, asked.seeds + 1) for cell in measured(weather, seed)])
        lines.append(line)
        if not asked.json:
            print(
                f"{weather}: {line['shares']} shares, {100 * line['at_least_098']:.1f} % at least {SHARE}, "
                f"worst {line['worst']:.4f}, of {ENOUGH_WINS} wins or more {line['worst_of_enough_wins']:.4f}; means "
                + ", ".join(f"{name} {share:.4f}" for name, share in line["mean"].items())
                + f", dual {line['mean_dual']:.4f}; overspend {line['overspend']:g}; "
                f"{time.perf_counter() - began:.0f} s"
            )
            print(f"  worst: {line['worst_cell']}")
    bars = [
        {
            "name": f"{line['weather']}: worst share where {ENOUGH_WINS} auctions can be won",
            "figure": line["worst_of_enough_wins"],
            "bar": SHARE,
            "met": line["worst_of_enough_wins"] >= SHARE,
        }
        for line in lines
        if line["weather"] == BARRED
    ]
    overspend = max(line["overspend"] for line in lines)
    bars.append({"name": "overspend", "figure": overspend, "bar": 0.0, "met": overspend == 0.0})
    print(json.dumps({"lines": lines, "bars": bars}))
    return 0 if all(bar["met"] for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())

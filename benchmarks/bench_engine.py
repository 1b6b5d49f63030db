"""`make bench-engine`: how fast the engine is on one core, beside Stable-Baselines3 and Rejax in the same run.

Decides what is compared and whether the bars are met; engine_contest.py measures. This process is pinned to one core
and told to use one thread before JAX or torch is imported.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TextIO

from one_core import cores, pin_to

if TYPE_CHECKING:
    from engine_contest import Timed


@dataclass(frozen=True, kw_only=True)
class Bar:
    """What must hold of a line: the median of `figure(timed)` at least, or at most, `bar`. processor: the same figure
    from processor seconds, shown beside it and judged by nobody."""

    name: str
    figure: Callable[[Timed], Sequence[float]]
    bar: float
    at_most: bool = False
    processor: Callable[[Timed], Sequence[float]] | None = None

    def judged(self, timed: Timed) -> dict[str, Any]:
        """The bar as the JSON object tells it."""
        figures = list(self.figure(timed))
        found = statistics.median(figures)
        met = found <= self.bar if self.at_most else found >= self.bar
        told = {"name": self.name, "figure": found, "low": min(figures), "high": max(figures), "bar": self.bar,
                "at_most": self.at_most, "met": met}  # fmt: skip
        if self.processor is not None:
            told["in_processor_seconds"] = statistics.median(self.processor(timed))
        return told


def ratio(name: str, above: str, below: str, bar: float, *, at_most: bool = False) -> Bar:
    """At least, or at most, so many times, repetition by repetition."""
    return Bar(
        name=name, figure=lambda timed: timed.ratios(above, below), bar=bar, at_most=at_most,
        processor=lambda timed: timed.processor_ratios(above, below),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Line:
    """One measurement and its bars. unit: of the figures."""

    unit: str
    measure: Callable[[int], Timed]
    bars: tuple[Bar, ...]


def lines() -> dict[str, Line]:
    """Everything that is measured; imported late, after the process is pinned."""
    import engine_contest as contest

    acts = ("ppo_moves", "dqn_moves", "ppo_residuals", "sac_residuals")
    return {
        "ppo-update": Line(
            unit="ms per train_step",
            measure=contest.ppo_update,
            bars=(ratio("PPO update, times SB3", "sb3", "ours", 3.0),),
        ),
        "dqn-update": Line(
            unit="ms per gradient step",
            measure=lambda n: contest.replay_update("dqn", n),
            bars=(
                ratio("DQN update, times SB3", "sb3", "ours", 2.0),
                ratio("DQN update, times PyTorch eager of the same arithmetic", "torch", "ours", 2.0),
            ),
        ),
        "sac-update": Line(
            unit="ms per gradient step",
            measure=lambda n: contest.replay_update("sac", n),
            bars=(ratio("SAC update, times SB3", "sb3", "ours", 2.0),),
        ),
        "ppo-loop": Line(
            unit="steps per second",
            measure=contest.ppo_loop,
            bars=(
                ratio("PPO loop, play + train_step, times SB3", "plain", "sb3", 12.0),
                ratio("PPO loop, fused, of Rejax", "fused", "rejax", 0.9),
            ),
        ),
        "dqn-loop": Line(
            unit="steps per second",
            measure=contest.dqn_loop,
            bars=(ratio("DQN loop, times SB3", "ours", "sb3", 12.0),),
        ),
        "sac-loop": Line(
            unit="steps per second",
            measure=contest.sac_loop,
            bars=(ratio("SAC loop, times SB3", "ours", "sb3", 2.5),),
        ),
        "seeds": Line(
            unit="seconds",
            measure=contest.seeds_at_once,
            bars=(ratio("8 seeds at once, times one seed", "eight", "one", 8.0, at_most=True),),
        ),
        "act": Line(
            unit="microseconds (difference: of the actions or probabilities)",
            measure=contest.single_act,
            bars=(
                *(
                    Bar(
                        name=f"act, {kind}, microseconds",
                        figure=lambda t, k=kind: t.figures[k],
                        bar=100.0,
                        at_most=True,
                    )
                    for kind in acts
                ),
                Bar(
                    name="act, difference from the JAX policy",
                    figure=lambda t: t.figures["difference"],
                    bar=contest.EQUAL,
                    at_most=True,
                ),
            ),
        ),
    }


NAMES = ("ppo-update", "dqn-update", "sac-update", "ppo-loop", "dqn-loop", "sac-loop", "seeds", "act")


def show(name: str, line: Line, timed: Timed, say: TextIO) -> None:
    """One line's figures for people."""
    print(f"{name}, {line.unit}: median (smallest to largest)", file=say)
    for text in timed.told:
        print(f"  {text}", file=say)
    for who, figures in timed.figures.items():
        middle = statistics.median(figures)
        digits = 0 if middle >= 1_000 else 2 if middle >= 0.01 else 8
        compiling = (
            f"   compiling, left out: {timed.compiling_s[who]:.1f} s" if who in timed.compiling_s else ""
        )
        print(f"  {who:<16}{middle:>12,.{digits}f}   ({min(figures):,.{digits}f} to {max(figures):,.{digits}f})"
              f"{compiling}", file=say, flush=True)  # fmt: skip


def _beside(bar: dict[str, Any]) -> str:
    if "in_processor_seconds" not in bar:
        return ""
    return f"; in processor seconds {bar['in_processor_seconds']:.3g}"


def main() -> int:
    """Print the tables, then one JSON object on the last line; 0 only when every bar is met."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog='example: make bench-engine ARGS="--line ppo-loop"'
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

    from contestants import quiet

    quiet()
    say = sys.stderr if asked.json else sys.stdout
    packages = ", ".join(
        f"{p} {version(p)}" for p in ("jax", "torch", "stable-baselines3", "rejax", "gymnax")
    )
    print(f"{platform.machine()}, Python {platform.python_version()}, {packages}; one core, one thread each",
          file=say, flush=True)  # fmt: skip
    bars, figures = [], {}
    for name, line in lines().items():
        if asked.line is not None and name not in asked.line:
            continue
        timed = line.measure(asked.repetitions)
        show(name, line, timed, say)
        judged = [bar.judged(timed) for bar in line.bars]
        for bar in judged:
            print(
                f"  bar: {bar['name']}: {bar['figure']:.3g} ({bar['low']:.3g} to {bar['high']:.3g}"
                f"{_beside(bar)}), "
                f"{'at most' if bar['at_most'] else 'at least'} {bar['bar']:g}: {'met' if bar['met'] else 'not met'}",
                file=say, flush=True,
            )  # fmt: skip
        bars += judged
        figures[name] = {
            "unit": line.unit,
            "figures": dict(timed.figures),
            "compiling_s": dict(timed.compiling_s),
        }
    print(json.dumps({"bars": bars, "lines": figures, "repetitions": asked.repetitions}))
    return 0 if all(bar["met"] for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())

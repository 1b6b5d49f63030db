"""Contestants timed turn by turn, and the bars their figures must meet: what the side-by-side benchmarks share.

It computes nothing itself and imports nothing that does, so that a process can be pinned before.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO


@dataclass(frozen=True, kw_only=True)
class Timed:
    """figures: by contestant, one figure for each repetition. processor: the same from processor seconds, which stay
    true on a busy machine. compiling_s: by contestant, the first call less a later one. told: what else a reader must
    know."""

    figures: Mapping[str, list[float]]
    processor: Mapping[str, list[float]]
    compiling_s: Mapping[str, float]
    told: tuple[str, ...] = field(default=())

    def ratios(self, above: str, below: str) -> list[float]:
        """Repetition by repetition."""
        return _ratios(self.figures, above, below)

    def processor_ratios(self, above: str, below: str) -> list[float]:
        """The same from processor seconds."""
        return _ratios(self.processor, above, below)


def _ratios(figures: Mapping[str, list[float]], above: str, below: str) -> list[float]:
    return [a / b for a, b in zip(figures[above], figures[below], strict=True)]


Work = Callable[[], float]
"""Does it once; answers with how much was done (steps, updates)."""


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Wall and processor seconds for one unit of work, by contestant and repetition; and the seconds of each one's
    first call beyond a second one, which is where it compiles."""

    wall: dict[str, list[float]]
    processor: dict[str, list[float]]
    compiling_s: dict[str, float]

    def shown(self, per_unit: Callable[[float], float], *told: str) -> Timed:
        """As figures: `per_unit` turns seconds for one unit of work into what a reader is shown."""

        def figures(seconds: dict[str, list[float]]) -> dict[str, list[float]]:
            return {name: [per_unit(s) for s in each] for name, each in seconds.items()}

        return Timed(
            figures=figures(self.wall), processor=figures(self.processor), compiling_s=self.compiling_s, told=told
        )  # fmt: skip


def take_turns(works: Mapping[str, Work], repetitions: int) -> Turns:
    """Run every work once to compile, once more, and then by turns, in an order that turns with every repetition."""
    compiling = {}
    for name, work in works.items():
        first, second = _spent(work), _spent(work)
        compiling[name] = max(0.0, first.wall - second.wall)
    turns = Turns(wall={n: [] for n in works}, processor={n: [] for n in works}, compiling_s=compiling)
    for repetition in range(repetitions):
        for name in tuple(works)[:: 1 if repetition % 2 == 0 else -1]:
            spent = _spent(works[name])
            turns.wall[name].append(spent.wall / spent.done)
            turns.processor[name].append(spent.processor / spent.done)
    return turns


@dataclass(frozen=True, kw_only=True)
class _Spent:
    wall: float
    processor: float
    done: float


def _spent(work: Work) -> _Spent:
    wall, processor = time.perf_counter(), time.process_time()
    done = work()
    return _Spent(wall=time.perf_counter() - wall, processor=time.process_time() - processor, done=done)


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


def judge(lines: Mapping[str, Line], repetitions: int, say: TextIO) -> int:
    """Measure every line, tell people, then one JSON object on the last line of standard output; the exit code."""
    bars, figures = [], {}
    for name, line in lines.items():
        timed = line.measure(repetitions)
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
    print(json.dumps({"bars": bars, "lines": figures, "repetitions": repetitions}))
    return 0 if all(bar["met"] for bar in bars) else 1

"""`make bench-saboteurs`: what learning verification says of learners that do not learn, and of those that do.

Each algorithm is a process of its own, two at a time. Bars: no saboteur is ever LEARNING; honest runs are in at least
95 of 100; where nothing can be learned at most 5 % are, with the Clopper-Pearson bound beside it; and each part of the
verdict alone keeps some run from being LEARNING, so that a verifier with that part stubbed would be found out here.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from scipy.stats import beta

ALGORITHMS = ("ppo", "dqn", "sac")
PARTS = ("mechanism", "canaries", "paired_return", "controls", "health")
STUBS = ("mechanism", "canaries", "paired_return", "controls")
"""Parts that a saboteur meets alone. No saboteur here has nothing but bad health; a unit test holds that part."""
HONEST_SHARE, NULL_SHARE = 0.95, 0.05
NULLS = ("nothing to learn", "rewards shuffled by the world")


def upper_bound(successes: int, runs: int, confidence: float = 0.95) -> float:
    """Clopper-Pearson: the largest rate under which so few successes would still have probability 1 - confidence."""
    return 1.0 if successes == runs else float(beta.ppf(confidence, successes + 1, runs - successes))


def lower_bound(successes: int, runs: int, confidence: float = 0.95) -> float:
    """Clopper-Pearson from below."""
    return 0.0 if successes == 0 else float(beta.ppf(1 - confidence, successes, runs - successes + 1))


def measure(name: str, runs: int, only: str) -> list[dict[str, Any]]:
    """All saboteurs of one algorithm, in a process of its own."""
    import saboteurs

    bench = saboteurs.set_up(name, runs)
    lines = []
    for saboteur in (saboteurs.HONEST, *saboteurs.NULLS, *saboteurs.SABOTEURS):
        if name not in saboteur.only or only not in saboteur.name:
            continue
        began = time.perf_counter()
        told = saboteurs.play_out(bench, saboteur)
        line = {
            "algorithm": name, "saboteur": saboteur.name, "runs": len(told.verdicts), "learning": told.learning,
            "outcomes": told.outcomes(), "denied_by": {part: told.denied_by(part) for part in PARTS},
            "denied_by_alone": {part: told.denied_by_alone(part) for part in PARTS},
            "for_instance": next((v.reason for v in told.verdicts if not v), ""),
            "seconds": round(time.perf_counter() - began, 1),
        }  # fmt: skip
        print(
            f"{name}: {saboteur.name}: LEARNING {told.learning} of {line['runs']} ({line['seconds']} s)",
            file=sys.stderr,
        )
        lines.append(line)
    return lines


def bars(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What must hold of them."""
    found: list[dict[str, Any]] = []
    for line in lines:
        n, k = line["runs"], line["learning"]
        what = {"name": f"{line['algorithm']}: {line['saboteur']}", "learning": k, "runs": n}
        if line["saboteur"] == "honest":
            asked, bound, met = f"at least {HONEST_SHARE:.0%}", lower_bound(k, n), k >= HONEST_SHARE * n
        elif line["saboteur"] in NULLS:
            asked, bound, met = f"at most {NULL_SHARE:.0%}", upper_bound(k, n), k <= NULL_SHARE * n
        else:
            asked, bound, met = "none", upper_bound(k, n), k == 0
        found.append({**what, "bar": asked, "bound": bound, "met": met})
    for part in STUBS:
        alone = sum(line["denied_by_alone"][part] for line in lines if line["saboteur"] != "honest")
        found.append(
            {"name": f"a stub of {part} is found out", "runs_it_alone_keeps_out": alone, "met": alone > 0}
        )
    return found


def table(lines: list[dict[str, Any]]) -> str:
    """In Markdown: verdicts, and how many runs each part kept out."""
    heads = ["saboteur", "algorithm", "LEARNING", "95 % bound", *PARTS]
    rows = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for line in sorted(lines, key=lambda line: _place(line, lines)):
        n, k = line["runs"], line["learning"]
        bound = f"> {lower_bound(k, n):.1%}" if line["saboteur"] == "honest" else f"< {upper_bound(k, n):.1%}"
        cells = [line["saboteur"], line["algorithm"], f"{k} of {n}", bound]
        rows.append("| " + " | ".join([*cells, *(str(line["denied_by"][part]) for part in PARTS)]) + " |")
    return "\n".join(rows)


def _place(line: Mapping[str, Any], lines: list[dict[str, Any]]) -> tuple[int, int]:
    names = list(dict.fromkeys(each["saboteur"] for each in lines))
    return names.index(line["saboteur"]), ALGORITHMS.index(line["algorithm"])


def main() -> int:
    """Exit code 0 only when every bar is met."""
    parser = argparse.ArgumentParser(prog="bench_saboteurs", description=main.__doc__)
    parser.add_argument("--runs", type=int, default=100, help="of each saboteur")
    parser.add_argument("--algorithm", choices=ALGORITHMS, action="append")
    parser.add_argument("--only", default="", help="saboteurs whose name holds this")
    told = parser.parse_args()
    names = tuple(told.algorithm or ALGORITHMS)
    began = time.perf_counter()
    with ProcessPoolExecutor(max_workers=2, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        # The slowest first, so that the two cores end together.
        done = {name: pool.submit(measure, name, told.runs, told.only) for name in reversed(names)}
        lines = [line for name in names for line in done[name].result()]
    whole = not told.only and len(names) == len(ALGORITHMS)
    found = bars(lines) if whole else [bar for bar in bars(lines) if "stub" not in bar["name"]]
    print(table(lines))
    print("\nUnder each part: how many runs it did not pass. Bounds: Clopper-Pearson, one-sided.")
    for bar in found:
        if not bar["met"]:
            print(f"not met: {bar}")
    machine = {"python": platform.python_version(), "machine": platform.machine()}
    seconds = round(time.perf_counter() - began, 1)
    print(json.dumps({"bars": found, "lines": lines, "seconds": seconds, **machine}))
    return 0 if all(bar["met"] for bar in found) else 1


if __name__ == "__main__":
    sys.exit(main())

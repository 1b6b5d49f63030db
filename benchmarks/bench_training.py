"""`make bench`: our PPO against Stable-Baselines3's on the same campaign market, in steps per second on one core.

Decides what is compared and whether the bar is met; training_contest.py measures. This process is pinned to
one core and told to use one thread before JAX or torch is imported, since neither listens afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

BAR = 2.5
ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "JAX_PLATFORMS": "cpu",
    **{f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")},
}


def pin_to_one_core() -> None:
    """One core for everything in this process, where the system can be asked for that."""
    os.environ.update(ONE_THREAD)
    if sys.platform == "linux":
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    else:
        print(
            "this system cannot pin a process to one core: both contestants may use more than one",
            file=sys.stderr,
        )


def main() -> int:
    """Print the tables, then one JSON object on the last line; 0 only when every bar is met."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="example: make bench ARGS=--quick"
    )
    parser.add_argument(
        "--steps", type=int, default=38_400, help="decisions each contestant trains on (default: %(default)s)"
    )
    parser.add_argument(
        "--repetitions", type=int, default=5, help="how often each trains anew (default: %(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a glance while developing: 3 repetitions of 5,760 decisions"
    )
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    asked = parser.parse_args()
    if asked.steps < 1 or asked.repetitions < 1:
        parser.error("--steps and --repetitions must both be at least 1")
    pin_to_one_core()

    from training_contest import Contest, Told

    steps, repetitions = (5_760, 3) if asked.quick else (asked.steps, asked.repetitions)
    say = Told(sys.stderr if asked.json else sys.stdout)
    found = Contest(steps=steps, repetitions=repetitions, say=say).run()
    ratio = found["steps_per_second_ratio"]
    bars = [
        {
            "name": "steps_per_second_ratio",
            "figure": ratio["median"],
            "bar": BAR,
            "met": ratio["median"] >= BAR,
        }
    ]
    say.line(f"bar: at least {BAR} times Stable-Baselines3's steps per second, median: "
             f"{ratio['median']:.2f}, {'met' if bars[0]['met'] else 'not met'}")  # fmt: skip
    print(json.dumps({"bars": bars, **found}))
    return 0 if all(bar["met"] for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())

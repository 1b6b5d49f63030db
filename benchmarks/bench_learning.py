"""`make bench-learning`: do PPO, DQN and SAC learn as well as the best? Peers train in the same run, with the settings
of rl-baselines3-zoo and of Rejax's own configs.

Every contestant trains on every task with the same seeds, one core each; its deterministic policy is then judged on 100
episodes in Gymnasium itself. A run's score is the mean of those; a contestant's is the interquartile mean over its
runs, with a 95 % bootstrap interval that draws runs anew for each contestant apart (Agarwal et al. 2021).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, TextIO

from learning_tasks import OURS, TASKS, Task
from one_core import ONE_THREAD, cores, pin_to

RESAMPLES = 10_000
JUDGED_FROM = 1_000_000
"""Seeds of the episodes that judge; those of training are small numbers."""
SLOWEST_FIRST = ("dqn-acrobot", "sac-pendulum", "ppo-pendulum", "ppo-cartpole", "dqn-cartpole")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training of one contestant, and what its deterministic policy then earned."""

    task: str
    who: str
    seed: int
    steps: int
    seconds: float
    returns: tuple[float, ...]

    @property
    def score(self) -> float:
        """The mean return over all episodes it was judged on."""
        return sum(self.returns) / len(self.returns)


def one_run(task_name: str, who: str, seed: int, steps: int) -> Run:
    """In a worker: train and judge."""
    from classic_tasks import returns_in_gymnasium
    from contestants import quiet, train

    quiet()
    task = TASKS[task_name]
    trained = train(who, task, seed, steps)
    returns = returns_in_gymnasium(task.environment, trained.judged, JUDGED_FROM + seed)
    return Run(task=task_name, who=who, seed=seed, steps=trained.steps, seconds=trained.seconds,
               returns=tuple(returns.tolist()))  # fmt: skip


def same_tasks(names: Sequence[str]) -> dict[str, float]:
    """In a worker: the largest difference between both worlds of each environment."""
    from classic_tasks import check_same_task

    return {name: check_same_task(name) for name in names}


def interquartile_mean(scores: Any) -> Any:
    """The mean of the middle half along the last axis; of five it leaves out the best and the worst."""
    from scipy.stats import trim_mean

    return trim_mean(scores, 0.25, axis=-1)


def resampled(scores: Sequence[float], seed: int) -> Any:
    """IQMs [RESAMPLES] of runs drawn with replacement."""
    import numpy as np

    rng = np.random.default_rng(seed)
    return interquartile_mean(np.asarray(scores)[rng.integers(len(scores), size=(RESAMPLES, len(scores)))])


def interval(figures: Any) -> tuple[float, float]:
    """The middle 95 %."""
    import numpy as np

    low, high = np.quantile(figures, (0.025, 0.975))
    return float(low), float(high)


def judge(task: Task, runs: Sequence[Run], say: TextIO) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Bars and figures of one task: ours reaches its bar, and is not below a peer beyond the interval."""
    scores = {
        who: [run.score for run in runs if run.task == task.name and run.who == who]
        for who in task.contestants
    }
    present = [who for who in task.contestants if scores[who]]
    draws = {who: resampled(scores[who], seed) for seed, who in enumerate(present)}
    figures: dict[str, Any] = {}
    for who in present:
        mine = [run for run in runs if run.task == task.name and run.who == who]
        iqm, (low, high) = float(interquartile_mean(scores[who])), interval(draws[who])
        seconds = sorted(run.seconds for run in mine)[len(mine) // 2]
        figures[who] = {"iqm": iqm, "low": low, "high": high, "scores": scores[who], "seconds": seconds,
                        "steps": mine[0].steps}  # fmt: skip
        print(f"  {task.name:<14}{who:<19}{iqm:>9.1f}   [{low:.1f}, {high:.1f}]   runs "
              f"{' '.join(f'{s:.0f}' for s in sorted(scores[who]))}   {seconds:,.0f} s each",
              file=say, flush=True)  # fmt: skip
    bars = [
        {
            "name": f"{task.name}: reaches",
            "figure": figures[OURS]["iqm"],
            "bar": task.bar,
            "met": figures[OURS]["iqm"] >= task.bar,
        }
    ]
    for who in present[1:]:
        low, high = interval(draws[OURS] - draws[who])
        figures[who]["ours_minus_it"] = {"low": low, "high": high}
        bars.append({"name": f"{task.name}: ours minus {who}, upper end of the interval", "figure": high, "bar": 0.0,
                     "met": high >= 0.0})  # fmt: skip
    return bars, figures


def _worker(free: Any) -> None:
    pin_to(free.get())


def main() -> int:
    """Print the tables, then one JSON object on the last line; 0 only when every bar is met."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog='example: make bench-learning ARGS="--task ppo-cartpole --only-ours"',
    )
    parser.add_argument(
        "--task", action="append", choices=tuple(TASKS), help="one task; may be repeated (default: all)"
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs of each contestant (default: %(default)s)")
    parser.add_argument("--only-ours", action="store_true", help="leave the peers out, and their bars")
    parser.add_argument(
        "--jobs", type=int, default=2, help="trainings at once, one core each (default: %(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the steps: does it run? Its bars mean nothing"
    )
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    asked = parser.parse_args()
    if asked.seeds < 2 or asked.jobs < 1:
        parser.error("--seeds must be at least 2 and --jobs at least 1")
    if asked.jobs > len(cores()):
        parser.error(f"--jobs {asked.jobs}: only {len(cores())} cores here, and each training needs its own")
    say = sys.stderr if asked.json else sys.stdout
    tasks = [TASKS[name] for name in SLOWEST_FIRST if asked.task is None or name in asked.task]
    share = 10 if asked.quick else 1

    os.environ.update(ONE_THREAD)
    began = time.perf_counter()
    started = multiprocessing.get_context("spawn")
    free = started.Queue()
    for core in cores()[: asked.jobs]:
        free.put(core)
    runs: list[Run] = []
    with ProcessPoolExecutor(asked.jobs, mp_context=started, initializer=_worker, initargs=(free,)) as pool:
        differs = pool.submit(same_tasks, sorted({task.environment for task in tasks})).result()
        for name, worst in differs.items():
            print(f"{name}: gymnax and Gymnasium differ by at most {worst:.1e} after a step from the same state",
                  file=say, flush=True)  # fmt: skip
        wanted: list[Future[Run]] = [
            pool.submit(one_run, task.name, who, seed, task.steps // share)
            # Peers first: they take longest, and a short run at the end leaves no core waiting.
            for who_is_ours in (False, True)
            for task in tasks
            for who in task.contestants
            if (who == OURS) is who_is_ours and not (asked.only_ours and who != OURS)
            for seed in range(1, asked.seeds + 1)
        ]
        for done in as_completed(wanted):
            run = done.result()
            runs.append(run)
            print(f"  {len(runs)} of {len(wanted)}: {run.task}, {run.who}, seed {run.seed}: {run.score:.1f} after "
                  f"{run.steps:,} steps and {run.seconds:,.0f} s", file=say, flush=True)  # fmt: skip
    minutes = (time.perf_counter() - began) / 60
    runs.sort(key=lambda run: run.seed)
    print(f"deterministic return, interquartile mean of {asked.seeds} runs [95 % interval], seconds with compiling, "
          f"{asked.jobs} at once; {minutes:.0f} minutes in all", file=say)  # fmt: skip
    bars: list[dict[str, Any]] = []
    figures: dict[str, Any] = {}
    for task in tasks:
        found, figures[task.name] = judge(task, runs, say)
        bars += found
    for bar in bars:
        print(f"bar: {bar['name']}: {bar['figure']:.1f}, at least {bar['bar']:g}: "
              f"{'met' if bar['met'] else 'not met'}", file=say)  # fmt: skip
    print(json.dumps({"bars": bars, "tasks": figures, "seeds": asked.seeds, "minutes": minutes, "quick": asked.quick,
                      "differences": differs}))  # fmt: skip
    return 0 if all(bar["met"] for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())

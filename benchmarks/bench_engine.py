"""`make bench-engine`: how fast the engine is on one core, beside Stable-Baselines3 and Rejax in the same run.

Decides what is compared and whether the bars are met; engine_contest.py measures. This process is pinned to one core
and told to use one thread before JAX or torch is imported.
"""

from __future__ import annotations

import argparse
import platform
import sys
from importlib.metadata import version

from one_core import cores, pin_to
from side_by_side import Bar, Line, judge, ratio


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
            # sb3 is shown beside it and is no bar: its DQN is plain, a quarter less arithmetic than double and dueling.
            bars=(ratio("DQN update, times PyTorch eager of the same arithmetic", "torch", "ours", 2.0),),
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
    chosen = {name: line for name, line in lines().items() if asked.line is None or name in asked.line}
    return judge(chosen, asked.repetitions, say)


if __name__ == "__main__":
    sys.exit(main())

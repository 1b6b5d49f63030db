"""A fast part of the saboteur suite: few runs of PPO, the whole of it is `make bench-saboteurs`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from benchmarks import saboteurs
from benchmarks.bench_saboteurs import NULLS as NULL_NAMES
from benchmarks.bench_saboteurs import bars, lower_bound, upper_bound
from benchmarks.saboteurs import HONEST, NULLS, SABOTEURS, Bench, Told, play_out, set_up
from tests.learn import toys

from gaelp.core.verdict import FAIL, PASS, WAIT, Verdict
from gaelp.learn import tabular
from gaelp.learn.verify import LearningVerdict, Outcome

RUNS = 6
NAMED = {saboteur.name: saboteur for saboteur in SABOTEURS}
FAST = (
    "frozen weights", "learning rate 0", "noise instead of gradients", "loss with flipped sign", "shuffled rewards",
    "learner trains a copy", "evaluation on training seeds", "always the highest bid", "the world became easier",
)  # fmt: skip


@pytest.fixture(scope="module")
def bench() -> Bench:
    """Six untrained agents and their twins; canaries are taken as found, so that the other parts must speak."""
    return set_up("ppo", RUNS, toys.FOUND)


@pytest.fixture(scope="module")
def honest(bench: Bench) -> Told:
    return play_out(bench, HONEST)


def test_the_middle_bid_is_the_best_constant_and_bidding_by_value_earns_a_quarter_more() -> None:
    world = saboteurs.ad_world()
    constants = [
        float(tabular.worth(world, np.full(16, move), saboteurs.STEPS)) for move in range(saboteurs.MOVES)
    ]
    assert int(np.argmax(constants)) == saboteurs.SCHEMA.zero_move
    assert float(tabular.best_worth(world, saboteurs.STEPS)) / max(constants) == pytest.approx(1.27, abs=0.01)


def test_in_the_null_world_every_policy_expects_the_same() -> None:
    world = saboteurs.null_world()
    rng = np.random.default_rng(0)
    worths = [float(tabular.worth(world, rng.integers(0, 8, 16), saboteurs.STEPS)) for _ in range(5)]
    assert worths == pytest.approx([0.6] * 5, abs=1e-5)


def test_the_suite_counts_as_null_what_is_null() -> None:
    assert tuple(saboteur.name for saboteur in NULLS) == NULL_NAMES


def test_honest_learners_are_learning(honest: Told) -> None:
    assert honest.outcomes() == {"LEARNING": RUNS}


def test_where_nothing_can_be_learned_nobody_is_learning(bench: Bench) -> None:
    assert play_out(bench, NULLS[0]).learning == 0


@pytest.mark.parametrize("name", FAST)
def test_a_saboteur_is_never_learning(bench: Bench, name: str) -> None:
    told = play_out(bench, replace(NAMED[name], own_canaries=False))
    assert told.learning == 0, told.outcomes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["what was cut counts as ended", "gamma is 1"])
def test_what_only_a_canary_can_tell_is_told_by_the_canary(bench: Bench, name: str) -> None:
    # Days of the ad world neither are cut nor discount: only the canaries meet the spoilt line at all.
    told = play_out(bench, NAMED[name])
    assert told.learning == 0
    assert told.denied_by_alone("canaries") == RUNS


@pytest.mark.parametrize("part", ["mechanism", "canaries", "paired_return", "controls", "health"])
@pytest.mark.parametrize("ruling", [FAIL, WAIT])
def test_a_verifier_with_one_part_stubbed_would_let_something_through(
    honest: Told, part: str, ruling: object
) -> None:
    # The mutant replaces `part` by PASS. The evidence below is refused for that part alone, so the mutant is seen.
    from gaelp.learn.verify import _weigh

    parts = dict(honest.verdicts[0].parts)
    assert _weigh(parts)[0] is Outcome.LEARNING
    spoilt = parts | {part: Verdict(ruling, part, "a test says so.")}  # type: ignore[arg-type]
    assert _weigh(spoilt)[0] is not Outcome.LEARNING
    assert _weigh(spoilt | {part: Verdict(PASS, part, "stub.")})[0] is Outcome.LEARNING


def test_only_learning_is_truthy(honest: Told) -> None:
    for outcome in Outcome:
        assert bool(LearningVerdict(outcome, "why.", {}, {})) is (outcome is Outcome.LEARNING)
    assert honest.denied_by("health") == 0


def test_bounds_are_those_of_clopper_and_pearson() -> None:
    # 0 of 100: (1 - p)^100 = 0.05 at p = 1 - 0.05^(1/100) = 0.02951. 100 of 100: p^100 = 0.05.
    assert upper_bound(0, 100) == pytest.approx(1 - 0.05**0.01)
    assert lower_bound(100, 100) == pytest.approx(0.05**0.01)
    assert (upper_bound(5, 5), lower_bound(0, 5)) == (1.0, 0.0)


def line(name: str, learning: int, alone: int) -> dict[str, object]:
    parts = ("mechanism", "canaries", "paired_return", "controls", "health")
    return {
        "algorithm": "ppo", "saboteur": name, "runs": 100, "learning": learning,
        "denied_by_alone": dict.fromkeys(parts, alone),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "met"),
    [
        ([line("honest", 95, 0), line("nothing to learn", 5, 0), line("frozen weights", 0, 1)], True),
        ([line("honest", 94, 0), line("frozen weights", 0, 1)], False),
        ([line("nothing to learn", 6, 0), line("frozen weights", 0, 1)], False),
        ([line("frozen weights", 1, 1)], False),
        # No run is kept out by one part alone: a stub of that part would go unnoticed.
        ([line("frozen weights", 0, 0)], False),
    ],
)
def test_the_bars_of_the_suite(lines: list[dict[str, object]], met: bool) -> None:
    assert all(bar["met"] for bar in bars(lines)) is met

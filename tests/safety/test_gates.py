"""The gate table: WAIT is never dressed as a pass, and FAIL goes nowhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from gaelp.core.errors import BadInput
from gaelp.core.verdict import FAIL, PASS, WAIT, Ruling, Verdict
from gaelp.safety.gates import (
    fidelity_gate,
    historical_gate,
    history_fidelity_gate,
    live_gate,
    may_continue,
    promotion_gate,
    ramp_step_gate,
    replay_gate,
    simulation_gate,
)


@dataclass(frozen=True)
class Estimate:
    """An off-policy result that could not look better."""

    episodes: int = 10_000
    estimate: float = 5.0
    standard_error: float = 0.01
    ess: float = 9_900.0
    ess_share: float = 0.99
    final_mean_weight: float = 1.0
    worst_z: float = 0.1


@dataclass(frozen=True)
class PlaceboRun:
    estimate: float = 1.25
    empirical_mean: float = 1.25

    @property
    def exact(self) -> bool:
        return self.estimate == self.empirical_mean


def ruled(ruling: Ruling) -> Verdict:
    return Verdict(ruling, "learning", f"it is {ruling.name}")


@pytest.mark.parametrize(
    ("learning", "fidelity", "gate"),
    [
        (PASS, PASS, PASS), (WAIT, PASS, WAIT), (FAIL, PASS, FAIL), (PASS, WAIT, WAIT), (WAIT, WAIT, WAIT),
        (FAIL, WAIT, FAIL), (PASS, FAIL, FAIL), (WAIT, FAIL, FAIL), (FAIL, FAIL, FAIL),
    ],
)  # fmt: skip
def test_the_simulation_gate_passes_an_agent_that_learned_in_worlds_like_the_account(
    learning, fidelity, gate
) -> None:
    assert simulation_gate(ruled(learning), ruled(fidelity)).ruling is gate


@dataclass(frozen=True)
class HeldOut:
    surprise: float = 0.5
    held_out_days: int = 18
    conversions: int = 4000


@pytest.mark.parametrize(
    ("seen", "ruling", "said"),
    [
        (HeldOut(), PASS, "50.0% of the fitted worlds' days stray as far"),
        (HeldOut(surprise=0.1), PASS, "10.0%"),
        (HeldOut(surprise=0.0999), WAIT, "at least 10% expected"),
        (HeldOut(surprise=0.0099), FAIL, "only 1.0% of the fitted worlds' days"),
        (HeldOut(surprise=0.001, held_out_days=3), WAIT, "3 held-out days with 4000 conversions; 4 days with 100 are"),
        (HeldOut(conversions=99), WAIT, "18 held-out days with 99 conversions"),
    ],
)  # fmt: skip
def test_worlds_that_hold_nothing_like_the_later_days_are_refused(seen, ruling, said) -> None:
    verdict = history_fidelity_gate(seen)
    assert verdict.ruling is ruling
    assert said in verdict.reason


@dataclass(frozen=True)
class Compared:
    """A fit as good as the log it was made from."""

    ks: float = 0.05
    ks_reference: float = 0.05
    surprise: float = 0.5
    fitted_won: int = 1000
    held_out_won: int = 1000
    only_price: float | None = None


@pytest.mark.parametrize(
    ("change", "ruling", "words"),
    [
        ({}, PASS, "off by 0.050, the log's own curve 0.050"),
        ({"ks": 0.07}, PASS, "off by 0.070"),
        ({"ks": 0.071}, FAIL, "off by 0.071, the log's own curve 0.050 (+ 0.02 allowed)"),
        ({"surprise": 0.1}, PASS, "off by 0.050"),
        (
            {"surprise": 0.0999},
            WAIT,
            "only 10.0% of the fitted worlds stray as far as the held-out part does",
        ),
        ({"surprise": 0.01}, WAIT, "only 1.0% of the fitted worlds"),
        ({"surprise": 0.0099}, FAIL, "only 1.0% of the fitted worlds"),
        ({"surprise": 0.0099}, FAIL, "A longer log tells more of its drift."),
        (
            {"surprise": 0.0, "only_price": 50.0},
            FAIL,
            "expected. Every auction that was won cost 50: one price shows no",
        ),
        ({"only_price": 50.0}, PASS, "off by 0.050"),
        ({"fitted_won": 999}, WAIT, "999 auctions were won in the fitted part and 1000 in the held-out part"),
        ({"held_out_won": 3, "ks": 0.9, "surprise": 0.0}, WAIT, "1000 in each are needed"),
    ],
)
def test_fitted_worlds_must_show_what_a_later_part_of_the_log_shows(
    change: dict[str, Any], ruling: Ruling, words: str
) -> None:
    verdict = fidelity_gate(Compared(**change))
    assert verdict.ruling is ruling
    assert words in verdict.reason
    assert verdict.evidence["held_out_won"] == Compared(**change).held_out_won


def test_the_historical_gate_waits_however_good_the_estimate_is_and_names_its_figures() -> None:
    verdict = historical_gate(Estimate(), PlaceboRun(), None)
    assert verdict.ruling is WAIT
    assert "effective sample size 9900.0 of 10000 episodes" in verdict.reason
    assert "mean weight 1.000" in verdict.reason


def test_a_low_sample_or_a_mean_weight_off_one_waits_too() -> None:
    poor = replace(Estimate(), ess=1.2, final_mean_weight=0.3, worst_z=-9.0)
    assert historical_gate(poor, PlaceboRun(), None).ruling is WAIT


def test_the_historical_gate_fails_for_broken_propensities_or_a_failed_placebo_alone() -> None:
    fault = historical_gate(
        None, None, "episode 3, step 0: the behaviour's log probability is missing (NaN)."
    )
    assert fault.ruling is FAIL
    assert "episode 3, step 0" in fault.reason
    assert historical_gate(Estimate(), PlaceboRun(estimate=1.2500001), None).ruling is FAIL
    with pytest.raises(BadInput):
        historical_gate(None, None, None)


def test_the_live_gate_waits_and_says_why() -> None:
    verdict = live_gate("scaled", 40, 12)
    assert verdict.ruling is WAIT
    assert "live statistical gates are not built yet" in verdict.reason
    assert "40 unit-days" in verdict.reason


READY: dict[str, Any] = {
    "days_played": 3,
    "days_needed": 3,
    "guard_tripped": None,
    "learning": ruled(PASS),
    "available_micros": 100,
    "needed_micros": 100,
}


@pytest.mark.parametrize(
    ("change", "ruling", "words"),
    [
        ({}, PASS, "3 days played"),
        ({"days_played": 2}, WAIT, "2 of 3 days"),
        ({"available_micros": 99}, WAIT, "needs 100 micros, 99"),
        ({"learning": ruled(WAIT)}, WAIT, "Agent not learning!"),
        ({"learning": ruled(FAIL)}, WAIT, "Agent not learning!"),
        (
            {"guard_tripped": Verdict(FAIL, "spend_velocity", "too fast")},
            FAIL,
            "guard spend_velocity tripped",
        ),
        ({"guard_tripped": Verdict(FAIL, "x", "y"), "days_played": 0}, FAIL, "guard x tripped"),
    ],
)
def test_a_ramp_step_asks_its_days_no_guard_learning_and_its_grant(
    change: dict[str, Any], ruling: Ruling, words: str
) -> None:
    verdict = ramp_step_gate(**READY | change)
    assert verdict.ruling is ruling
    assert words in verdict.reason


@pytest.mark.parametrize(
    ("judging", "certification", "ruling"),
    [
        (PASS, PASS, PASS), (PASS, WAIT, PASS), (PASS, FAIL, FAIL), (WAIT, PASS, WAIT),
        (WAIT, FAIL, FAIL), (FAIL, WAIT, FAIL), (FAIL, PASS, FAIL),
    ],
)  # fmt: skip
def test_promotion_needs_the_judging_worlds_and_no_failed_certification(
    judging: Ruling, certification: Ruling, ruling: Ruling
) -> None:
    assert promotion_gate(ruled(judging), ruled(certification)).ruling is ruling


@pytest.mark.parametrize("ruling", list(Ruling))
@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("sandbox", [False, True])
def test_only_a_declared_wait_on_a_sandbox_goes_on_and_a_fail_never(
    ruling: Ruling, declared: bool, sandbox: bool
) -> None:
    verdict = may_continue(ruled(ruling), declared=declared, sandbox=sandbox)
    goes_on = ruling is PASS or (ruling is WAIT and declared and sandbox)
    assert (verdict.ruling is PASS) == goes_on
    assert goes_on or verdict.ruling is ruling


# ---- exact replay


@dataclass(frozen=True)
class Replay:
    """The agent beside the pacer on 40 recorded episodes, ahead beyond doubt."""

    episodes: int = 40
    mean: float = 0.05
    lower: float = 0.01
    upper: float = 0.09
    plain_mean: float = 0.06
    clip: float = 0.25


def test_a_replay_passes_when_the_whole_interval_and_the_plain_mean_are_above_0() -> None:
    verdict = replay_gate(Replay())
    assert verdict.ruling is PASS
    assert "+0.0500 [+0.0100, +0.0900]" in verdict.reason
    assert "40 replayed episodes" in verdict.reason


def test_a_replay_fails_when_nothing_of_the_interval_is_above_0() -> None:
    assert replay_gate(Replay(mean=-0.05, lower=-0.09, upper=0.0, plain_mean=0.2)).ruling is FAIL


def test_a_replay_that_is_not_settled_waits_and_says_how_many_episodes_would_settle_it() -> None:
    # From 0.05 down to -0.05 is twice the mean: four times 40 episodes.
    verdict = replay_gate(Replay(lower=-0.05))
    assert verdict.ruling is WAIT
    assert "about 160 episodes" in verdict.reason


def test_an_agent_that_is_not_ahead_is_promised_nothing_of_a_longer_log() -> None:
    verdict = replay_gate(Replay(mean=-0.01, lower=-0.05, upper=0.03))
    assert verdict.ruling is WAIT
    assert "no longer log would pass" in verdict.reason
    assert replay_gate(Replay(mean=0.0, lower=-0.05, upper=0.03)).ruling is WAIT


def test_clipped_differences_alone_pass_nobody() -> None:
    verdict = replay_gate(Replay(plain_mean=-0.001))
    assert verdict.ruling is WAIT
    assert "a few auctions decide" in verdict.reason

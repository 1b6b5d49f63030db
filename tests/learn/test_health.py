"""Vital signs: what is alarming is told, what is not finite or dead vetoes, and the rest only annotates."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import jax.numpy as jnp
import numpy as np
import pytest

from gaelp.core.errors import BadInput
from gaelp.core.verdict import FAIL, PASS
from gaelp.learn.health import Vitals, judge_health, units
from gaelp.learn.metrics import Change, TrainingMetrics, Units
from gaelp.learn.networks import Layer
from gaelp.learn.normalise import unscaled
from gaelp.learn.policies import SoftCategorical


def call(**changed: object) -> TrainingMetrics:
    given = {
        "algorithm": "ppo", "call": 1, "updates": 10, "transitions": 10, "simulated_transitions": 10,
        "batch_size": 10, "num_epochs": 1, "learning_rate": 1e-3, "weight_change": Change(0.1, 0.01),
        "weight_change_by_tensor": {"w": Change(0.1, 0.01)}, "min_update_change": 0.01, "loss": 0.1,
        "parts": {"explained_variance": 0.5, "clip_fraction": 0.1}, "gradient_norm_before": {"w": 1.0},
        "gradient_norm_after": {"w": 0.5}, "entropy": 1.0, "entropy_share": 0.5, "approx_kl": 0.01,
        "effective_sample_share": 1.0, "clipped_mass": 0.0, "segment_shares": {}, "mean_reward": 0.0,
        "weights_hash_before": "a", "weights_hash_after": "b", "actor_hash_before": "a", "actor_hash_after": "b",
        "seconds": 0.1,
    }  # fmt: skip
    return TrainingMetrics(**(given | changed))


def after(*calls: TrainingMetrics) -> Vitals:
    vitals = Vitals()
    for each in calls:
        vitals = vitals.after(each, None)
    return vitals


def alerts(vitals: Vitals) -> str:
    verdict = judge_health(vitals, frozenset({"w"}))
    assert verdict.ruling is PASS
    return verdict.reason


def test_ordinary_calls_raise_no_alert() -> None:
    assert alerts(after(call(), call())) == "2 calls without an alert."


def test_a_tensor_without_gradient_for_twenty_calls_vetoes_and_for_nineteen_does_not() -> None:
    still = call(gradient_norm_before={"w": 1e-9, "v": 1.0})
    assert judge_health(after(*[still] * 19), frozenset({"w"})).ruling is PASS
    assert judge_health(after(*[still] * 20), frozenset({"w"})).ruling is FAIL
    # A tensor that need not be trained may rest.
    assert judge_health(after(*[still] * 20), frozenset({"v"})).ruling is PASS


def test_twenty_quiet_calls_with_one_loud_between_them_do_not_veto() -> None:
    still, loud = call(gradient_norm_before={"w": 1e-9}), call()
    assert judge_health(after(*[still] * 10, loud, *[still] * 10), frozenset({"w"})).ruling is PASS


def test_a_gradient_that_is_not_finite_vetoes() -> None:
    assert (
        judge_health(after(call(gradient_norm_before={"w": float("nan")})), frozenset({"w"})).ruling is FAIL
    )


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ([call(entropy_share=0.04)], "within 20 calls"),
        ([call(approx_kl=0.11)], "0.11 nats"),
        ([call(parts={"clip_fraction": 0.41})], "clipped 41%"),
        ([call(parts={"clip_fraction": 0.0})] * 2, "no ratio was ever clipped"),
        ([call(parts={"explained_variance": -0.1})] * 10, "for 10 calls in a row"),
        ([call(parts={"at_bound": 0.96})], "96% of the residuals"),
        ([call(parts={"q_bias": 0.2}), call(parts={"q_bias": 0.6})], "exceed returns by 0.6"),
        ([call(), call(gradient_norm_before={"w": 101.0})], "101 times"),
        # 1.1 of its size in 10 updates is 0.11 in one.
        ([call(weight_change_by_tensor={"w": Change(1.0, 1.1)})], "0.11 of their size"),
        ([call(weight_change_by_tensor={"w": Change(1.0, 9e-6)})], "by 9e-07"),
    ],
)
def test_each_sign_is_told_and_none_of_them_vetoes(calls: list[TrainingMetrics], said: str) -> None:
    assert said in alerts(after(*calls))


def test_an_entropy_that_falls_call_by_call_to_nothing_is_stuck_at_a_bound() -> None:
    shares = [0.5 * 0.85**k for k in range(31)]
    assert "stuck at a bound" in alerts(after(*[call(entropy_share=share) for share in shares]))
    # As low, but rising again: no bound is being run into.
    assert "stuck" not in alerts(after(*[call(entropy_share=share) for share in reversed(shares)]))


def test_dormant_units_and_a_rank_that_fell_by_half_are_told() -> None:
    vitals = Vitals().after(call(), Units(dormant=0.1, rank=10, width=16))
    vitals = vitals.after(call(), Units(dormant=0.3, rank=4, width=16))
    assert "30% of the hidden units are dormant, 10% were at first" in alerts(vitals)
    assert "the effective rank fell from 10 to 4" in alerts(vitals)


def test_units_are_counted_by_hand() -> None:
    # Four relu units on one input: two copies of the input, one that never fires, one that hardly does.
    weight = jnp.array([[1.0, 1.0, -1.0, 0.001]])
    layers = (Layer(weight, jnp.zeros(4)), Layer(jnp.zeros((4, 2)), jnp.zeros(2)))
    policy = SoftCategorical(layers, unscaled(1, 0).observation)
    found = units(policy, np.array([[1.0], [2.0]], np.float32))
    # Mean activations 1.5, 1.5, 0 and 0.0015 of a mean of 0.75: two below 0.025 of it. All rows are multiples: rank 1.
    assert found == Units(dormant=0.5, rank=1, width=4)
    with pytest.raises(BadInput, match="above 0"):
        units(policy, np.zeros((0, 1), np.float32))


def test_vitals_survive_a_round_through_json() -> None:
    vitals = after(call(), call(parts={"q_bias": 0.1}))
    assert Vitals.from_plain(json.loads(json.dumps(asdict(vitals)))) == vitals
    assert replace(vitals, calls=3) != vitals

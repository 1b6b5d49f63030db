"""The episode contract: what no gradient may be taken from is refused by field and episode."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gaelp.core.episode import (
    ARRAY_FIELDS,
    OUTCOMES,
    SOURCES,
    End,
    EpisodeBatch,
    Provenance,
    Source,
    concatenate,
    select,
)
from gaelp.core.errors import UnusableBatch
from gaelp.core.schema import Actions

B, T, O, A, H = 3, 2, 5, 4, 1


def provenance(day: int) -> Provenance:
    return Provenance(
        source=Source.LIVE, phase="real_testing", arm="agent", campaign=f"c{day}", day=day, actor_hash="a",
        pacer_hash="p", schema_hash="s", seed=7, settled_at=f"day {day + 3}",
    )  # fmt: skip


def batch(first_day: int = 0, **changes: np.ndarray) -> EpisodeBatch:
    """Three sound days of two decisions; episode b of a batch has reward b + first_day everywhere."""
    outcomes = {name: np.arange(B, dtype=np.float64) + first_day for name in OUTCOMES}
    usual = {
        "observation": np.zeros((B, T + 1, O), np.float32), "mask": np.ones((B, T + 1, A), bool),
        "action": np.ones((B, T), np.int32), "executed": np.zeros((B, T), np.float32),
        "log_prob": np.full((B, T), -1.0, np.float32),
        "reward": np.repeat(np.arange(B, dtype=np.float32)[:, None] + first_day, T, axis=1),
        "end": np.tile(np.array([End.RUNNING, End.TERMINATED], np.int8), (B, 1)), "valid": np.ones((B, T), bool),
        "weight": np.ones(B, np.float32), "segment": np.zeros((B, T), np.int32),
        "hidden": np.zeros((B, T + 1, H), np.float32), "sources": np.full(B, SOURCES.index(Source.LIVE), np.int8),
        **outcomes,
    }  # fmt: skip
    return EpisodeBatch(**{**usual, **changes}, provenance=tuple(provenance(first_day + k) for k in range(B)))


def with_one(name: str, where: tuple[int, ...], value: float) -> EpisodeBatch:
    """A sound batch with one number of one field changed."""
    array = getattr(batch(), name).copy()
    array[where] = value
    return batch(**{name: array})


def refuse(told: EpisodeBatch, complaint: str) -> None:
    with pytest.raises(UnusableBatch, match=complaint):
        told.check(observation_size=O, action_size=A)


def residuals(**changes: np.ndarray) -> EpisodeBatch:
    """The same days acted on by residuals, the last of four switched off; the raw action may be beyond 1."""
    mask = np.ones((B, T + 1, A), bool)
    mask[:, :, 3] = False
    action = np.tile(np.array([0.5, -1.5, 0.0, 0.0], np.float32), (B, T, 1))
    return batch(**{"mask": mask, "action": action, "log_prob": np.full((B, T), 2.0, np.float32), **changes})


def refuse_residuals(told: EpisodeBatch, complaint: str, **space: float) -> None:
    with pytest.raises(UnusableBatch, match=complaint):
        told.check(observation_size=O, action_size=A, actions=Actions.RESIDUALS, **space)


def test_a_sound_batch_passes_and_counts_what_it_holds():
    told = batch()
    told.check(observation_size=O, action_size=A)
    assert (told.episodes, told.decisions, told.transitions) == (3, 2, 6)


def test_a_padded_step_is_neither_counted_nor_looked_at():
    # The last step of episode 1 is padding: whatever stands there is nobody's business.
    told = with_one("valid", (1, 1), False)
    for name, value in (("reward", np.nan), ("log_prob", np.nan), ("action", 99)):
        array = getattr(told, name).copy()
        array[1, 1] = value
        told = replace(told, **{name: array})
    told.check(observation_size=O, action_size=A)
    assert told.transitions == 5


def test_an_empty_batch_is_refused():
    nothing = select(batch(), np.array([], np.intp))
    refuse(nothing, r"reward: no episodes in the batch \(shape \(0, 2\)\)")


def test_a_batch_without_a_single_valid_transition_is_refused():
    refuse(batch(valid=np.zeros((B, T), bool)), "valid: every transition of the batch is marked invalid")


@pytest.mark.parametrize("name", [n for n in ARRAY_FIELDS if n not in ("reward", "hidden")])
def test_a_wrong_shape_is_refused_by_field(name):
    refuse(batch(**{name: getattr(batch(), name)[:2]}), rf"{name}: shape \(2.*, expected \(3")


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [("mask", np.float32, "booleans"), ("valid", np.int8, "booleans"), ("action", np.float32, "whole numbers"),
     ("end", np.float32, "whole numbers"), ("end", bool, "whole numbers"), ("reward", bool, "numbers"),
     ("reward", np.complex64, "numbers"), ("observation", object, "numbers"), ("weight", str, "numbers")],
)  # fmt: skip
def test_an_array_of_another_kind_is_refused_by_field(name, kind, expected):
    # A move of 1.7 would be cut to 1, and a mask of 0.3 read as a yes.
    refuse(
        batch(**{name: getattr(batch(), name).astype(kind)}), f"{name}: an array of .*, expected {expected}"
    )


def test_rows_of_unequal_length_are_no_array():
    refuse(batch(reward=[[1.0, 2.0], [1.0], [1.0, 2.0]]), "reward: no array")


@pytest.mark.parametrize("missing", [None, np.full((B, T), None)])
def test_a_batch_without_the_behaviours_log_probabilities_is_refused(missing):
    refuse(batch(log_prob=missing), "log_prob: missing; a batch without the behaviour's log-probabilities")


def test_an_observation_or_a_mask_of_another_schema_is_refused():
    told = batch()
    with pytest.raises(UnusableBatch, match=r"observation: shape \(3, 3, 5\), expected \(3, 3, 6\)"):
        told.check(observation_size=O + 1, action_size=A)
    with pytest.raises(UnusableBatch, match=r"mask: shape \(3, 3, 4\), expected \(3, 3, 5\)"):
        told.check(observation_size=O, action_size=A + 1)


def test_hidden_may_have_any_width_but_not_another_length():
    batch(hidden=np.zeros((B, T + 1, 0), np.float32)).check(observation_size=O, action_size=A)
    refuse(batch(hidden=np.zeros((B, T, H), np.float32)), r"hidden: shape \(3, 2, 1\), expected \(3, 3, H\)")


@pytest.mark.parametrize("name", ["reward", "log_prob", "executed"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_is_refused_by_field_episode_and_step(name, value):
    refuse(with_one(name, (2, 1), value), f"{name}: episode 2, step 1 is not finite")


@pytest.mark.parametrize("name", ["observation", "hidden"])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_state_that_is_no_number_is_refused_the_one_after_the_day_included(name, step):
    refuse(with_one(name, (1, step, 0), np.nan), f"{name}: episode 1, step {step} is not finite")


@pytest.mark.parametrize("action", [-1, A])
def test_an_action_outside_the_space_is_refused(action):
    refuse(with_one("action", (0, 1), action), "action: episode 0, step 1 is outside the action space")


def test_a_masked_action_is_refused():
    refuse(with_one("mask", (2, 0, 1), False), "action: episode 2, step 0 is masked out")


def test_a_state_that_allows_nothing_is_refused():
    mask = batch().mask.copy()
    mask[1, 1] = False
    refuse(batch(mask=mask), "mask: episode 1, step 1 allows nothing")
    # Where nothing is decided any more, it is still asked what the state is worth.
    valid = np.ones((B, T), bool)
    valid[1, 1] = False
    refuse(
        batch(mask=mask, valid=valid), "mask: episode 1, step 0 is followed by a state that allows nothing"
    )


def test_after_a_terminated_day_nothing_has_to_be_allowed_but_after_a_cut_one_it_has():
    # The value of the last state is asked for after a cut day only, and a best move out of none has no value.
    mask = batch().mask.copy()
    mask[:, T] = False
    batch(mask=mask).check(observation_size=O, action_size=A)
    end = np.full((B, T), End.RUNNING, np.int8)
    end[2, 1] = End.TRUNCATED
    end[:2, 1] = End.TERMINATED
    refuse(batch(mask=mask, end=end), "mask: episode 2, step 1 is followed by a state that allows nothing")


def test_a_cut_day_must_keep_its_final_observation():
    end = np.array([[0, 1], [0, 2], [2, 1]], np.int8)
    refuse(batch(end=end), "end: episode 2, step 0 is truncated, yet the next transition is valid")
    valid = np.ones((B, T), bool)
    valid[2, 1] = False
    batch(end=end, valid=valid).check(observation_size=O, action_size=A)


def test_sound_residuals_pass():
    told = residuals()
    told.check(observation_size=O, action_size=A, actions=Actions.RESIDUALS)
    told.check(observation_size=O, action_size=A, actions=Actions.RESIDUALS, bound=1.5)
    replace(told, executed=told.action).check(observation_size=O, action_size=A, actions=Actions.RESIDUALS)


def test_residuals_are_refused_where_moves_are_expected_and_the_other_way_round():
    refuse(residuals(), "action: an array of float32, expected whole numbers")
    refuse_residuals(batch(), "action: an array of int32, expected real numbers")
    refuse_residuals(
        residuals(action=np.zeros((B, T), np.float32)), r"action: shape \(3, 2\), expected \(3, 2, 4\)"
    )
    refuse_residuals(residuals(executed=np.zeros((B, T, 2), np.float32)), r"executed: shape \(3, 2, 2\)")


@pytest.mark.parametrize(
    ("value", "at", "space", "complaint"),
    [(np.nan, 0, {}, "is not finite"), (np.inf, 0, {}, "is not finite"),
     (0.1, 3, {}, "moves a residual that is masked out"),
     (1.6, 0, {"bound": 1.5}, r"is outside \[-1.5, 1.5\]"), (-1.6, 0, {"bound": 1.5}, r"is outside \[-1.5, 1.5\]")],
)  # fmt: skip
def test_a_residual_outside_its_space_is_refused(value, at, space, complaint):
    action = residuals().action.copy()
    action[2, 1, at] = value
    refuse_residuals(residuals(action=action), f"action: episode 2, step 1 {complaint}", **space)


def test_a_density_may_be_above_one_but_not_above_what_the_deviations_floor_allows():
    # Three active residuals, deviation at least 0.1: at most -3 (ln 0.1 + ln(2 pi) / 2) = 6.90776 - 2.75682 = 4.15094.
    for log_prob, floor in ((4.150, 0.1), (4.152, 0.0999), (1e3, 0.0)):
        told = residuals(log_prob=np.full((B, T), log_prob, np.float32))
        told.check(observation_size=O, action_size=A, actions=Actions.RESIDUALS, deviation_floor=floor)
    told = residuals(log_prob=np.array([[4.1, 4.1], [4.1, 4.152], [4.1, 4.1]], np.float32))
    refuse_residuals(
        told, "log_prob: episode 1, step 1 is above what a deviation of at least 0.1", deviation_floor=0.1
    )


def test_provenance_is_one_for_all_or_one_each():
    replace(batch(), provenance=(provenance(1),)).check(observation_size=O, action_size=A)
    for told in (), (provenance(1), provenance(2)):
        refuse(replace(batch(), provenance=told), f"provenance: {len(told)} given for 3 episodes")


@pytest.mark.parametrize("source", [-1, len(SOURCES)])
def test_an_unknown_source_is_refused(source):
    refuse(with_one("sources", (1,), source), "sources: episode 1 is of no known source")


def test_a_log_probability_above_zero_is_refused():
    refuse(with_one("log_prob", (1, 0), 0.01), "log_prob: episode 1, step 0 is above 0")


@pytest.mark.parametrize("end", [-1, 3])
def test_an_unknown_ending_is_refused(end):
    refuse(with_one("end", (0, 1), end), "end: episode 0, step 1 is no End")


@pytest.mark.parametrize("weight", [0.0, -1.0, np.nan, np.inf])
def test_a_weight_that_is_not_positive_is_refused(weight):
    refuse(with_one("weight", (2,), weight), "weight: episode 2 is not a positive number")


def test_joining_keeps_every_number_and_every_origin_in_order():
    joined = concatenate([batch(0), batch(10)])
    assert joined.reward[:, 0].tolist() == [0, 1, 2, 10, 11, 12]
    assert [told.day for told in joined.provenance] == [0, 1, 2, 10, 11, 12]
    joined.check(observation_size=O, action_size=A)


def test_joining_repeats_an_origin_that_a_batch_shares():
    shared = replace(batch(0), provenance=(provenance(5),))
    assert [told.day for told in concatenate([shared, batch(10)]).provenance] == [5, 5, 5, 10, 11, 12]


def test_joining_nothing_is_refused():
    with pytest.raises(UnusableBatch, match="no episodes to join"):
        concatenate([])


def test_selecting_takes_the_rows_in_the_order_asked_for():
    chosen = select(batch(), np.array([2, 0], np.intp))
    assert chosen.reward[:, 0].tolist() == [2, 0]
    assert chosen.spend.tolist() == [2, 0]
    assert [told.day for told in chosen.provenance] == [2, 0]


def test_selecting_keeps_an_origin_that_the_batch_shares():
    shared = replace(batch(0), provenance=(provenance(5),))
    assert [told.day for told in select(shared, np.array([2, 0], np.intp)).provenance] == [5]

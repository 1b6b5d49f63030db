"""The story of one episode: a campaign-day of the agent, from the money set aside for it to the weights it moved.

It is the first campaign-day of the second window of real testing. Everything is read from the finished journey's
files; what is computed again here is computed from saved weights and saved observations.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from tests.specs.conftest import Finished
from tests.specs.journey import RUN, Home, Row, Told

from gaelp.bidding.act import move_mask
from gaelp.core.schema import TICKS_PER_DAY, default_schema
from gaelp.learn.export import ExportedPolicy
from gaelp.orchestration.live import Actor
from gaelp.store import checkpoints

SCHEMA = default_schema()
DECISIONS = 6
MARKET = 0


@pytest.fixture(scope="module")
def home(finished: Finished) -> Home:
    return finished.home


@pytest.fixture(scope="module")
def day(home: Home) -> Row:
    """The third of four days of real testing."""
    return home.rows("day_played", phase="real_testing")[2]


@pytest.fixture(scope="module")
def episode(day: Row) -> Told:
    """The agent's first campaign-day of that day."""
    return next(slot for slot in day.told["slots"] if slot["arm"] == "agent")


@pytest.fixture(scope="module")
def arrays(home: Home, day: Row, episode: Told) -> dict[str, np.ndarray]:
    """What was kept of it: the day's arrays, one row a campaign."""
    saved = checkpoints.load(home.artifacts, day.told["artifact"])
    row = [slot["label"] for slot in saved.manifest["slots"]].index(episode["campaign"])
    return {name: array[row] for name, array in saved.arrays.items()}


def acting(home: Home, day: Row) -> Told:
    """The promotion that made the actor of that day."""
    return [r for r in home.rows("promoted") if r.seq < day.seq][-1].told


def actor_of(home: Home, checkpoint: str) -> ExportedPolicy:
    """The policy in a saved state of the engine."""
    arrays = checkpoints.load(home.artifacts, checkpoint).arrays
    part = {
        n.removeprefix("state.agent."): a for n, a in arrays.items() if n.startswith("state.agent.actor.")
    }
    scaling = {
        n.replace("state.normaliser.observation.", "scaling."): a
        for n, a in arrays.items()
        if n.startswith("state.normaliser.observation.")
    }
    # PPO's joint moves; written down here a second time on purpose.
    kind = {"policy.kind": np.frombuffer(b"categorical", np.uint8)}
    return ExportedPolicy.from_arrays(part | scaling | kind)


def settled(home: Home, episode: Told) -> tuple[Row, Told]:
    """The event that settled its day, and its own line in it."""
    for row in home.rows("episodes_settled", phase="real_testing"):
        for line in row.told["episodes"]:
            if line["campaign"] == episode["campaign"]:
                return row, line
    raise AssertionError(f"{episode['campaign']} never settled")


def conversions(home: Home, episode: Told) -> np.ndarray:
    """Conversions [48] by the half hour of their click, from the platform's database."""
    found = home.sandbox(
        "SELECT p.conversions FROM plays p JOIN campaigns c ON c.created_index = p.campaign WHERE c.name = ? AND p.tick < 48 "
        "AND p.day = c.last_day ORDER BY p.tick",
        f"gaelp/{RUN}/{episode['campaign']}",
    )
    return np.array([row[0] for row in found])


def test_its_money_was_set_aside_before_it_was_played(home: Home, day: Row, episode: Told) -> None:
    (reserved,) = home.rows("reserved", intent=episode["campaign"])
    assert reserved.seq < day.seq
    # 5.00 a day, of which the platform may charge twofold.
    assert (episode["budget_micros"], reserved.told["micros"]) == (5_000_000, 10_000_000)


def test_it_has_seven_observations_of_256_named_numbers(arrays: dict[str, np.ndarray]) -> None:
    names = SCHEMA.names()
    assert len(names) == len(set(names)) == 16 * 12 + 64 == 256
    assert arrays["observation"].shape == (DECISIONS + 1, 256)
    assert np.isfinite(arrays["observation"]).all()
    clock = arrays["observation"][:, names.index("elapsed")]
    assert (np.diff(clock) > 0).all()
    # One line item: the other fifteen slots of twelve numbers are empty.
    assert np.count_nonzero(arrays["observation"][:, 12 : 16 * 12]) == 0
    assert np.count_nonzero(arrays["observation"][:, :12]) > 0


def test_each_of_its_six_moves_was_allowed(arrays: dict[str, np.ndarray], episode: Told) -> None:
    mask = move_mask(SCHEMA, line_items=1)
    assert len(mask) == SCHEMA.action_size == 64
    # One line item has no poor and good ones to tilt between: 8 levels of pace are left.
    assert mask.sum() == 8
    assert len(episode["moves"]) == DECISIONS
    assert mask[episode["moves"]].all()
    assert arrays["move"].tolist() == episode["moves"]


def test_each_move_was_logged_with_the_probability_that_it_had(
    home: Home, day: Row, arrays: dict[str, np.ndarray]
) -> None:
    policy = actor_of(home, acting(home, day)["checkpoint"])
    mask = np.broadcast_to(move_mask(SCHEMA, line_items=1), (DECISIONS, 64))
    chances = Actor(policy).chances(arrays["observation"][:-1], mask)
    np.testing.assert_allclose(chances.sum(axis=1), 1.0, rtol=1e-12)
    # Every allowed move keeps a chance, so that this log can judge another policy later.
    assert chances[mask].min() > 0.003
    logged = arrays["log_prob"]
    # Asked again one day at a time, not all campaigns at once: float32 products round otherwise, to the sixth power.
    np.testing.assert_allclose(logged, np.log(chances[np.arange(DECISIONS), arrays["move"]]), rtol=1e-5)


def test_it_was_played_by_the_actor_that_was_last_promoted(home: Home, day: Row) -> None:
    promoted = acting(home, day)
    assert day.told["actor_hash"] == promoted["actor_hash"] == actor_of(home, promoted["checkpoint"]).hash


def test_its_steps_add_up_to_its_spend_its_posting_and_its_bill(
    home: Home, day: Row, episode: Told, arrays: dict[str, np.ndarray]
) -> None:
    steps = episode["step_spend_micros"]
    assert len(steps) == DECISIONS
    assert steps == arrays["cost_micros"].reshape(DECISIONS, TICKS_PER_DAY // DECISIONS).sum(axis=1).tolist()
    (posted,) = home.rows("posted", intent=episode["campaign"])
    (released,) = home.rows("released", intent=episode["campaign"])
    billed = home.bills()[f"gaelp/{RUN}/{episode['campaign']}"]
    assert 0 < sum(steps) == episode["spend_micros"] == posted.told["micros"] == billed
    assert posted.told["micros"] + released.told["micros"] == 10_000_000
    assert day.seq < posted.seq < released.seq


def test_it_settled_three_days_later(home: Home, day: Row, episode: Told) -> None:
    event, line = settled(home, episode)
    assert event.told["day"] == day.told["day"]
    # The last of four days is over at midnight, and only then has the clock passed this day by three.
    later = [r.told["day"] for r in home.rows("day_played", phase="real_testing") if r.seq < event.seq]
    assert event.seq > day.seq
    assert later == [day.told["day"] - 2, day.told["day"] - 1, day.told["day"], day.told["day"] + 1]
    assert line["spend_micros"] == episode["spend_micros"]
    assert line["conversions"] == conversions(home, episode).sum()


def test_its_reward_telescopes_to_its_settled_score(
    home: Home, episode: Told, arrays: dict[str, np.ndarray]
) -> None:
    _, line = settled(home, episode)
    ((target,),) = home.sandbox(
        "SELECT target_cpa_micros FROM campaigns WHERE name = ?", f"gaelp/{RUN}/{episode['campaign']}"
    )

    def score(made: float, spent_micros: int) -> float:
        """Conversions x min(1, (target / cost per conversion)^2), by hand."""
        return made * min(1.0, (target * made / spent_micros) ** 2) if spent_micros and made else 0.0

    made = conversions(home, episode).reshape(DECISIONS, -1).sum(axis=1).cumsum()
    spent = np.cumsum(episode["step_spend_micros"])
    so_far = [0.0, *(score(int(m), int(s)) for m, s in zip(made, spent, strict=True))]
    rewards = np.diff(so_far) / max(float(arrays["scale"]), 2.0)
    assert line["score"] == pytest.approx(so_far[-1], rel=1e-9)
    # Six increments, and nothing but the day's settled score is left of them.
    assert line["share"] == pytest.approx(rewards.sum(), rel=1e-5)
    assert rewards.sum() * max(float(arrays["scale"]), 2.0) == pytest.approx(line["score"], rel=1e-9)


def test_it_was_trained_on_exactly_once_in_a_call_of_the_phases_cadence(
    home: Home, day: Row, episode: Told
) -> None:
    calls = home.rows("trained", phase="real_testing")
    # 4 days x 3 campaigns of the agent: one call of 8, and the 4 that are left when the phase ends.
    assert [(r.told["train_every"], r.told["episodes"]) for r in calls] == [(8, 8), (8, 4)]
    queue = [
        (r.told["day"], slot["campaign"])
        for r in home.rows("day_played", phase="real_testing")
        for slot in r.told["slots"]
        if slot["arm"] == "agent"
    ]
    assert len(queue) == len(set(queue)) == 12
    # Two days of three are played before it: it is number 6, counted from 0, and so in the first call.
    assert queue.index((day.told["day"], episode["campaign"])) == 6
    first = calls[0]
    # 8 real and 7 x 8 simulated episodes of 6 decisions, 16 transitions a minibatch, one epoch.
    assert (first.told["transitions"], first.told["simulated_transitions"]) == (8 * 8 * 6, 8 * 7 * 6)
    assert (first.told["batch_size"], first.told["num_epochs"], first.told["updates"]) == (16, 1, 24)
    assert first.seq > settled(home, episode)[0].seq


def test_it_was_trained_on_only_when_its_window_had_been_judged(home: Home) -> None:
    first = home.rows("trained", phase="real_testing")[0]
    judged = [r.told["window"] for r in home.rows("window_judged", phase="real_testing") if r.seq < first.seq]
    assert judged == [0, 1]


def test_the_weights_after_that_call_differ_and_are_those_of_the_saved_checkpoint(home: Home) -> None:
    first = home.rows("trained", phase="real_testing")[0]
    before, after = first.told["actor_hash_before"], first.told["actor_hash_after"]
    assert before != after
    assert first.told["weights_hash_before"] != first.told["weights_hash_after"]
    assert first.told["weight_change"]["absolute"] > 0
    checkpoint = next(r for r in home.rows("checkpoint") if r.seq > first.seq)
    assert actor_of(home, checkpoint.told["checkpoint"]).hash == after


def test_the_checkpoint_is_named_by_its_own_content(home: Home) -> None:
    for name in {r.told["checkpoint"] for r in home.rows("checkpoint")}:
        assert hashlib.sha256((home.artifacts / name / "manifest.json").read_bytes()).hexdigest() == name

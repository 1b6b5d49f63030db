"""The live market on a sandbox inside the test: a day is a fold of its reports, guards hold, the log tells exact chances."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from tests.bidding.days import landscape
from tests.platforms.in_process import Sandbox, open_sandbox, spec

from gaelp.bidding.act import exploration, move_mask, move_of
from gaelp.bidding.landscape import Landscape
from gaelp.bidding.pacer import DEFAULT_PARAMS
from gaelp.core.episode import Source
from gaelp.core.errors import PlatformError
from gaelp.core.schema import TICKS_PER_DAY, default_schema
from gaelp.core.verdict import FAIL, PASS, Verdict
from gaelp.orchestration.live import (
    FLOOR,
    SHARPNESS,
    Actor,
    Choice,
    FixedChances,
    LiveMarket,
    Pacing,
    PlayedDay,
    Slot,
    Stopped,
    episodes_of,
    settled_conversions,
)
from gaelp.platforms.sandbox.owner import owner_campaign
from gaelp.platforms.sandbox.world import Settings
from gaelp.safety.guards import GuardBounds

SCHEMA = default_schema()
MASK = move_mask(SCHEMA, line_items=1)
RANDOMISED = FixedChances(exploration(SCHEMA, MASK, 0.4), "randomised")
KEPT = FixedChances(np.eye(SCHEMA.action_size)[SCHEMA.zero_move], "pacer-alone")
BOUNDS = GuardBounds(max_bid=2_000_000, max_raise_ratio=1e9, max_velocity_ratio=2.0)
SETTINGS = Settings(seed=11, markets=2, auctions_per_day=2000, users=200)


class Cut(Exception):
    """The process dies here."""


def never(method: str, count: int) -> None:
    return None


@dataclass
class Watched:
    """A sandbox's platform that tells of each call before and after it, and may die of it."""

    platform: object
    before: Callable[[str, int], None] = never
    after: Callable[[str, int], None] = never
    calls: dict[str, int] = field(default_factory=dict)

    def __getattr__(self, method: str) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            count = self.calls[method] = self.calls[method] + 1 if method in self.calls else 0
            self.before(method, count)
            answer = getattr(self.platform, method)(*args, **kwargs)
            self.after(method, count)
            return answer

        return call


@pytest.fixture
def founded(tmp_path: Path) -> Iterator[Callable[[str], Sandbox]]:
    opened: list[Sandbox] = []

    def found(name: str) -> Sandbox:
        opened.append(open_sandbox(tmp_path / name, SETTINGS))
        return opened[-1]

    yield found
    for sandbox in opened:
        sandbox.close()


def owner(sandbox: Sandbox) -> tuple[Slot, ...]:
    """The account's own campaigns, both run by the incumbent."""
    return tuple(
        Slot(
            campaign=c.name, label=c.name, arm="incumbent", item=k, budget_micros=c.daily_budget_micros,
            target_cpa_micros=c.target_cpa_micros,
        )
        for k, c in enumerate(sandbox.platform.campaigns("acct/"))
    )  # fmt: skip


def known() -> Landscape:
    """A landscape that is about right: the bids that the owner began with as price level."""
    bids = np.array([owner_campaign(SETTINGS, market).bid_micros / 1e6 for market in range(2)])
    return landscape(items=2, price_mean=np.log(bids), volume=2000.0, click_rate=0.05)


KNOWN = known()


def going() -> Verdict:
    return Verdict(PASS, "not_halted", "no latch is down.")


def market(
    platform: object, bounds: GuardBounds = BOUNDS, halted: Callable[[], Verdict] = going
) -> LiveMarket:
    return LiveMarket(platform=platform, schema=SCHEMA, bounds=bounds, seed=7, halted=halted)


def play(
    live: LiveMarket, sandbox: Sandbox, day: int = 0, chooser: object = RANDOMISED, **how: object
) -> PlayedDay:
    pacing = Pacing(KNOWN, DEFAULT_PARAMS, "pacer")
    return live.play_day(
        day=day, slots=owner(sandbox), pacing=pacing, choosers={"incumbent": chooser}, stream=1, **how
    )


def same(one: PlayedDay, two: PlayedDay) -> None:
    assert (one.day, one.slots, one.refusals, one.tripped) == (two.day, two.slots, two.refusals, two.tripped)
    for name in PlayedDay.ARRAYS:
        a, b = getattr(one, name), getattr(two, name)
        assert a.dtype == b.dtype, name
        assert np.array_equal(a, b), name


# ---- a day


def test_a_day_has_every_half_hour_and_every_decision_of_every_slot(founded):
    sandbox = founded("a.db")
    day = play(market(sandbox.platform), sandbox)
    assert day.observation.shape == (2, 7, 256)
    assert {getattr(day, n).shape for n in ("move", "pace", "log_prob", "proposed")} == {(2, 6)}
    assert {getattr(day, n).shape for n in ("log_bid", "eligible", "clicks", "cost_micros", "arrived")} == {
        (2, 48)
    }
    assert day.cost_micros.dtype == np.int64
    assert (day.impressions <= day.eligible).all()
    assert (day.clicks <= day.impressions).all()
    assert day.clicks.sum() > 0, "a day without clicks shows nothing"
    assert (sandbox.platform.account().day, sandbox.platform.account().tick) == (1, 0)
    assert (day.refusals, day.tripped) == ((), None)


def test_step_spends_add_up_to_the_platforms_bill(founded):
    sandbox = founded("a.db")
    live = market(sandbox.platform)
    days = [play(live, sandbox, day) for day in range(2)]
    billed = {(line.campaign, line.day): line.cost_micros for line in sandbox.platform.bill("acct/")}
    for day in days:
        steps = day.step_spend_micros(SCHEMA.ticks_per_decision)
        assert steps.shape == (2, 6)
        for k, slot in enumerate(day.slots):
            assert int(steps[k].sum()) == billed[slot.campaign, day.day]
    assert sum(billed.values()) > 0


def test_a_bid_in_force_is_the_pacers_times_the_moves_pace(founded):
    still, low = founded("still.db"), founded("low.db")
    lowest = FixedChances(np.eye(SCHEMA.action_size)[move_of(-0.5, 0.0, SCHEMA)], "lowest")
    a, b = play(market(still.platform), still, chooser=KEPT), play(market(low.platform), low, chooser=lowest)
    # In the first half hour both pacers know the same; bids are whole micros.
    assert b.log_bid[:, 0] - a.log_bid[:, 0] == pytest.approx(-0.5, abs=1e-4)
    assert (b.pace == np.float32(-0.5)).all()
    assert b.cost_micros.sum() < a.cost_micros.sum()


def test_the_same_seed_plays_the_same_day_and_another_stream_another(founded):
    one, two, three = (founded(name) for name in ("one.db", "two.db", "three.db"))
    day = play(market(one.platform), one)
    same(day, play(market(two.platform), two))
    pacing = Pacing(KNOWN, DEFAULT_PARAMS, "pacer")
    other = market(three.platform).play_day(
        day=0, slots=owner(three), pacing=pacing, choosers={"incumbent": RANDOMISED}, stream=2
    )
    assert not np.array_equal(other.move, day.move)


def test_each_arm_chooses_by_its_own_chooser(founded):
    sandbox = founded("a.db")
    names = ("gaelp/r/agent/m0", "gaelp/r/control/m1")
    sandbox.platform.create([spec(names[0], market="m0"), spec(names[1], market="m1")])
    slots = tuple(
        Slot(
            campaign=name,
            label=name[8:],
            arm=name.split("/")[2],
            item=k,
            budget_micros=5_000_000,
            target_cpa_micros=120_000,
        )
        for k, name in enumerate(names)
    )
    lowest = FixedChances(np.eye(SCHEMA.action_size)[move_of(-0.5, 0.0, SCHEMA)], "lowest")
    pacing = Pacing(KNOWN, DEFAULT_PARAMS, "pacer")
    day = market(sandbox.platform).play_day(
        day=0, slots=slots, pacing=pacing, choosers={"agent": lowest, "control": KEPT}, stream=3
    )
    assert day.pace.tolist() == [[-0.5] * 6, [0.0] * 6]


def test_a_shadow_proposes_and_is_not_obeyed(founded):
    watched, plain = founded("watched.db"), founded("plain.db")
    day = play(market(watched.platform), watched, chooser=KEPT, shadow=RANDOMISED)
    alone = play(market(plain.platform), plain, chooser=KEPT)
    assert set(np.unique(day.proposed)) <= set(np.flatnonzero(MASK))
    assert len(np.unique(day.proposed)) > 1
    assert (alone.proposed == -1).all()
    assert np.array_equal(day.log_bid, alone.log_bid)
    assert np.array_equal(day.cost_micros, alone.cost_micros)


# ---- cut short


PLACES = ("before edit_bids", "after edit_bids", "after step", "after report")


def cut_and_played_again(founded: Callable[[str], Sandbox], tick: int, place: str) -> PlayedDay:
    """The day dies at `place` of half hour `tick`; the same sandbox, opened again, is played by a new market."""
    when, method = place.split()

    def die(called: str, count: int) -> None:
        if (called, count) == (method, tick):
            raise Cut

    first = founded(f"cut-{tick}-{place}.db")
    watched = Watched(first.platform, **{when: die})
    with pytest.raises(Cut):
        play(market(watched), first)
    first.close()
    again = founded(f"cut-{tick}-{place}.db")
    return play(market(again.platform), again)


@pytest.fixture
def undisturbed(founded) -> PlayedDay:
    sandbox = founded("undisturbed.db")
    return play(market(sandbox.platform), sandbox)


@pytest.mark.parametrize(
    ("tick", "place"),
    [
        (0, "before edit_bids"), (0, "after step"), (7, "after report"), (8, "after edit_bids"), (23, "after step"),
        (40, "before edit_bids"), (47, "after edit_bids"), (47, "after step"), (47, "after report"),
    ],
)  # fmt: skip
def test_a_day_cut_short_and_played_again_is_the_undisturbed_day(founded, undisturbed, tick, place):
    same(cut_and_played_again(founded, tick, place), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("tick", range(TICKS_PER_DAY))
def test_a_day_cut_at_any_half_hour_is_the_undisturbed_day(founded, undisturbed, tick, place):
    same(cut_and_played_again(founded, tick, place), undisturbed)


def test_a_day_that_the_clock_has_left_behind_is_read_from_its_reports_alone(founded):
    sandbox = founded("a.db")
    first = play(market(sandbox.platform), sandbox)
    sandbox.platform.skip(3, 5)
    watched = Watched(sandbox.platform)
    same(play(market(watched), sandbox), first)
    assert not {"edit_bids", "step"} & set(watched.calls), "nothing may be sent for a day gone by"


def test_a_played_day_comes_back_from_its_arrays_and_manifest(founded):
    sandbox = founded("a.db")
    day = play(market(sandbox.platform), sandbox)
    same(PlayedDay.restored(day.arrays(), day.manifest()), day)


# ---- guards


@dataclass(frozen=True)
class LowThenHigh:
    """The lowest pace in the first daypart, the highest after it."""

    hash: str = "low-then-high"

    def choose(self, observation: np.ndarray, mask: np.ndarray, uniform: np.ndarray) -> Choice:
        late = observation[:, SCHEMA.campaign_index("elapsed")] > 0
        move = np.where(late, move_of(0.35, 0.0, SCHEMA), move_of(-0.5, 0.0, SCHEMA))
        return Choice(move.astype(np.int32), np.zeros(len(move)))


@dataclass(frozen=True)
class HighThenLow:
    """The highest pace in the first daypart, the lowest after it."""

    hash: str = "high-then-low"

    def choose(self, observation: np.ndarray, mask: np.ndarray, uniform: np.ndarray) -> Choice:
        late = observation[:, SCHEMA.campaign_index("elapsed")] > 0
        move = np.where(late, move_of(-0.5, 0.0, SCHEMA), move_of(0.35, 0.0, SCHEMA))
        return Choice(move.astype(np.int32), np.zeros(len(move)))


def test_a_refused_bid_holds_the_last_one_and_is_recorded(founded):
    free, bound = founded("free.db"), founded("bound.db")
    unguarded = play(market(free.platform), free, chooser=LowThenHigh())
    # A bound between the bids of the first daypart and the one wanted at its end.
    highest = np.exp(unguarded.log_bid[:, :8]).max() * 1e6
    assert (np.exp(unguarded.log_bid[:, 8]) * 1e6 > highest).all()
    tight = GuardBounds(max_bid=highest + 1, max_raise_ratio=1e9, max_velocity_ratio=2.0)
    day = play(market(bound.platform, bounds=tight), bound, chooser=LowThenHigh())
    assert np.array_equal(day.log_bid[:, :8], unguarded.log_bid[:, :8])
    assert np.array_equal(day.log_bid[:, 8], day.log_bid[:, 7]), "the last bid is held"
    told = [text for text in day.refusals if text.startswith("tick 8: ")]
    assert len(told) == 2
    assert "acct/m0: bid" in told[0]
    assert "is above the maximum" in told[0]
    assert (np.exp(day.log_bid) * 1e6 <= highest + 1).all()
    # What was decided is logged as decided: the guard belongs to the world.
    assert day.move[:, 1].tolist() == [move_of(0.35, 0.0, SCHEMA)] * 2


def test_without_a_last_bid_a_refused_one_becomes_a_single_micro(founded):
    sandbox = founded("a.db")
    nothing = GuardBounds(max_bid=0.5, max_raise_ratio=1e9, max_velocity_ratio=2.0)
    day = play(market(sandbox.platform, bounds=nothing), sandbox)
    assert np.exp(day.log_bid) * 1e6 == pytest.approx(1.0)
    assert day.cost_micros.sum() == 0
    assert len(day.refusals) == 2 * 48


TIGHT = GuardBounds(max_bid=2_000_000, max_raise_ratio=1.5, max_velocity_ratio=2.0)


def leapt(sandbox: Sandbox, **before: object) -> PlayedDay:
    """A day whose pace leaps from -0.5 to 0.35 at its second decision, 2.3 times the bid, where 1.5 times are allowed."""
    return play(market(Watched(sandbox.platform, **before), bounds=TIGHT), sandbox, chooser=LowThenHigh())


def test_a_bid_that_leaps_from_the_last_one_is_held_and_recorded(founded):
    free, bound = founded("free.db"), founded("bound.db")
    unguarded = play(market(free.platform), free, chooser=LowThenHigh())
    steps = np.exp(np.diff(unguarded.log_bid, axis=1))
    # The pacer's own steps pass; the leap at the second decision, after half hour 7, does not.
    assert (steps[:, :7] <= 1.5).all()
    assert (steps[:, 7] > 1.5).all()
    day = leapt(bound)
    assert np.array_equal(day.log_bid[:, :8], unguarded.log_bid[:, :8])
    assert np.array_equal(day.log_bid[:, 8], day.log_bid[:, 7]), "the last bid is held"
    told = [text for text in day.refusals if text.startswith("tick 8: ")]
    assert len(told) == 2
    assert "times the last one" in told[0]
    assert (np.exp(np.diff(day.log_bid, axis=1)) <= 1.5 + 1e-4).all()


@pytest.mark.parametrize(("method", "tick"), [("edit_bids", 8), ("step", 8), ("report", 20)])
def test_a_day_with_held_bids_cut_short_and_played_again_is_the_undisturbed_day(founded, method, tick):
    undisturbed = leapt(founded("whole.db"))
    assert undisturbed.refusals

    def die(called: str, count: int) -> None:
        if (called, count) == (method, tick):
            raise Cut

    sandbox = founded("cut.db")
    with pytest.raises(Cut):
        leapt(sandbox, after=die)
    sandbox.close()
    same(leapt(founded("cut.db")), undisturbed)


def test_a_stand_in_bid_of_one_micro_bounds_no_later_bid(founded):
    # A first bid is refused for its height and becomes a micro; the real bid that comes later is no leap from that.
    sandbox, free = founded("a.db"), founded("free.db")
    unguarded = play(market(free.platform), free, chooser=HighThenLow())
    first, later = np.exp(unguarded.log_bid[:, 0]) * 1e6, np.exp(unguarded.log_bid[:, 8:16]) * 1e6
    most = float(later.max()) + 1
    refused = first > most
    assert refused.any()
    between = GuardBounds(max_bid=most, max_raise_ratio=1.5, max_velocity_ratio=2.0)
    day = play(market(sandbox.platform, bounds=between), sandbox, chooser=HighThenLow())
    bids = np.exp(day.log_bid[refused]) * 1e6
    assert bids[:, 0] == pytest.approx(1.0)
    assert (bids[:, 8] > 100_000).all()


@pytest.mark.parametrize("tick", [0, 13, 47])
def test_a_dropped_latch_stops_the_day_before_its_next_half_hour(founded, tick):
    sandbox = founded("a.db")
    asked: list[int] = []

    def halted() -> Verdict:
        asked.append(1)
        return Verdict(FAIL, "not_halted", "halted: by hand.") if len(asked) > tick else going()

    with pytest.raises(Stopped) as stopped:
        play(market(sandbox.platform, halted=halted), sandbox)
    assert stopped.value.verdict.rule == "not_halted"
    assert (sandbox.platform.account().day, sandbox.platform.account().tick) == (0, tick)


def test_a_tripped_guard_pauses_the_days_campaigns_and_the_day_is_told_to_its_end(founded):
    sandbox = founded("a.db")

    def watch(tick: int, spent: int, planned: int) -> Verdict:
        assert spent >= 0
        assert planned > 0
        return Verdict(FAIL if tick >= 16 else PASS, "spend_velocity", "a test says so.")

    day = play(market(sandbox.platform), sandbox, watch=watch)
    assert day.tripped is not None
    assert day.tripped.rule == "spend_velocity"
    assert {c.status for c in sandbox.platform.campaigns("acct/")} == {"PAUSED"}
    assert day.cost_micros[:, :16].sum() > 0
    assert (day.cost_micros[:, 16:] == 0).all()
    assert day.log_bid.shape == (2, 48)


def test_a_platform_that_reports_another_campaign_is_refused_by_name(founded):
    sandbox = founded("a.db")
    sandbox.platform.pause(["acct/m1"])
    with pytest.raises(PlatformError, match="reported nothing for acct/m1 on day 0, half hour 0"):
        play(market(sandbox.platform), sandbox)


# ---- settled


def test_settled_conversions_agree_with_the_day_and_become_its_episodes(founded):
    sandbox = founded("a.db")
    day = play(market(sandbox.platform), sandbox)
    sandbox.platform.skip(4, 0)
    rows = sandbox.platform.settled("acct/", 0, 0)
    final = settled_conversions(day, rows)
    assert final.shape == (2, 48)
    assert (final.sum(axis=1) >= day.arrived[:, -1]).all(), (
        "some conversions arrive after midnight, none vanishes"
    )
    batch = episodes_of(
        day, final, schema=SCHEMA, mask=MASK, source=Source.LIVE, phase="real_testing", actor_hashes={"incumbent": "a"},
        pacer_hash="pacer", seed=7, hidden_width=0, settled_at="day 3",
    )  # fmt: skip
    batch.check(observation_size=256, action_size=64)
    spend = day.cost_micros.sum(axis=1) / 1e6
    target = np.array([slot.target_cpa_micros / 1e6 for slot in day.slots])
    done = final.sum(axis=1)
    excess = np.maximum(1.0, spend / np.maximum(done * target, 1e-12))
    assert batch.score == pytest.approx(done / excess**2)
    assert batch.reward.sum(axis=1) == pytest.approx(batch.score / np.maximum(day.scale, 2.0), rel=1e-5)
    assert batch.spend == pytest.approx(spend)


def test_a_bill_that_changed_after_the_day_is_refused(founded):
    sandbox = founded("a.db")
    day = play(market(sandbox.platform), sandbox)
    sandbox.platform.skip(4, 0)
    rows = sandbox.platform.settled("acct/", 0, 0)
    day.cost_micros[1, 30] += 1
    with pytest.raises(PlatformError, match="acct/m1, day 0, half hour 30: settled cost"):
        settled_conversions(day, rows)
    day.cost_micros[1, 30] -= 1
    with pytest.raises(PlatformError, match="do not cover every campaign and half hour"):
        settled_conversions(day, rows[:-1])


# ---- exact chances


GRID = (np.arange(100_000) + 0.5) / 100_000
"""Midpoints: the share of them that picks a move is its probability to one part in a hundred thousand."""


def picked(chooser: object, observation: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(share of the uniforms that pick each move [A], the one log-probability told with it [A], nan where never)."""
    n = len(GRID)
    got = chooser.choose(
        np.broadcast_to(observation, (n, len(observation))), np.broadcast_to(mask, (n, len(mask))), GRID
    )
    share = np.bincount(got.move, minlength=len(mask)) / n
    told = np.full(len(mask), np.nan)
    for move in np.unique(got.move):
        (told[move],) = set(got.log_prob[got.move == move].tolist())
    return share, told


@dataclass(frozen=True)
class Fixed:
    """An exported policy that always answers the same."""

    row: np.ndarray
    hash: str = "fixed"

    def probabilities(self, observation: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.broadcast_to(self.row, (len(observation), len(self.row)))


def lopsided(mask: np.ndarray) -> np.ndarray:
    row = np.where(mask, np.random.default_rng(3).gamma(0.3, size=len(mask)), 0.0)
    return (row / row.sum()).astype(np.float32)


@pytest.mark.parametrize("keep", [0.1, 0.65])
@pytest.mark.parametrize("items", [1, 2])
def test_fixed_chances_are_told_as_they_are_played(keep, items):
    mask = move_mask(SCHEMA, line_items=items)
    chances = exploration(SCHEMA, mask, keep)
    share, told = picked(FixedChances(chances, "x"), np.zeros(256, np.float32), mask)
    assert share == pytest.approx(chances, abs=2e-5)
    assert np.exp(told[mask]) == pytest.approx(chances[mask], rel=1e-12)
    assert np.isnan(told[~mask]).all()


def test_the_pacer_alone_always_makes_the_zero_move_with_probability_one():
    got = KEPT.choose(np.zeros((3, 256), np.float32), np.tile(MASK, (3, 1)), np.array([0.0, 0.5, 1 - 2**-53]))
    assert got.move.tolist() == [SCHEMA.zero_move] * 3
    assert got.log_prob.tolist() == [0.0] * 3


@pytest.mark.parametrize("items", [1, 2])
def test_the_live_actor_tells_exactly_the_probability_it_plays_with(items):
    mask = move_mask(SCHEMA, line_items=items)
    row = lopsided(mask)
    share, told = picked(Actor(Fixed(row)), np.zeros(256, np.float32), mask)
    # Worked again from its description: sharpened to the third power, and four in a hundred spread alike.
    sharp = row.astype(np.float64) ** SHARPNESS
    chances = (1 - FLOOR) * sharp / sharp.sum() + FLOOR * mask / mask.sum()
    assert chances.sum() == pytest.approx(1.0)
    assert share == pytest.approx(chances, abs=2e-5)
    assert np.exp(told[mask]) == pytest.approx(chances[mask], rel=1e-12)
    assert np.isnan(told[~mask]).all(), "a masked move is never made"


def test_every_allowed_move_of_the_live_actor_keeps_its_floor():
    sure = np.eye(64, dtype=np.float32)[SCHEMA.zero_move]
    chances = Actor(Fixed(sure)).chances(np.zeros((1, 256), np.float32), MASK[None])[0]
    assert chances[MASK].min() == pytest.approx(FLOOR / 8)
    assert chances[SCHEMA.zero_move] == pytest.approx(1 - FLOOR + FLOOR / 8)
    assert (chances[~MASK] == 0).all()


@pytest.mark.parametrize("uniform", [0.0, 2**-53, 1 - 2**-53])
def test_the_outermost_uniforms_still_pick_an_allowed_move(uniform):
    for chooser in (RANDOMISED, Actor(Fixed(lopsided(MASK)))):
        got = chooser.choose(np.zeros((1, 256), np.float32), MASK[None], np.array([uniform]))
        assert MASK[got.move[0]]

"""The contests behind `make bench-market`: one function for each line, timed turn by turn in one pinned process.

It judges nothing: every function answers with figures, one for each repetition. Every size stands here.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import numpy_auction
from campaign_worlds import sized_market
from gaelp.bidding.rules import Format, Rules
from gaelp.market.auction import Bought, Outcome, cell, run_auctions
from gaelp.market.campaign import CampaignMarket
from side_by_side import Timed, Work, take_turns

GSP = Rules(Format.GSP, (1.0, 0.8, 0.6), reserve=100)
BIDDERS, HALF_HOURS, PER_HALF_HOUR = 48, 48, 10_417
"""500,016 impressions."""
TYPICAL_BID = 1_000
BUDGET = 0.9
"""The typical budget, of what its owner would spend if nobody's money ended; its log has standard deviation 0.5."""

OUR_DAYS, NUMPY_DAYS = 20, 5
"""Days in one timed turn: about half a second of each, so that a neighbour on the core costs both alike."""

ITEMS, SAMPLES = 64, 64
CELLS = ITEMS * HALF_HOURS
BANK = 4096
ROUNDS = 20
"""Times that all cells are played in one compiled call, each time at other bids."""


def auctions(repetitions: int) -> Timed:
    """Million impressions per second of ours and NumPy's, whole money, half hour by half hour; and in how many
    places the two differ, which must be none."""
    rng = np.random.default_rng(0)
    level = rng.normal(0.0, 0.3, (BIDDERS, 1))
    days = [_half_hour(level, rng) for _ in range(HALF_HOURS)]
    plenty = np.full(BIDDERS, 2**31 - 1, np.int32)
    device = [tuple(jnp.asarray(x) for x in day) for day in days]
    by_row = [(np.ascontiguousarray(bids.T), seen) for bids, seen in days]

    def ours(left: np.ndarray) -> tuple[list[Outcome], jax.Array]:
        purse, sold = jnp.asarray(left), []
        for bids, seen in device:
            sold.append(run_auctions(GSP, bids, purse, seen))
            purse = sold[-1].left
        return jax.block_until_ready((sold, purse))

    def theirs(left: np.ndarray) -> tuple[list[numpy_auction.Sold], np.ndarray]:
        purse, sold = left.astype(np.int64), []
        for bids, seen in by_row:
            sold.append(numpy_auction.run_auctions(bids, purse, seen, int(GSP.reserve)))
            purse = sold[-1].left
        return sold, purse

    unlimited = plenty - theirs(plenty)[1]
    left = (BUDGET * rng.lognormal(0.0, 0.5, BIDDERS) * unlimited).astype(np.int32)
    impressions = HALF_HOURS * PER_HALF_HOUR
    works: dict[str, Work] = {
        "ours": lambda: _done([ours(left)[1] for _ in range(OUR_DAYS)], OUR_DAYS * impressions),
        "numpy": lambda: _done([theirs(left)[1] for _ in range(NUMPY_DAYS)], NUMPY_DAYS * impressions),
    }
    turns = take_turns(works, repetitions)
    (mine, purse), (other, other_purse) = ours(left), theirs(left)
    differing = int((np.asarray(purse) != other_purse).sum()) + sum(
        int((np.asarray(getattr(a, name)) != getattr(b, name)).sum())
        for a, b in zip(mine, other, strict=True)
        for name in ("bidder", "price", "cost")
    )
    timed = turns.shown(
        _millions,
        f"{BIDDERS} bidders, {GSP.slots} slots (GSP), {impressions:,} impressions in {HALF_HOURS} half hours, int32 "
        f"money; {int((other_purse < TYPICAL_BID).sum())} budgets end, {differing} of "
        f"{3 * GSP.slots * impressions + BIDDERS:,} results differ",
    )
    return replace(timed, figures={**timed.figures, "differing": [float(differing)]})


def _half_hour(level: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Bids [bidders,N] and seen slots [slots,N]. The log of a bid differs between bidders, half hours and impressions,
    with standard deviations 0.3, 0.2 and 0.8."""
    moved = level + rng.normal(0.0, 0.2, level.shape)
    bids = TYPICAL_BID * np.exp(moved + rng.normal(0.0, 0.8, (BIDDERS, PER_HALF_HOUR)))
    return bids.astype(np.int32), rng.random(PER_HALF_HOUR) < np.array(GSP.exposure)[:, None]


KINDS = {
    "second price": Rules(Format.SECOND_PRICE),
    "first price": Rules(Format.FIRST_PRICE),
    "gsp": Rules(Format.GSP, (1.0, 0.8, 0.6)),
}


def cells(repetitions: int) -> Timed:
    """Million sampled auctions per second of one bidder's cells. By format, from prepared prices; and `drawn`, with
    each cell's auctions read from a bank at a place of its own and scaled to its price level, as worlds do."""
    rng = np.random.default_rng(0)
    bid = jnp.asarray(rng.lognormal(0.0, 0.5, CELLS), jnp.float32)
    weight, left = jnp.full(CELLS, 3.0), jnp.full(CELLS, 60.0)
    works: dict[str, Work] = {}
    for name, rules in KINDS.items():
        prices = -np.sort(-rng.lognormal(0.0, 0.7, (rules.slots, CELLS, SAMPLES)), axis=0)
        value = rng.lognormal(-3.0, 0.8, (CELLS, SAMPLES))
        given = jnp.asarray(prices, jnp.float32), jnp.asarray(value, jnp.float32), weight, left
        works[name] = _playing(jax.jit(partial(_rounds, rules)), bid, *given)
        bank = jnp.asarray(-np.sort(-rng.normal(size=(rules.slots, BANK)), axis=0), jnp.float32)
        at = jnp.asarray(rng.integers(0, BANK, CELLS), jnp.int32)
        level, spread = (jnp.asarray(rng.normal(mean, 0.1, CELLS), jnp.float32) for mean in (0.0, 0.7))
        drawn = jax.jit(partial(_drawn_rounds, rules))
        works[f"{name}, drawn"] = _playing(drawn, bid, bank, at, level, spread, weight, left)
    return take_turns(works, repetitions).shown(
        _millions,
        f"{CELLS:,} cells ({ITEMS} line items x {HALF_HOURS} half hours) of {SAMPLES} sampled auctions, float32",
    )


def _playing(rounds: jax.stages.Wrapped, *given: jax.Array) -> Work:
    return lambda: _done(jax.block_until_ready(rounds(*given)), ROUNDS * CELLS * SAMPLES)


def _rounds(
    rules: Rules, bid: jax.Array, prices: jax.Array, value: jax.Array, weight: jax.Array, left: jax.Array
) -> Bought:
    def again(bid: jax.Array, _: None) -> tuple[jax.Array, Bought]:
        return bid * 1.01, cell(rules, bid, prices, value, weight, left)

    return jax.lax.scan(again, bid, None, length=ROUNDS)[1]


def _drawn_rounds(
    rules: Rules, bid: jax.Array, bank: jax.Array, at: jax.Array, level: jax.Array, spread: jax.Array,
    weight: jax.Array, left: jax.Array,
) -> Bought:  # fmt: skip
    def again(bid: jax.Array, number: jax.Array) -> tuple[jax.Array, Bought]:
        z = bank[:, (at[:, None] + number + jnp.arange(SAMPLES)) % BANK]
        prices = jnp.exp(level[:, None] + spread[:, None] * z)
        value = 0.05 * jnp.exp(-0.3 * z[0])
        return bid * 1.01, cell(rules, bid, prices, value, weight, left)

    return jax.lax.scan(again, bid, 7 * jnp.arange(ROUNDS))[1]


@dataclass(frozen=True)
class Size:
    """A campaign market's size. Its unit of work is one sampled auction of one line item in one half hour."""

    items: int
    samples: int
    worlds: int

    @property
    def steps(self) -> int:
        """Half hours of campaigns."""
        return self.worlds * HALF_HOURS

    def __str__(self) -> str:
        return f"{self.items} x {self.samples}, {self.worlds} worlds"


PLAYED = 32
"""Worlds played together: the table's larger batch is eight parts of so many."""
MIDDLE, LARGEST = Size(8, 64, PLAYED), Size(64, 256, 8 * PLAYED)
SIZES = tuple(
    Size(items, samples, worlds)
    for items in (1, 8, 64)
    for samples in (16, 64, 256)
    for worlds in (PLAYED, 8 * PLAYED)
)


def campaigns(repetitions: int) -> Timed:
    """Half hours of campaigns per second: worlds drawn, and in each its pacer, auctions, users and report."""
    works: dict[str, Work] = {}
    for items in (1, 8, 64):
        for samples in (16, 64, 256):
            market = sized_market(items=items, samples=samples, chunk=PLAYED)
            for size in SIZES:
                if (size.items, size.samples) == (items, samples):
                    works[str(size)] = partial(_judge, market, size)
    turns = take_turns(works, repetitions)
    timed = turns.shown(
        lambda seconds: 1.0 / seconds,
        f"line items x sampled auctions of each a half hour; {PLAYED} worlds at a time, the pacer alone, second price",
    )
    return replace(timed, told=(*timed.told, *_table(timed)))


def _judge(market: CampaignMarket, size: Size) -> float:
    market.pacer(market.certified, np.arange(size.worlds))
    return float(size.steps)


def _table(timed: Timed) -> tuple[str, ...]:
    """By size: thousand steps and nanoseconds of a unit, medians, in processor seconds."""
    lines = [f"{'in processor seconds':<24}{'thousand steps/s':>18}{'ns a unit':>12}"]
    for size in SIZES:
        rate = statistics.median(timed.processor[str(size)])
        lines.append(f"{size!s:<24}{rate / 1e3:>18,.1f}{1e9 / (rate * size.items * size.samples):>12,.2f}")
    return tuple(lines)


def dearer(timed: Timed, large: Size, small: Size) -> list[float]:
    """How many times as long a unit of work takes in the large size, in processor seconds, by repetition."""
    units = large.items * large.samples / (small.items * small.samples)
    return [
        slow / (fast * units)
        for slow, fast in zip(timed.processor[str(small)], timed.processor[str(large)], strict=True)
    ]


MEMORY = Size(64, 64, 1_024)
MEMORY_CHUNK = 128


def memory(_: int) -> Timed:
    """Peak megabytes of processes of their own: one chunk of worlds, eight chunks, and the eight at once."""
    chunk = MEMORY_CHUNK
    played = {
        "one chunk": (chunk, chunk),
        "eight chunks": (MEMORY.worlds, chunk),
        "all at once": (MEMORY.worlds,) * 2,
    }
    peaks = {name: [_peak_mb(worlds, together)] for name, (worlds, together) in played.items()}
    told = (
        f"{MEMORY.items} line items x {MEMORY.samples} sampled auctions; {chunk} worlds, {MEMORY.worlds:,} in parts of "
        f"{chunk}, and at once; each with Python and JAX"
    )
    return Timed(figures=peaks, processor={}, compiling_s={}, told=(told,))


def _peak_mb(worlds: int, chunk: int) -> float:
    script = Path(__file__).with_name("market_memory.py")
    told = [sys.executable, str(script), *(str(n) for n in (MEMORY.items, MEMORY.samples, worlds, chunk))]
    return float(subprocess.run(told, check=True, capture_output=True, text=True).stdout) / 2**20


def _done(_: object, how_much: int) -> float:
    return float(how_much)


def _millions(seconds: float) -> float:
    return 1e-6 / seconds

"""Auctions: who wins which slot, what it costs, and what the money left allows. Knows no users, clock or world.

Bids and prices are money per view, in the units by which the market ranks. In every impression

- whoever bids at least the reserve takes part; the higher bid ranks first, of equal bids the bidder listed first;
- second price: the one slot goes to the first rank for the second's bid; first price: for the winner's own bid;
- GSP: slot s goes to rank s for the bid of rank s + 1;
- no price is below the reserve, which is also the price where nobody bids below;
- a view is paid for when the slot is seen.

Budgets bind at the impression, in the order of arrival: a bid is the least of what is bid and what its bidder has
left. So nobody is charged beyond what is left, a bidder who runs short goes on with what it has and still sets the
prices of others, and cheaper impressions may be won after a dear one was lost. Where an impression stands for several
views, one that the winner cannot pay whole is its last: it pays what it has left, gets the share of the views that this
pays, and the other views stay unsold. `market.replay` follows the same rule for one bidder.

Integer bids are exact money. With floats, sums differ in the last digits when a batch is cut otherwise, and with
them what the last coins of a purse buy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpy.typing import NDArray

from gaelp.bidding.rules import Format, Rules
from gaelp.core.errors import BadInput, ShapeError

NOBODY = -1
"""The holder of a slot that nobody bought."""
WINDOW = 512
"""Impressions ranked at a time as if no money ran short in between; a matter of speed alone."""
GROUP = 16
"""Where money does run short, it is followed impression by impression within this many."""
NETWORK = 64
"""Bidders that are ranked by one straight-line program; more are ranked in groups."""
_OUT = -1
"""The bid of whoever takes no part: below every reserve."""


class Outcome(NamedTuple):
    """What was sold; [slots,N] unless said. An unsold slot has holder NOBODY and zeros."""

    bidder: jax.Array
    price: jax.Array
    """For one view."""
    views: jax.Array
    """Views the holder paid for: all that were to be had, or a share where its money ended."""
    cost: jax.Array
    left: jax.Array
    """[bidders] money after the last impression."""


def expected_views(rules: Rules, weight: jax.Array) -> jax.Array:
    """Views of each slot in expectation, [slots,N] float32, of impressions that stand for `weight` [N] each."""
    return jnp.asarray(rules.exposure, jnp.float32)[:, None] * weight


def drawn_views(rules: Rules, attention: jax.Array) -> jax.Array:
    """Which slots are seen, [slots,N] bool, by `attention` [N] uniform on [0, 1).

    One number for all slots of an impression: whoever sees a slot has seen those before it.
    """
    return attention < jnp.asarray(rules.exposure, attention.dtype)[:, None]


def run_auctions(
    rules: Rules, bids: jax.Array, left: jax.Array, views: jax.Array, *, window: int = WINDOW
) -> Outcome:
    """Sell N impressions in the order of their arrival.

    bids: [bidders,N] finite money per view, int32 or float32, impressions last because they are worked on side by
    side; below the reserve, for instance below 0, takes no part. left: [bidders] money of the same type, at least 0;
    jnp.inf is endless. views: [slots,N], how many views each slot has (`drawn_views`, `expected_views`): bool, or with
    float money float32, finite and at least 0. Raises ShapeError and BadInput when they are not that; inside another
    function's jit or vmap, where no number is known, only shapes and types are looked at. Compiled once for each format
    and shape.

    While no money ends, a higher bid wins no fewer impressions and views and spends no less, in every format, where no
    slot has more views than the one before it. With a budget it may: the money may go to dearer impressions.
    """
    _check(rules, bids, left, views, window)
    # NumPy's, since a number on its way to the device costs more than a small market.
    return _run(rules.format, bids, left, views, np.asarray(rules.reserve, bids.dtype), window)


@partial(jax.jit, static_argnames=("format", "window"))
def _run(
    format: Format, bids: jax.Array, left: jax.Array, views: jax.Array, reserve: np.ndarray, window: int
) -> Outcome:
    """A window of impressions is ranked as if no money ran short in it. What that does not change is kept, up to the
    first impression in which somebody who matters may have had less left; the next window begins there. At the worst,
    where a purse that is bid whole sets prices and is being spent, a window sells one impression.
    """
    n, slots = bids.shape[1], views.shape[0]
    ranks = slots if format is Format.FIRST_PRICE else slots + 1
    group = min(GROUP, window, n)
    size = min(window, n) // group * group
    seen = views.astype(bids.dtype)

    def sell_window(sold: _Sold) -> _Sold:
        start = jnp.minimum(sold.until, n - size)
        fresh = jnp.arange(size) >= sold.until - start
        who = _leaders(bids, sold.left, start, size, ranks)
        money = sold.left[who]
        bid = jnp.minimum(bids[who, start + jnp.arange(size)], money)
        bid = jnp.where((bid >= reserve) & fresh, bid, _OUT)
        who, money, bid = (_filled_up(x, ranks, fill) for x, fill in ((who, 0), (money, 0), (bid, _OUT)))
        asked = bid[:slots] if format is Format.FIRST_PRICE else jnp.maximum(bid[1:], reserve)
        taken = bid[:slots] >= 0
        price = jnp.where(taken, asked, 0)
        here = jax.lax.dynamic_slice(seen, (0, start), (slots, size))
        cost = jnp.minimum(price * here, money[:slots])
        accepted, left = _settled(format, _Ranked(who, bid, price, cost), sold.left, group)

        def put(into: jax.Array, new: jax.Array) -> jax.Array:
            old = jax.lax.dynamic_slice(into, (0, start), (slots, size))
            return jax.lax.dynamic_update_slice(into, jnp.where(fresh, new, old), (0, start))

        # What is written behind the accepted part is written again by the next window.
        return _Sold(
            start + accepted, left, put(sold.bidder, jnp.where(taken, who[:slots], NOBODY)),
            put(sold.price, price), put(sold.cost, cost),
        )  # fmt: skip

    nothing = jnp.zeros((slots, n), bids.dtype)
    unsold = jnp.full((slots, n), NOBODY, jnp.int32)
    begin = _Sold(jnp.int32(0), left, unsold, nothing, nothing)
    sold = jax.lax.while_loop(lambda sold: sold.until < n, sell_window, begin)
    bought = jnp.where(sold.bidder == NOBODY, 0, seen)
    if jnp.issubdtype(bids.dtype, jnp.floating):
        short = sold.cost < sold.price * bought
        bought = jnp.where(short, sold.cost / jnp.where(short, sold.price, 1), bought)
    return Outcome(sold.bidder, sold.price, bought, sold.cost, sold.left)


class _Sold(NamedTuple):
    """What is certain before impression `until`."""

    until: jax.Array
    left: jax.Array
    bidder: jax.Array
    price: jax.Array
    cost: jax.Array


class _Ranked(NamedTuple):
    """A window's leaders [ranks,n], and what the slots would cost [slots,n]."""

    who: jax.Array
    bid: jax.Array
    price: jax.Array
    cost: jax.Array

    def part(self, start: jax.Array, size: int) -> _Ranked:
        return _Ranked(*(jax.lax.dynamic_slice_in_dim(x, start, size, axis=1) for x in self))


def _settled(format: Format, ranked: _Ranked, left: jax.Array, group: int) -> tuple[jax.Array, jax.Array]:
    """How many of a window's impressions, from its first, are as they would be one after another; what is left then.

    In three steps, the cheapest first, each looking only where the one before was in doubt: what all impressions
    cost together, what they cost group by group, and one by one within the first doubtful group.
    """
    slots, size = ranked.cost.shape
    who = ranked.who[:slots]
    total = jnp.zeros_like(left).at[who].add(ranked.cost)

    def with_care(_: None) -> tuple[jax.Array, jax.Array]:
        groups = size // group
        of = jnp.arange(size) // group
        spent = jnp.cumsum(jnp.zeros((groups, len(left)), left.dtype).at[of, who].add(ranked.cost), axis=0)
        doubtful = _doubtful(format, ranked, (left - spent)[of, ranked.who], summed=group)
        first = jnp.argmax(doubtful) // group
        before = left - jnp.where(first > 0, spent[first - 1], 0)
        near, each = ranked.part(first * group, group), jnp.arange(group)
        cost = jnp.zeros((group, len(left)), left.dtype).at[each, near.who[:slots]].add(near.cost)
        spent_near = jnp.cumsum(cost, axis=0)
        room = before - (spent_near - cost)
        unsure = _doubtful(format, near, room[each, near.who], summed=1)
        certain = jnp.where(unsure.any(), jnp.argmax(unsure), group)
        after = before - jnp.where(certain > 0, spent_near[certain - 1], 0)
        some = doubtful.any()
        # Rounded sums of floats may miss an emptied purse by their last digit.
        return jnp.where(some, first * group + certain, size), jnp.maximum(
            jnp.where(some, after, left - spent[-1]), 0
        )

    doubtful = _doubtful(format, ranked, (left - total)[ranked.who], summed=size)
    return jax.lax.cond(
        doubtful.any(), with_care, lambda _: (jnp.asarray(size, jnp.int32), left - total), None
    )


def _doubtful(format: Format, ranked: _Ranked, room: jax.Array, summed: int) -> jax.Array:
    """Impressions [n] whose outcome may be another when their leaders have only `room` [ranks,n] left.

    Nothing changes while every leader can still bid what it was ranked by. The first rank may even fall short of
    that where its bid is no price: it still wins while it can bid above the price it pays.
    summed: how many impressions' costs went into `room` unseen; a sum of so many must not leave its integer type.
    """
    short = ranked.bid > room
    if format is not Format.FIRST_PRICE:
        short = short.at[0].set(short[0] & (room[0] <= ranked.price[0]))
    unpaid = ranked.cost > room[: len(ranked.cost)]
    if summed > 1 and jnp.issubdtype(ranked.cost.dtype, jnp.integer):
        unpaid |= ranked.cost > jnp.iinfo(ranked.cost.dtype).max // summed
    return short.any(axis=0) | unpaid.any(axis=0)


def _leaders(bids: jax.Array, left: jax.Array, start: jax.Array, size: int, ranks: int) -> jax.Array:
    """The bidders of the highest bids, each at most what is left, of impressions start to start + size.

    [min(ranks, bidders), size], the highest first.
    """
    count = bids.shape[0]
    ranks, bits = min(ranks, count), max(1, (count - 1).bit_length())
    pieces = 2 if size % 2 == 0 else 1
    piece = size // pieces

    def ranked(at: jax.Array) -> list[jax.Array]:
        mine = jnp.minimum(jax.lax.dynamic_slice(bids, (0, at), (count, piece)), left[:, None])
        return _packed(_first_of(list(mine), ranks), bits)

    # A loop, and few results that hold all ranks: XLA computes an expression anew inside each of its users, and the
    # ranking has many.
    words = jax.lax.map(ranked, start + piece * jnp.arange(pieces))
    return _unpacked([word.reshape(size) for word in words], bits, ranks)


def _first_of(rows: Sequence[jax.Array], ranks: int) -> list[jax.Array]:
    """Per lane, the indices of the highest `ranks` of `rows` [n], of equal ones the earlier row first."""
    # Each group hands on at most half of its members, so that the next round is shorter.
    width = max(NETWORK, 2 * ranks)
    if len(rows) <= width:
        return _network(rows, ranks)
    lowest = -jnp.inf if jnp.issubdtype(rows[0].dtype, jnp.floating) else jnp.iinfo(rows[0].dtype).min
    table = jnp.stack([*rows, *[jnp.full_like(rows[0], lowest)] * (-len(rows) % width)])
    bits = (width - 1).bit_length()
    words = jax.lax.map(
        lambda part: _packed(_network(list(part), ranks), bits), table.reshape(-1, width, table.shape[1])
    )
    best = jax.vmap(lambda *group: _unpacked(list(group), bits, ranks))(*words)
    best = (best + width * jnp.arange(len(best))[:, None, None]).reshape(-1, table.shape[1])
    again = _first_of(list(jnp.take_along_axis(table, best, axis=0)), ranks)
    return list(jnp.take_along_axis(best, jnp.stack(again), axis=0))


def _network(rows: Sequence[jax.Array], ranks: int) -> list[jax.Array]:
    """The same by insertion, row after row: vector instructions only, where XLA's sort takes a lane at a time."""
    best: list[jax.Array] = []
    index: list[jax.Array] = []
    for j, row in enumerate(rows):
        own = jnp.full(row.shape, j, jnp.int32)
        above = [row > bid for bid in best]

        def inserted(old: list[jax.Array], new: jax.Array, above: list[jax.Array] = above) -> list[jax.Array]:
            shifted = [new, *(jnp.where(a, x, new) for a, x in zip(above, old, strict=True))]
            kept = [jnp.where(a, s, x) for a, s, x in zip(above, shifted[:-1], old, strict=True)]
            return [*kept, shifted[-1]][:ranks]

        best, index = inserted(best, row), inserted(index, own)
    return index


def _packed(index: Sequence[jax.Array], bits: int) -> list[jax.Array]:
    """Several small numbers in each int32."""
    each = 31 // bits
    words = []
    for first in range(0, len(index), each):
        word = index[first]
        for k, number in enumerate(index[first + 1 : first + each], 1):
            word = word | (number << (bits * k))
        words.append(word)
    return words


def _unpacked(words: Sequence[jax.Array], bits: int, count: int) -> jax.Array:
    """`count` numbers, [count,n]."""
    each = 31 // bits
    return jnp.stack([(words[k // each] >> (bits * (k % each))) & ((1 << bits) - 1) for k in range(count)])


def _filled_up(x: jax.Array, ranks: int, fill: int) -> jax.Array:
    """[ranks,n], where fewer bidders than ranks exist."""
    return jnp.pad(x, ((0, ranks - len(x)), (0, 0)), constant_values=fill)


def _check(rules: Rules, bids: jax.Array, left: jax.Array, views: jax.Array, window: int) -> None:
    money = bids.dtype
    if bids.ndim != 2 or 0 in bids.shape:
        raise ShapeError(
            f"bids have shape {list(bids.shape)}, expected [bidders, impressions], at least one each."
        )
    bidders, n = bids.shape
    for name, got, want in (("left", left, (bidders,)), ("views", views, (rules.slots, n))):
        if got.shape != want:
            raise ShapeError(f"{name} has shape {list(got.shape)}, expected {list(want)}.")
    if money not in (jnp.int32, jnp.float32):
        raise BadInput(f"bids are {money}, expected int32 or float32.")
    if left.dtype != money:
        raise BadInput(f"left is {left.dtype}, expected {money} as the bids are.")
    if views.dtype != jnp.bool_ and not (money == jnp.float32 and views.dtype == jnp.float32):
        raise BadInput(f"views are {views.dtype}, expected bool, or float32 where money is float32.")
    if money == jnp.int32 and (rules.reserve != int(rules.reserve) or rules.reserve > jnp.iinfo(money).max):
        raise BadInput(f"reserve is {rules.reserve}, expected a whole price of int32 as the bids are.")
    if window < 1:
        raise BadInput(f"window is {window}, expected at least 1 impression.")
    # Whole bids are finite, and bool views are none or one: no need to look at them one by one.
    if money == jnp.float32:
        _expect(bids, "bids", np.isfinite, "a finite number")
    if views.dtype == jnp.float32:
        _expect(views, "views", lambda seen: np.isfinite(seen) & (seen >= 0), "a finite number of at least 0")
    _expect(left, "left", lambda purse: purse >= 0, "a number of at least 0")


def _expect(
    got: jax.Array, name: str, fine: Callable[[NDArray[Any]], NDArray[np.bool_]], expected: str
) -> None:
    """Raises BadInput with the first number of `got` that is not fine, where its numbers are known yet."""
    if isinstance(got, Tracer):
        return
    told = np.asarray(got)
    sound = fine(told)
    if not sound.all():
        place = tuple(int(at[0]) for at in np.nonzero(~sound))
        raise BadInput(f"{name}{list(place)} is {told[place]}, expected {expected}.")


class Placed(NamedTuple):
    """Where one bidder ends up in each auction of a cell; [...,n]."""

    held: jax.Array
    """Whether it holds any slot."""
    seen: jax.Array
    """Share of the views in which its slot is seen; 0 where it holds none."""
    price: jax.Array
    """Money that a unit of value costs there; without meaning where it holds no slot."""


def placed(
    rules: Rules,
    bid: jax.Array,
    competing: Sequence[jax.Array],
    *,
    money: Callable[[jax.Array], jax.Array] = lambda price: price,
) -> Placed:
    """The best slot that a `bid` [...] reaches in each auction, and its price; ties are won.

    competing: for each slot what must be bid for it [...,n], finite, the highest first, on one scale with the bid.
    money: turns that scale into money, `jnp.exp` where it is a logarithm.
    """
    own = bid[..., None]
    held = own >= competing[-1]
    seen = jnp.where(held, rules.exposure[-1], 0.0)
    # Not masked where nothing is held: in the one-slot formats that would cost a tenth of a world's time.
    price = money(own if rules.format is Format.FIRST_PRICE else competing[-1])
    for share, rival in zip(rules.exposure[-2::-1], competing[-2::-1], strict=True):
        ahead = own >= rival
        seen, price = jnp.where(ahead, share, seen), jnp.where(ahead, money(rival), price)
    return Placed(held, seen, price)


class Bought(NamedTuple):
    """What one bidder buys in each cell; floats, shaped as the cells."""

    impressions: jax.Array
    """Views."""
    clicks: jax.Array
    """Or whatever else `value` counts."""
    cost: jax.Array


def cell(
    rules: Rules, bid: jax.Array, competing: jax.Array, value: jax.Array, weight: jax.Array, left: jax.Array
) -> Bought:
    """One bidder against given prices in cells of n sampled auctions each, in expectation over what is seen.

    bid: [...] per unit of value, for instance per click. competing: [slots,...,n] the highest rival bids of each
    auction, the highest first, as ratios to this bidder's value there: what it must bid per unit of value; it wins
    ties. value: [...,n] what one view is worth (for instance clicks), above 0. weight: [...] auctions that each sampled
    one stands for. left: [...] money; jnp.inf is endless.

    The n auctions are exchangeable: they run side by side, and where the money ends they all end at once, each
    with the same share of its views (`affordable_share`). It is what `run_auctions` does on average over all orders of
    arrival, once each auction costs little of what is left.
    """
    if competing.shape[0] != rules.slots:
        raise ShapeError(
            f"competing has {competing.shape[0]} bids an auction, expected {rules.slots}, one a slot."
        )
    if rules.reserve:
        competing = jnp.maximum(competing, rules.reserve / value)
    _, seen, price = placed(rules, bid, [competing[slot] for slot in range(rules.slots)])
    clicks = seen * value
    # Three sums and not one of three: XLA would compute what leads to the prices once for each.
    impressions, clicks_all, cost = (weight * x.sum(axis=-1) for x in (seen, clicks, clicks * price))
    paid = affordable_share(cost, left)
    return Bought(impressions * paid, clicks_all * paid, cost * paid)


def affordable_share(cost: jax.Array, left: jax.Array) -> jax.Array:
    """Which share of a `cost` the money `left` pays, in [0, 1]; of no cost, all."""
    left = jnp.maximum(left, 0)
    dear = cost > left
    return jnp.where(dear, left / jnp.where(dear, cost, 1), 1.0)

"""GSP auctions with budgets in NumPy, for the same whole money as `gaelp.market.auction` and by the same rules.

It shares no code with it. A bid and its bidder are one int64, so that `partition` finds holders and prices at once and
ties go to the bidder listed first; a chunk of impressions is kept up to the first one in which a leader's money may
have run short. Rows are impressions, since NumPy partitions rows fastest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CHUNK = 512
"""The fastest of 256, 512, 768 and 1,024 on the machine of docs/benchmarks.md."""


class Sold(NamedTuple):
    """[slots,N]; left [bidders]. An unsold slot has bidder -1."""

    bidder: NDArray[np.int32]
    price: NDArray[np.int32]
    cost: NDArray[np.int32]
    left: NDArray[np.int64]


def run_auctions(
    bids: NDArray[np.int32], left: NDArray[np.int64], seen: NDArray[np.bool_], reserve: int
) -> Sold:
    """bids: [N,bidders], at least 0; left: [bidders], below 2^31; seen: [slots,N]."""
    n, bidders = bids.shape
    slots = len(seen)
    ranks = slots + 1
    bits = (bidders - 1).bit_length()
    mask = (1 << bits) - 1
    earlier_first = mask - np.arange(bidders, dtype=np.int64)
    capped, keys = np.empty((CHUNK, bidders), np.int32), np.empty((CHUNK, bidders), np.int64)
    holder, price, cost = (np.empty((slots, n), np.int32) for _ in range(3))
    at = 0
    while at < n:
        size = min(CHUNK, n - at)
        np.minimum(bids[at : at + size], left.astype(np.int32), out=capped[:size])
        key = keys[:size]
        np.left_shift(capped[:size], bits, out=key, dtype=np.int64)
        np.bitwise_or(key, earlier_first, out=key)
        key.partition(bidders - ranks, axis=1)
        top = key[:, bidders - ranks :]
        top.sort(axis=1)
        top = np.ascontiguousarray(top.T[::-1])

        bid, who = top >> bits, mask - (top & mask)
        taken = bid[:slots] >= reserve
        asked = np.maximum(bid[1:], reserve) * taken
        charged = asked * seen[:, at : at + size]
        # float64 holds these sums exactly.
        total = np.bincount(who[:slots].ravel(), weights=charged.ravel(), minlength=bidders)
        rest, accepted = left - total.astype(np.int64), size
        if ((bid > rest.take(who)) & (bid >= reserve)).any():
            row = np.arange(size)
            spent = np.zeros((size + 1, bidders), np.int64)
            spent[row + 1, who[:slots]] = charged
            np.cumsum(spent, axis=0, out=spent)
            short = ((bid > left.take(who) - spent[row, who]) & (bid >= reserve)).any(axis=0)
            if short.any():
                accepted = int(short.argmax())
                rest = left - spent[accepted]
        kept = slice(at, at + accepted)
        holder[:, kept] = np.where(taken, who[:slots], -1)[:, :accepted]
        price[:, kept], cost[:, kept] = asked[:, :accepted], charged[:, :accepted]
        left, at = rest, at + accepted
    return Sold(holder, price, cost, left)

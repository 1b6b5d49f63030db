"""Suites: fixed families of worlds on which policies are compared. Each is frozen, has a version, and is its hash.

The numbers are chosen, not fitted: a double-peaked day, shocks between days, and one difficulty after the other. Win
rates of a good pacer lie between 10 and 30 %, where an auction still tells something about prices. A change to any
number is a new version.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from gaelp.bidding.landscape import GRID_HIGH, GRID_LOW, Landscape, grid, tabulate
from gaelp.bidding.rules import Format, Rules
from gaelp.core.errors import BadInput, nearest
from gaelp.core.schema import TICKS_PER_DAY
from gaelp.market.oracle import Prices
from gaelp.market.world import BUDGETS, Kind, Posterior, absent, check_posterior

Floats = NDArray[np.float64]

BAR = 0.975
"""Share of the reference that the certified pacer must reach in a suite without room."""
WIN_RATES = (0.10, 0.30)
"""Between which a suite's mean win rate under its certified pacer must lie."""

GSP = Rules(Format.GSP, (1.0, 0.7, 0.5))
FORMATS = {
    "second-price": Rules(Format.SECOND_PRICE), "first-price": Rules(Format.FIRST_PRICE), "gsp": GSP,
}  # fmt: skip


class Room(Enum):
    """What a suite is for."""

    NONE = "no room"
    """Price-taking worlds with known rates: a good pacer leaves next to nothing."""
    SOME = "room"
    """The world answers bids, or several line items with unknown rates and late conversions share one budget and one
    target; prices are given in the second kind."""
    INFORMATION = "information"
    """The gap is what no policy can know."""


class Trait(Enum):
    """One difficulty of a suite's worlds."""

    TARGET = "target"
    """A cost per conversion around what the budget's optimum would cost."""
    DRIFT = "drift"
    """The price level walks over the day, and may jump once."""
    COLD = "cold start"
    """The conversion rate's scale is known up to a log standard deviation of 0.5, half common to all line items."""
    DELAY = "delay"
    """Conversions arrive ten half hours late on average."""
    RIVALS = "rivals"
    """Four rivals with purses; half pace, half spend until they are broke."""
    USERS = "users"
    """Exposure tires within the day, and makes aware."""
    CARRIED = "carried"
    """Users come to the day with what earlier days showed them."""
    WEEK = "week"
    """Weekdays differ in volume and in when their traffic comes."""
    RARE = "rare"
    """A tenth of the users hold half of the value, at dearer prices."""
    LATE = "late"
    """Of the conversions three tenths arrive days later, some after three weeks, and a twentieth is taken back."""
    REPORTS = "reports"
    """Reports show four fifths of impressions, clicks and cost at once, and the rest over hours."""
    ENTRY = "entry"
    """Rivals may come late, or leave early."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A family of worlds, and the landscape that its bidders are given."""

    name: str
    version: int
    room: Room
    kind: Kind
    traits: frozenset[Trait]
    posterior: Posterior
    landscape: Landscape

    def __post_init__(self) -> None:
        check_posterior(self.posterior, self.kind)

    @property
    def prices(self) -> Prices:
        """Whether bids change what the next ones meet."""
        return Prices.ANSWERING if self.traits & {Trait.RIVALS, Trait.USERS} else Prices.GIVEN

    @property
    def has_target(self) -> bool:
        return Trait.TARGET in self.traits

    @property
    def bar(self) -> float | None:
        """What the certified pacer must reach of the reference; None where nothing is asked of it."""
        return BAR if self.room is Room.NONE else None

    @property
    def worn(self) -> Floats:
        """[G] an ordinary day's conversion rate as a share of that of users who were shown nothing."""
        return np.asarray(self.landscape.conversion_rate) / np.asarray(self.posterior.conversion_rate)

    @cached_property
    def hash(self) -> str:
        """Identity: sha256 over version, name, kind, posterior and landscape, 16 hex digits.

        Arrays count in float32, so that another machine's last digit of a logarithm makes no other suite.
        """
        kind = self.kind
        told = (self.version, self.name, kind.rules.format.value, kind.rules.exposure, kind.items, kind.samples,
                kind.rare, kind.levers)  # fmt: skip
        digest = hashlib.sha256(repr(told).encode())
        for part in (self.posterior, self.landscape):
            for name, array in zip(part._fields, part, strict=True):
                digest.update(name.encode())
                digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class _Plan:
    room: Room
    rules: Rules
    traits: frozenset[Trait]
    items: int = 1
    version: int = 1


def _plans() -> dict[str, _Plan]:
    found: dict[str, _Plan] = {}
    for name, rules in FORMATS.items():
        for ending, traits in (
            ("", ()), ("-cpa", (Trait.TARGET,)), ("-drift", (Trait.DRIFT,)),
            ("-cpa-drift", (Trait.TARGET, Trait.DRIFT)),
        ):  # fmt: skip
            found[name + ending] = _Plan(room=Room.NONE, rules=rules, traits=frozenset(traits))
    second = FORMATS["second-price"]
    found["fatigue-cpa"] = _Plan(room=Room.SOME, rules=second, traits=frozenset({Trait.TARGET, Trait.USERS}))
    for name, rules in FORMATS.items():
        found[f"all-{name}"] = _Plan(room=Room.SOME, rules=rules, traits=frozenset(Trait), version=2)
    late = frozenset({Trait.TARGET, Trait.COLD, Trait.DELAY})
    found["eight-items"] = _Plan(room=Room.SOME, rules=second, traits=late, items=8)
    for name, alone in (
        ("cold-start", (Trait.TARGET, Trait.COLD)), ("delay", (Trait.TARGET, Trait.DELAY)), ("rivals", (Trait.RIVALS,)),
    ):  # fmt: skip
        found[name] = _Plan(room=Room.INFORMATION, rules=second, traits=frozenset(alone))
    return found


_PLANS = _plans()
NAMES: tuple[str, ...] = tuple(_PLANS)


def suite_names(asked: str) -> tuple[str, ...]:
    """The suites that `asked` names: one of NAMES, or all. Raises BadInput with the nearest name."""
    if asked == "all":
        return NAMES
    if asked not in _PLANS:
        known = ("all", *NAMES)
        raise BadInput(f"no suite {asked!r}: one of {', '.join(known)}.{nearest(asked, known)}")
    return (asked,)


def expect_win_rate(win_rate: float, name: str) -> float:
    """The win rate itself. Raises BadInput where worlds are too dear or too cheap to learn anything about prices."""
    low, high = WIN_RATES
    if not low <= win_rate <= high:
        raise BadInput(
            f"suite {name}: its certified pacer wins {win_rate:.1%} of the auctions, expected {low:.0%} to {high:.0%}: "
            f"budgets do not fit the prices."
        )
    return win_rate


_FINE = 385
"""Worths tried on the way from a budget to its cost per unit."""
HOUR = np.arange(TICKS_PER_DAY) / 2
_PEAKS = 0.3 + np.exp(-(((HOUR - 12) / 3) ** 2)) + 1.2 * np.exp(-(((HOUR - 20) / 2.5) ** 2))
_DEARER = 0.3 * np.sqrt(2) * np.sin(2 * np.pi * (HOUR - 9) / 24)
"""Log price by half hour, standard deviation 0.3."""

# An impression's log value has standard deviation 0.8, its log price 0.7, and their correlation is 0.5. A price per
# click is price over value: standard deviation 0.755, and clicks_price is log value's covariance with it, over that.
_PRICE_SD = float(np.sqrt(0.8**2 + 0.7**2 - 2 * 0.5 * 0.8 * 0.7))
_CLICKS_PRICE = (0.5 * 0.8 * 0.7 - 0.8**2) / _PRICE_SD
_CLICKS, _CONVERSIONS = 20_000.0, 600.0
"""What a whole market holds on an ordinary day."""
_AUCTIONS = 1_000_000.0
_DELAYED = 0.1
"""Chance per half hour that a pending conversion arrives: ten half hours on average."""
_LATE = 0.004
"""The same of those that take days: five on average."""
_WORN = 0.62
"""Conversion rate of a pacer's ordinary day where users tire and become aware, as a share of the fresh one."""
_WEEKDAYS = np.log([1.079, 1.228, 1.026, 1.007, 0.960, 0.859, 0.840])
"""Log volume from Monday on, and hours by which a weekday's traffic comes later than on average: means over the 114
regions of the Avito traffic data (MIT licence)."""
_LATER = np.array([13.76, 13.16, 13.40, 13.40, 13.29, 13.35, 13.57]) - 13.42
_RARE_SAMPLES = 16
_WALK_MEMORY = 0.995
_WALK_SD = 0.4 / np.sqrt(1.0 - _WALK_MEMORY ** (2 * TICKS_PER_DAY))
"""Of the stationary walk, so that it has moved by 0.4 over a day."""
_BUDGETS = {Format.SECOND_PRICE: (0.03, 0.3), Format.FIRST_PRICE: (0.03, 0.3), Format.GSP: (0.02, 0.2)}
"""Lowest and highest budget, as a share of what winning 98.6 % of the auctions costs."""


@cache
def suite(name: str) -> Suite:
    """The suite of that name, built once. Raises BadInput for another name."""
    if name not in _PLANS:
        raise BadInput(f"no suite {name!r}: one of {', '.join(NAMES)}.{nearest(name, NAMES)}")
    plan = _PLANS[name]
    has = plan.traits.__contains__
    g = plan.items
    one = np.ones(g)
    spread = np.linspace(-1.0, 1.0, g) if g > 1 else np.zeros(1)
    # Eight line items differ in size, price and rate; none of the orders follows another.
    weight = np.exp(0.5 * spread)[_shuffled(g, 3)]
    weight = weight / weight.sum()
    shared = {
        "price_mean": np.log(0.5) + 0.3 * spread[_shuffled(g, 5)], "price_sd": _PRICE_SD * one,
        "clicks_price": _CLICKS_PRICE * one, "click_rate": _CLICKS / _AUCTIONS * one, "cost_scale": one,
        "volume": _AUCTIONS * weight, "price_hour": np.tile(_DEARER, (g, 1)), "price_day_sd": 0.3 * one,
        "slot_gap": (0.3 if plan.rules.format is Format.GSP else 0.0) * one,
        "delay_share": np.tile([0.7, 0.3] if has(Trait.LATE) else [1.0, 0.0], (g, 1)),
        "delay_rate": np.full((g, 2), _DELAYED if has(Trait.DELAY) else 1.0),
    }  # fmt: skip
    if has(Trait.LATE):
        shared["delay_rate"][:, 1] = _LATE
    fresh = _CONVERSIONS / _CLICKS * np.exp(0.3 * spread)
    traffic = np.tile(_PEAKS / _PEAKS.sum(), (g, 1))
    landscape = tabulate(
        rules=plan.rules, **shared, traffic=traffic, order_value=one,
        conversion_rate=fresh * (_WORN if has(Trait.USERS) else 1.0),
    )  # fmt: skip
    least, most = _BUDGETS[plan.rules.format]
    everything = np.asarray(landscape.cost_left)[:, 0, -1]
    told = {
        "conversion_rate": fresh, "traffic": np.repeat(traffic[:, None], 7, axis=1), "volume_day_sd": 0.2 * one,
        "volume_tick_sd": 0.25 * one, "volume_tick_memory": 0.8 * one, "budget_low": least * everything,
        "budget_high": most * everything,
    }  # fmt: skip
    if has(Trait.WEEK):
        days = np.stack([np.interp(HOUR - later, HOUR, _PEAKS, period=24.0) for later in _LATER])
        told |= {"weekday": np.tile(_WEEKDAYS, (g, 1)),
                 "traffic": np.tile(days / days.sum(-1, keepdims=True), (g, 1, 1))}  # fmt: skip
    if has(Trait.RARE):
        told |= {"rare_share": 0.1 * one, "rare_worth": 5.0 * one, "rare_price": 0.2 * one}
    if has(Trait.LATE):
        told |= {"refunds": 0.05 * one}
    if has(Trait.REPORTS):
        told |= {"shown_share": 0.8 * one, "shown_rate": 0.3 * one}
    if has(Trait.TARGET):
        curve = cost_at_budgets(landscape, least * everything.sum(), most * everything.sum())
        told |= {"target_cpa": np.tile(curve, (g, 1)), "target_low": -0.4 * one, "target_high": 0.3 * one}
    if has(Trait.DRIFT):
        told |= {"price_tick_sd": _WALK_SD * one, "price_tick_memory": _WALK_MEMORY * one, "jump_chance": 0.6 * one,
                 "jump_sd": 0.4 * one}  # fmt: skip
    if has(Trait.COLD):
        half = 0.5 * np.sqrt(0.5)
        told |= {"conversion_rate_se": half * fresh, "conversion_common_se": half * one}
    if has(Trait.RIVALS):
        told |= {"rival_gain": 0.3 * one, "rival_purse": one, "rival_sd": 0.2 * one}
    if has(Trait.ENTRY):
        told |= {"rival_moves": 0.25 * one}
    if has(Trait.USERS):
        told |= {"fatigue": 0.3 * one, "fatigue_memory": 0.93 * one, "awareness": 0.15 * one,
                 "awareness_memory": 0.98 * one}  # fmt: skip
    if has(Trait.CARRIED):
        told |= {"carried": 0.02 * one, "carried_sd": 0.5 * one}
    kind = Kind(rules=plan.rules, items=g, rare=_RARE_SAMPLES if has(Trait.RARE) else 0)
    return Suite(
        name=name, version=plan.version, room=plan.room, kind=kind, traits=plan.traits,
        posterior=Posterior(**(absent(g) | shared | told)), landscape=landscape,
    )  # fmt: skip


def cost_at_budgets(landscape: Landscape, low: float, high: float) -> Floats:
    """What a unit costs, [16], where one worth for all line items spends budgets from low to high (in logs)."""
    mean, sd = (np.asarray(x) for x in (landscape.price_mean, landscape.price_sd))
    rate, scale = (np.asarray(x) for x in (landscape.conversion_rate, landscape.cost_scale))
    cost_left, clicks_left = (np.asarray(x)[:, 0] for x in (landscape.cost_left, landscape.clicks_left))
    offset = mean - np.log(rate / scale)
    worth = np.linspace((offset + sd * GRID_LOW).min(), (offset + sd * GRID_HIGH).max(), _FINE)
    z = grid(np)
    cost, units = np.zeros(_FINE), np.zeros(_FINE)
    for g in range(len(rate)):
        at = (worth - offset[g]) / sd[g]
        cost += np.interp(at, z, cost_left[g])
        units += rate[g] * np.interp(at, z, clicks_left[g])
    return np.interp(np.geomspace(low, high, BUDGETS), cost, cost / units)


def _shuffled(g: int, step: int) -> NDArray[np.int64]:
    return (np.arange(g) * step + 1) % g

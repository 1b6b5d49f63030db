"""The observation and action schema: named, versioned blocks; every width is computed from here."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Protocol

from gaelp.core.errors import BadInput, nearest

TICKS_PER_DAY = 48
"""The pacer's clock: half hours in a campaign-day."""

ITEM_FEATURES_FOCUSED = (
    "price_deviation", "share_won", "base_price", "base_value", "weight", "spend_pace",
    "calibration", "arrived_against_matured", "matured_count", "exposure_fast", "exposure_slow", "last_action",
)  # fmt: skip
ITEM_FEATURES_WIDE = ("price_deviation", "spend_pace", "exposure_fast")

HISTORY = 6
"""Dayparts whose outcomes the campaign blocks remember."""

CAMPAIGN_BLOCKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("clock", ("elapsed", "sine", "cosine", "traffic_left")),
    ("budget", ("budget_left", "pace_error", "spend_share", "budget_against_market")),
    ("target", ("has_target", "cost_against_target_calibrated", "cost_against_target_raw",
                "projected_cost_against_target", "target_against_prior", "score_slack")),
    ("pacers", ("score_move", "budget_move", "target_move", "pid_error")),
    ("market", ("price_level", "price_trend", "win_rate_deviation", "win_rate_trend", "volume_ratio", "volume_trend")),
    ("maturity", ("matured_fraction", "matured_count", "arrived_count", "innovation")),
    ("calendar", ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday", "weekend", "holiday")),
    ("platform", ("learning", "limited", "report_age")),
    ("history_action", tuple(f"action_{k}" for k in range(HISTORY))),
    ("history_spend", tuple(f"spend_{k}" for k in range(HISTORY))),
    ("history_win_rate", tuple(f"win_rate_{k}" for k in range(HISTORY))),
    ("history_value_rate", tuple(f"value_rate_{k}" for k in range(HISTORY))),
)  # fmt: skip


class Actions(StrEnum):
    """What an action is: one of several joint moves under a mask, or one number for each line-item slot."""

    MOVES = "moves"
    RESIDUALS = "residuals"


class AgentSchema(Protocol):
    """What an agent must know of its task; the campaign `Schema` and `TaskSchema` both tell it.

    zero_move: the index of the move that changes nothing, or none. bound: residuals lie in [-bound, bound].
    """

    @property
    def observation_size(self) -> int: ...
    @property
    def action_size(self) -> int: ...
    @property
    def actions(self) -> Actions: ...
    @property
    def zero_move(self) -> int | None: ...
    @property
    def bound(self) -> float: ...
    @property
    def hash(self) -> str: ...


@dataclass(frozen=True, slots=True)
class TaskSchema:
    """The sizes of a task that is no campaign: a practice environment or a probe."""

    name: str
    observation_size: int
    action_size: int
    actions: Actions
    bound: float = 1.0
    zero_move: int | None = None

    def __post_init__(self) -> None:
        if self.observation_size < 1 or self.action_size < 1 or not 0 < self.bound < float("inf"):
            raise BadInput(
                f"task {self.name!r}: sizes {self.observation_size} and {self.action_size} and bound {self.bound} "
                "must all be above 0."
            )
        if self.zero_move is not None and not 0 <= self.zero_move < self.action_size:
            raise BadInput(
                f"task {self.name!r}: zero_move {self.zero_move} is no move of {self.action_size}."
            )

    @property
    def hash(self) -> str:
        """Identity of the task; episodes and weights of another hash are refused."""
        told = [self.name, self.observation_size, self.action_size, self.actions, self.bound, self.zero_move]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Profile:
    """How the item part of the observation is shared out: `items` slots of `features` each."""

    name: str
    items: int
    features: tuple[str, ...]


PROFILES = {
    "focused": Profile("focused", 16, ITEM_FEATURES_FOCUSED),
    "wide": Profile("wide", 64, ITEM_FEATURES_WIDE),
}


@dataclass(frozen=True)
class Schema:
    """Observation blocks and the joint moves of the discrete action space.

    pace_levels, tilt_levels: log multipliers on the pacer's bid and on the second knob; both hold 0.
    A move's index is `pace_index * len(tilt_levels) + tilt_index`.
    """

    version: int
    profile: Profile
    pace_levels: tuple[float, ...]
    tilt_levels: tuple[float, ...]
    decisions_per_day: int

    def __post_init__(self) -> None:
        for name, levels in (("pace_levels", self.pace_levels), ("tilt_levels", self.tilt_levels)):
            if 0.0 not in levels or len(set(levels)) != len(levels) or list(levels) != sorted(levels):
                raise BadInput(f"{name} must rise, be distinct and contain 0, got {levels}.")
        if self.decisions_per_day < 1 or TICKS_PER_DAY % self.decisions_per_day:
            raise BadInput(f"decisions_per_day must divide {TICKS_PER_DAY}, got {self.decisions_per_day}.")

    @property
    def item_slots(self) -> int:
        return self.profile.items

    @property
    def item_width(self) -> int:
        return len(self.profile.features)

    @cached_property
    def campaign_features(self) -> tuple[str, ...]:
        return tuple(name for _, names in CAMPAIGN_BLOCKS for name in names)

    @property
    def campaign_width(self) -> int:
        return len(self.campaign_features)

    @property
    def observation_size(self) -> int:
        return self.item_slots * self.item_width + self.campaign_width

    @property
    def action_size(self) -> int:
        return len(self.pace_levels) * len(self.tilt_levels)

    @property
    def actions(self) -> Actions:
        """Joint moves; residuals for each line item are not played in campaigns yet."""
        return Actions.MOVES

    @property
    def bound(self) -> float:
        """The largest step of either knob, in logs; joint moves need no other."""
        return max(abs(level) for level in (*self.pace_levels, *self.tilt_levels))

    @property
    def zero_move(self) -> int:
        """The index of the move that leaves the pacer alone."""
        return self.pace_levels.index(0.0) * len(self.tilt_levels) + self.tilt_levels.index(0.0)

    @property
    def ticks_per_decision(self) -> int:
        return TICKS_PER_DAY // self.decisions_per_day

    def campaign_index(self, name: str) -> int:
        """Where campaign feature `name` stands in the whole observation."""
        if name not in self.campaign_features:
            raise BadInput(f"no campaign feature {name!r}.{nearest(name, self.campaign_features)}")
        return self.item_slots * self.item_width + self.campaign_features.index(name)

    def item_index(self, slot: int, name: str) -> int:
        """Where feature `name` of item `slot` stands in the whole observation."""
        if name not in self.profile.features or not 0 <= slot < self.item_slots:
            raise BadInput(f"no item feature {name!r} in slot {slot} of profile {self.profile.name!r}.")
        return slot * self.item_width + self.profile.features.index(name)

    def names(self) -> tuple[str, ...]:
        """Every slot of the observation by name, in order."""
        items = (f"item{i}.{f}" for i in range(self.item_slots) for f in self.profile.features)
        return (*items, *self.campaign_features)

    @cached_property
    def hash(self) -> str:
        """Identity of the schema; episodes and weights of another hash are refused."""
        told = [self.version, self.names(), self.pace_levels, self.tilt_levels, self.decisions_per_day]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def default_schema(decisions_per_day: int = 6, profile: str = "focused") -> Schema:
    """The schema of this version: 192 item numbers + 64 campaign numbers, 8 x 8 joint moves."""
    if profile not in PROFILES:
        raise BadInput(f"no observation profile {profile!r}.{nearest(profile, PROFILES)}")
    return Schema(
        version=1,
        profile=PROFILES[profile],
        pace_levels=(-0.5, -0.35, -0.2, -0.1, 0.0, 0.1, 0.2, 0.35),
        tilt_levels=(-0.6, -0.4, -0.2, -0.1, 0.0, 0.2, 0.4, 0.6),
        decisions_per_day=decisions_per_day,
    )

"""A run's event log as an auditor reads it: lines in order, typed on reading, and what a check says of them.

Nothing here is shared with the code that wrote the log, except the store's reader: a fault in the writer's own
bookkeeping must not find its twin here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gaelp.core.config import JourneyConfig, LogJourneyConfig
from gaelp.core.errors import BadInput, StoreError

SIMULATION, HISTORICAL, REAL_TESTING, SCALED = PHASES = ("simulation", "historical", "real_testing", "scaled")
LIVE = (REAL_TESTING, SCALED)
SHOWN = 3
"""Faults told in a sentence; the others are counted."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was proved, or not: `said` is one sentence with its figures, `numbers` are those figures."""

    name: str
    ok: bool
    said: str
    numbers: Mapping[str, object] = field(default_factory=dict)


def checked(name: str, faults: Sequence[str], said: str, numbers: Mapping[str, object]) -> Check:
    """Ok when nothing is at fault, and then it says `said`; otherwise it names the first faults and counts all."""
    if not faults:
        return Check(name, True, said, numbers)
    more = "" if len(faults) <= SHOWN else f"; and {len(faults) - SHOWN} more"
    return Check(name, False, "; ".join(faults[:SHOWN]) + more + ".", {**numbers, "faults": len(faults)})


@dataclass(frozen=True, slots=True)
class Line:
    """One event. Reading a field of the wrong type raises StoreError: nothing is proved from a guess."""

    seq: int
    kind: str
    told: Mapping[str, object]

    def text(self, key: str) -> str:
        return text_of(self.told, key, self.where)

    def whole(self, key: str) -> int:
        return whole_of(self.told, key, self.where)

    def number(self, key: str) -> float:
        return number_of(self.told, key, self.where)

    def part(self, key: str) -> Mapping[str, object]:
        found = self.told[key]
        if not isinstance(found, dict):
            raise StoreError(f"{self.where}: {key} is {found!r}, expected an object.")
        return found

    def parts(self, key: str) -> tuple[Mapping[str, object], ...]:
        found = self.told[key]
        if not isinstance(found, list) or not all(isinstance(part, dict) for part in found):
            raise StoreError(f"{self.where}: {key} is not a list of objects.")
        return tuple(found)

    @property
    def where(self) -> str:
        return f"event {self.seq} ({self.kind})"


def text_of(told: Mapping[str, object], key: str, where: str) -> str:
    """The text at `key`. Raises StoreError for anything else."""
    found = told[key]
    if not isinstance(found, str):
        raise StoreError(f"{where}: {key} is {found!r}, expected text.")
    return found


def whole_of(told: Mapping[str, object], key: str, where: str) -> int:
    """The whole number at `key`. Raises StoreError for anything else, a float or a bool included."""
    found = told[key]
    if not isinstance(found, int) or isinstance(found, bool):
        raise StoreError(f"{where}: {key} is {found!r}, expected a whole number.")
    return found


def number_of(told: Mapping[str, object], key: str, where: str) -> float:
    """The number at `key`, whole or not. Raises StoreError for anything else."""
    found = told[key]
    if not isinstance(found, int | float) or isinstance(found, bool):
        raise StoreError(f"{where}: {key} is {found!r}, expected a number.")
    return float(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignDay:
    """One live campaign, which lives for one day, as `day_played` (event `seq`) told it; micros.

    Its label is its intent in the ledger, and with the run's prefix its name on the platform.
    """

    seq: int
    phase: str
    step: int
    day: int
    intent: str
    arm: str
    step_spend_micros: tuple[int, ...]
    spend_micros: int


@dataclass(frozen=True)
class Record:
    """A run's name, configuration and all lines of its log, in order."""

    run_id: str
    config: JourneyConfig | LogJourneyConfig
    lines: tuple[Line, ...]

    def of(self, *kinds: str, **where: object) -> tuple[Line, ...]:
        """Lines of these kinds whose fields equal `where`, in order."""
        return tuple(
            line
            for line in self.lines
            if line.kind in kinds and all(line.told[key] == value for key, value in where.items())
        )

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases that its journey has, in order; on a log there is no platform for the others."""
        return (SIMULATION, HISTORICAL) if isinstance(self.config, LogJourneyConfig) else PHASES

    @property
    def campaigns(self) -> JourneyConfig:
        """The configuration of a journey with a platform. Raises BadInput for one on a log."""
        if isinstance(self.config, LogJourneyConfig):
            raise BadInput(f"run {self.run_id} is on an auction log and has no campaigns.")
        return self.config

    @property
    def prefix(self) -> str:
        """What the platform names every campaign of this run by."""
        return f"gaelp/{self.run_id}/"

    @property
    def finished(self) -> bool:
        """Did the journey reach its end: by its own word, or because all its phases ended."""
        ended = {line.text("name") for line in self.of("phase_ended")}
        return bool(self.of("journey_ended", reached_end=True)) or ended == set(self.phases)

    def ended(self, phase: str) -> Line | None:
        """The line that ended `phase`; None while it goes on, or before it began."""
        found = self.of("phase_ended", name=phase)
        return found[-1] if found else None

    def campaign_days(self) -> tuple[CampaignDay, ...]:
        """Every campaign on every live day, both arms, in order."""
        days = []
        for line in self.of("day_played"):
            if line.text("phase") not in LIVE:
                continue
            for slot in line.parts("slots"):
                steps = slot["step_spend_micros"]
                if not isinstance(steps, list):
                    raise StoreError(f"{line.where}: step_spend_micros is {steps!r}, expected a list.")
                days.append(
                    CampaignDay(
                        seq=line.seq,
                        phase=line.text("phase"),
                        step=line.whole("step"),
                        day=line.whole("day"),
                        intent=text_of(slot, "campaign", line.where),
                        arm=text_of(slot, "arm", line.where),
                        step_spend_micros=tuple(steps),
                        spend_micros=whole_of(slot, "spend_micros", line.where),
                    )
                )
        return tuple(days)

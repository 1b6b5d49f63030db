"""Verdicts: what a gate or guard rules, by which rule, why, and on what evidence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from gaelp.core.errors import BadInput


class Ruling(IntEnum):
    """PASS, WAIT (not enough evidence) or FAIL, ordered so that the worst is the largest."""

    PASS = 0
    WAIT = 1
    FAIL = 2


PASS, WAIT, FAIL = Ruling.PASS, Ruling.WAIT, Ruling.FAIL


@dataclass(frozen=True, slots=True)
class Verdict:
    """One ruling. `rule` is a stable name, `reason` one sentence, `evidence` the numbers behind it."""

    ruling: Ruling
    rule: str
    reason: str
    evidence: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.rule or not self.reason:
            raise BadInput("a verdict names its rule and its reason.")

    def __bool__(self) -> bool:
        return self.ruling is Ruling.PASS


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of several verdicts, the first one among equals. Raises BadInput for none at all:
    no evidence must never look like a pass."""
    listed = list(verdicts)
    if not listed:
        raise BadInput("no verdicts to weigh: a gate without checks cannot pass.")
    return max(listed, key=lambda verdict: (verdict.ruling, -listed.index(verdict)))

"""Approvals: a person's yes, bound to exactly what was shown to them, good for one use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from gaelp.core.errors import BadInput, MoneyError
from gaelp.core.verdict import PASS, WAIT, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What an approval is for: this actor, at this step of this phase, up to this limit, on this evidence."""

    actor_hash: str
    phase: str
    step: int
    limit_micros: int
    evidence_hash: str

    def __post_init__(self) -> None:
        if type(self.limit_micros) is not int or self.limit_micros < 0:
            raise MoneyError(f"an approval's limit is whole micros of 0 or more, not {self.limit_micros!r}.")
        if type(self.step) is not int or self.step < 0:
            raise BadInput(f"an approval's step is counted from 0, not {self.step!r}.")
        for name in ("actor_hash", "phase", "evidence_hash"):
            if not getattr(self, name):
                raise BadInput(f"an approval names its {name}, got nothing.")

    @property
    def hash(self) -> str:
        """Identity: changes with any of the five."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Approval:
    """One person's yes to one binding."""

    binding: Binding
    by: str

    def __post_init__(self) -> None:
        if not self.by:
            raise BadInput("an approval names the person who gave it.")


def approval_matches(unused: Iterable[Approval], wanted: Binding) -> Verdict:
    """Is there an unused approval for exactly this? PASS names the giver, WAIT what the nearest lacks.

    Absence is WAIT, never a refusal and never a yes: a person may still answer, and silence answers nothing.
    """
    given = tuple(unused)
    told = {
        "binding": wanted.hash,
        "phase": wanted.phase,
        "step": wanted.step,
        "limit_micros": wanted.limit_micros,
    }
    for approval in given:
        if approval.binding == wanted:
            return Verdict(PASS, "approval", f"approved by {approval.by}.", told | {"by": approval.by})
    if not given:
        return Verdict(
            WAIT, "approval", f"waiting for a person to approve step {wanted.step} of {wanted.phase}.", told
        )
    differs = min((_differences(a.binding, wanted) for a in given), key=len)
    return Verdict(
        WAIT, "approval", f"the approval at hand is for another {', '.join(differs)}: approve again.", told
    )


def _differences(given: Binding, wanted: Binding) -> tuple[str, ...]:
    mine, theirs = asdict(wanted), asdict(given)
    return tuple(name for name in mine if mine[name] != theirs[name])

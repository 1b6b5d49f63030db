"""An approval is good for exactly what was shown, and silence is not consent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gaelp.core.errors import BadInput, MoneyError
from gaelp.core.verdict import PASS, WAIT
from gaelp.safety.approvals import Approval, Binding, approval_matches

WANTED = Binding(actor_hash="a1", phase="scaled", step=1, limit_micros=50_000_000, evidence_hash="e1")
OTHERS = (
    replace(WANTED, actor_hash="a2"),
    replace(WANTED, phase="real_testing"),
    replace(WANTED, step=2),
    replace(WANTED, limit_micros=50_000_001),
    replace(WANTED, evidence_hash="e2"),
)


def test_an_approval_of_exactly_this_passes_and_names_the_person() -> None:
    verdict = approval_matches([Approval(WANTED, "ada")], WANTED)
    assert verdict.ruling is PASS
    assert verdict.evidence["by"] == "ada"


@pytest.mark.parametrize("other", OTHERS)
def test_an_approval_of_anything_else_waits_and_says_what_differs(other: Binding) -> None:
    verdict = approval_matches([Approval(other, "ada")], WANTED)
    changed = next(n for n in Binding.__dataclass_fields__ if getattr(other, n) != getattr(WANTED, n))
    assert verdict.ruling is WAIT
    assert changed in verdict.reason


def test_no_approval_at_all_waits_for_a_person() -> None:
    assert approval_matches([], WANTED).ruling is WAIT


def test_the_binding_hash_changes_with_every_part() -> None:
    assert len({WANTED.hash, *(other.hash for other in OTHERS)}) == 6


def test_an_approval_names_its_giver_and_everything_it_is_bound_to() -> None:
    with pytest.raises(BadInput, match="names the person"):
        Approval(WANTED, "")
    with pytest.raises(BadInput, match="evidence_hash"):
        replace(WANTED, evidence_hash="")
    with pytest.raises(BadInput, match="step"):
        replace(WANTED, step=-1)
    with pytest.raises(MoneyError, match="whole micros"):
        replace(WANTED, limit_micros=5.0)  # type: ignore[arg-type]

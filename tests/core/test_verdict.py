"""Verdicts: the worst counts, and no evidence is never a pass."""

from __future__ import annotations

from itertools import permutations

import pytest

from gaelp.core.errors import BadInput
from gaelp.core.verdict import FAIL, PASS, WAIT, Ruling, Verdict, worst


def ruled(ruling: Ruling, rule: str = "a_rule") -> Verdict:
    return Verdict(ruling, rule, "for a reason.")


def test_pass_is_better_than_wait_and_wait_better_than_fail():
    assert PASS < WAIT < FAIL


@pytest.mark.parametrize("order", list(permutations((PASS, WAIT, FAIL))))
def test_the_worst_of_all_three_is_fail_in_any_order(order):
    assert worst(ruled(ruling) for ruling in order).ruling is FAIL


def test_a_pass_beside_a_wait_is_a_wait():
    assert worst([ruled(PASS), ruled(WAIT), ruled(PASS)]).ruling is WAIT


def test_of_equally_bad_verdicts_the_first_speaks():
    assert worst([ruled(PASS), ruled(FAIL, "first"), ruled(FAIL, "second")]).rule == "first"


def test_no_verdicts_at_all_are_not_a_pass():
    with pytest.raises(BadInput, match="a gate without checks cannot pass"):
        worst([])


def test_only_a_pass_is_true():
    assert [bool(ruled(ruling)) for ruling in (PASS, WAIT, FAIL)] == [True, False, False]


@pytest.mark.parametrize(("rule", "reason"), [("", "a reason."), ("a_rule", "")])
def test_a_verdict_names_its_rule_and_its_reason(rule, reason):
    with pytest.raises(BadInput, match="names its rule and its reason"):
        Verdict(PASS, rule, reason)

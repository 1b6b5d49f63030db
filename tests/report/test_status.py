"""Where a run stands, and the very commands that would let it go on."""

from __future__ import annotations

import pytest
from tests.report.story import FIRST, UNTRAINED, Story, whole_journey

from gaelp.report.summary import status
from gaelp.store.store import Store

GRANT = 'gaelp grant demo-1 --phase real_testing --amount 40.00 --by "$USER"'
APPROVE = 'gaelp approve demo-1 --by "$USER"'


def standing(store: Store) -> tuple[object, ...]:
    told = status(store, "demo-1")
    return told["phase"], told["state"], told["waiting_for"]


def test_a_run_is_followed_from_its_first_event_to_its_last(store: Store) -> None:
    story = Story(store)
    assert standing(store) == (None, "new", None)
    story.fit()
    assert standing(store) == ("history", "preparing", None)
    story.begin("simulation")
    story.train("simulation", before=UNTRAINED, after=FIRST, change=0.1)
    assert standing(store) == ("simulation", "training", None)
    story.end("simulation")
    assert standing(store) == ("simulation", "between_phases", None)
    story.begin("real_testing")
    assert standing(store) == ("real_testing", "playing", None)


def test_waiting_names_what_is_missing_of_grant_and_approval(store: Store) -> None:
    story = Story(store)
    story.begin("real_testing")
    binding = story.want("real_testing", 40_000_000)
    assert standing(store) == ("real_testing", "waiting", f"{GRANT} && {APPROVE}")
    story.grant("real_testing", 39_999_999)
    assert standing(store)[2] == f"{GRANT.replace('40.00', '0.000001')} && {APPROVE}"
    story.grant("real_testing", 1)
    assert standing(store)[2] == APPROVE
    story.approve(binding)
    assert standing(store)[2] is None


def test_a_halt_stands_until_somebody_lifts_it(store: Store) -> None:
    story = Story(store)
    story.begin("simulation")
    story.tell("halted", reason="spend looks wrong", paused=0)
    # The block that was under way is still written.
    story.train("simulation", before=UNTRAINED, after=FIRST, change=0.1)
    assert standing(store) == ("simulation", "halted", 'gaelp resume demo-1 --lift "what was mended"')
    story.tell("halt_lifted", reason="mended")
    assert standing(store) == ("simulation", "training", None)


@pytest.mark.parametrize(("verdict", "state"), [("WAIT", "stopped"), ("FAIL", "failed")])
def test_a_gate_that_waits_has_stopped_a_run_and_only_fail_has_failed_it(
    store: Store, verdict: str, state: str
) -> None:
    story = Story(store)
    story.begin("simulation")
    story.end("simulation", verdict)
    story.tell("journey_ended", platform_bill_micros=0, reached_end=False, reason="stopped.")
    assert standing(store) == ("simulation", state, None)


def test_a_journey_that_reached_its_end_waits_for_nothing(store: Store) -> None:
    whole_journey(store)
    assert standing(store) == ("real_testing", "ended", None)

"""Validation of a run: a hand-made journey passes every check, and each planted fault turns its own check red."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.audit.small_run import RUN, SPENT, Plant, SmallRun, Written

from gaelp.audit.training_checks import CONTRACT
from gaelp.audit.validate import Validation, validate_run
from gaelp.core.errors import BadInput, PlatformError, StoreError
from gaelp.platforms.platform import BillLine

AGENT_DAY = "real_testing/d31/agent/0-m0"


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    return SmallRun(tmp_path_factory.mktemp("honest"))


@pytest.fixture
def small(honest: SmallRun, tmp_path: Path) -> SmallRun:
    return honest.copied(tmp_path)


def validated(small: SmallRun, bill: Iterable[BillLine] | None = None) -> Validation:
    store = small.stored()
    found = validate_run(store, RUN, small.artifacts, lambda: small.bill() if bill is None else bill)
    store.close()
    return found


def red(found: Validation) -> dict[str, str]:
    """The checks that failed, and what each said."""
    return {check.name: check.said for check in found.checks if not check.ok}


def test_an_honest_run_passes_every_check_and_each_says_its_figures(small: SmallRun) -> None:
    found = validated(small)
    assert red(found) == {}
    assert found.ok
    said = {check.name: check.said for check in found.checks}
    assert said["cadence"] == (
        "simulation 2 calls of 32, the last of 8; historical 2 calls of 16, the last of 2; "
        "real_testing 2 calls of 8, the last of 1; scaled 2 calls of 16, the last of 4."
    )
    assert (
        "simulation 40 of 40; historical 18 of 18; real_testing 9 of 9; scaled 20 of 20"
        in said["nothing_left"]
    )
    # 3 days of 4 campaigns and 4 days of 6, at 600 micros each.
    for name in ("step_spend", "settled_spend", "ledger_spend", "platform_bill"):
        assert "21600 micros" in said[name], said[name]
    assert "36000 micros granted" in said["granted_first"]
    # 4 x ceil(192 / 64) + 4 x ceil(48 / 64), 2 x ceil(96 / 32) + 2 x ceil(12 / 32), ceil(384 / 16) + ceil(48 / 16), ...
    assert f"{16 + 8 + 27 + 60} gradient steps" in said["gradient_steps"]
    assert all(any(c.isdigit() for c in check.said) for check in found.checks)


def test_the_contract_is_32_16_8_16() -> None:
    assert [cadence.train_every for cadence in CONTRACT.values()] == [32, 16, 8, 16]


# ---- planted faults


def set_in(kind: str, /, **changes: object) -> Plant:
    """Change fields of the last event of a kind."""

    def plant(small: SmallRun) -> None:
        small.all(kind)[-1].told.update(changes)

    return plant


def in_call(number: int, /, **changes: object) -> Plant:
    """Change fields of a training call, counted from 1."""

    def plant(small: SmallRun) -> None:
        small.first("trained", call=number).told.update(changes)

    return plant


def one_more_call_than_episodes(small: SmallRun) -> None:
    extra = small.first("trained", call=1)
    again = Written("trained", {**extra.told, "call": 9})
    small.events.insert(small.events.index(small.first("phase_ended", name="simulation")), again)


def a_dropped_remainder(small: SmallRun) -> None:
    call = small.first("trained", call=4)
    small.events.remove(call)


def an_unsettled_day(small: SmallRun) -> None:
    small.events.remove(small.first("episodes_settled", day=32))


def training_after_a_guard(small: SmallRun) -> None:
    small.first("day_played", phase="real_testing").told["tripped"] = {
        "rule": "spend_velocity",
        "reason": ".",
    }


def weights_that_stand_still(small: SmallRun) -> None:
    small.first("trained", call=3).told["weight_change"] = {"absolute": 0.0, "relative": 0.0}


def a_broken_checkpoint(small: SmallRun) -> None:
    name = small.first("checkpoint").told["checkpoint"]
    with (small.artifacts / name / "arrays.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")


def a_lost_checkpoint(small: SmallRun) -> None:
    shutil.rmtree(small.artifacts / small.first("checkpoint").told["checkpoint"])


def other_weights_saved(small: SmallRun) -> None:
    arrays = {name: np.zeros(2, np.float32) for name in ("actor.0.weight", "critic.0.weight", "scaling.mean")}
    small.first("checkpoint").told["checkpoint"] = small.saved(arrays)


def a_day_by_an_actor_nobody_promoted(small: SmallRun) -> None:
    for told in small.all("day_played", phase="scaled"):
        told.told["actor_hash"] = "f" * 64
    for kind in ("approved", "approval_consumed", "authorised"):
        small.first(kind, phase="scaled").told["actor_hash"] = "f" * 64


def a_promotion_without_learning(small: SmallRun) -> None:
    small.first("judged", phase="historical").told["verdict"] = "INCONCLUSIVE"


def a_new_actor_within_a_window(small: SmallRun) -> None:
    """Promoted after the first of three days: everybody knows the actor, and the window is no longer about one."""
    trained, judged, promoted = (
        small.first(kind, phase="scaled") for kind in ("trained", "judged", "promoted")
    )
    day = small.first("day_played", day=38)
    played = small.events[small.events.index(trained) - 1]
    for event in (played, trained, judged, promoted):
        small.move(event, before=day)
    after = trained.told["actor_hash_after"]
    for event in (judged, promoted, *small.all("day_played", phase="scaled")[1:]):
        event.told["actor_hash"] = after


def a_micro_more_in_a_step(small: SmallRun) -> None:
    small.first("day_played", day=31).told["slots"][0]["step_spend_micros"][0] += 1


def a_micro_more_in_an_episode(small: SmallRun) -> None:
    small.first("episodes_settled", day=31).told["episodes"][0]["spend_micros"] += 1


def a_micro_less_in_the_ledger(small: SmallRun) -> None:
    small.first("posted", intent=AGENT_DAY).told["micros"] -= 1
    small.first("released", intent=AGENT_DAY).told["micros"] += 1


def a_day_played_before_its_reservation(small: SmallRun) -> None:
    small.move(small.first("day_played", day=31), before=small.first("reserved", day=31))


def a_day_without_a_reservation(small: SmallRun) -> None:
    for kind in ("reserved", "posted", "released"):
        small.events.remove(small.first(kind, intent=AGENT_DAY))


def a_reservation_before_the_grant(small: SmallRun) -> None:
    small.move(small.first("reserved", day=31), before=small.first("granted", phase="real_testing"))


def a_smaller_grant(small: SmallRun) -> None:
    small.first("granted", phase="scaled").told["micros"] = 23_999


def an_open_reservation(small: SmallRun) -> None:
    small.events.remove(small.first("released", intent=AGENT_DAY))


def a_reservation_above_the_limit(small: SmallRun) -> None:
    small.first("reserved", intent=AGENT_DAY).told["micros"] += 1
    small.first("released", intent=AGENT_DAY).told["micros"] += 1
    small.first("granted", phase="real_testing").told["micros"] += 1


def too_much_on_a_day(small: SmallRun) -> None:
    """Seven more campaigns on day 31: 11 x 1000 micros where 10000 a day are allowed."""
    at = small.events.index(small.first("day_played", day=31))
    small.first("granted", phase="real_testing").told["micros"] += 7000
    for k in range(3, 10):
        intent = f"real_testing/d31/agent/0-m{k}"
        told = {"intent": intent, "phase": "real_testing", "day": 31, "episode": intent}
        for kind, micros in (("released", 400), ("posted", 600), ("reserved", 1000)):
            small.events.insert(at, Written(kind, {**told, "micros": micros}))
    # All are open together before the first bill is posted.
    for event in [e for e in small.events[at : at + 21] if e.kind != "reserved"]:
        small.events.remove(event)
        small.events.insert(small.events.index(small.first("window_judged", phase="real_testing")), event)
    for event in [e for e in small.all("released", day=31) if "m0" not in e.told["intent"]]:
        small.events.remove(event)
        small.events.insert(small.events.index(small.first("window_judged", phase="real_testing")), event)
    slots = small.first("day_played", day=31).told["slots"]
    settled = small.first("episodes_settled", day=31).told["episodes"]
    slots += [{**slots[3], "campaign": f"real_testing/d31/agent/0-m{k}"} for k in range(3, 10)]
    settled += [{**settled[3], "campaign": f"real_testing/d31/agent/0-m{k}"} for k in range(3, 10)]
    small.all("journey_ended")[-1].told["platform_bill_micros"] += 7 * SPENT


def a_step_nobody_approved(small: SmallRun) -> None:
    small.events.remove(small.first("approved", phase="scaled"))


def an_approval_for_another_limit(small: SmallRun) -> None:
    for kind in ("approved", "approval_consumed"):
        small.first(kind, phase="scaled").told["limit_micros"] = 23_000


def authorised_after_the_first_reservation(small: SmallRun) -> None:
    small.move(small.first("reserved", phase="scaled"), before=small.first("authorised", phase="scaled"))


def approved_for_another_actor(small: SmallRun) -> None:
    for kind in ("approved", "approval_consumed", "authorised"):
        small.first(kind, phase="scaled").told["actor_hash"] = "f" * 64


def a_reservation_for_a_shadow_day(small: SmallRun) -> None:
    intent = "acct/m0"
    told = {"intent": intent, "phase": "real_testing", "day": 30, "episode": intent}
    at = small.events.index(small.first("reserved"))
    for kind, micros in (("released", 1), ("posted", 0), ("reserved", 1)):
        small.events.insert(at, Written(kind, {**told, "micros": micros}))


def a_phase_left_out(small: SmallRun) -> None:
    small.events = [e for e in small.events if "historical" not in (e.told.get("phase"), e.told.get("name"))]


OTHERWISE = {"worst": {}, "faults": [], "replayed_hash": "a", "trained_hash": "b", "units": {}}
WRONG = OTHERWISE | {"faults": ["the step is off"], "trained_hash": "a"}


@pytest.mark.parametrize(
    ("check", "plant", "said"),
    [
        ("event_payloads", set_in("posted", micros=6.0), "micros is 6.0, expected int"),
        ("event_payloads", set_in("posted", micros=True), "micros is True, expected int"),
        ("event_payloads", lambda small: small.first("trained").told.pop("updates"), "updates is missing"),
        ("event_payloads", lambda small: small.events.append(Written("wrote_a_poem", {})), "of no known kind"),
        ("phases_complete", a_phase_left_out, "historical did not"),
        ("phases_complete", set_in("phase_ended", train_calls=7), "train_calls 7, its events add up to 2"),
        ("cadence", in_call(1, episodes=31), "call 1 of simulation had 31 episodes, 32 are due"),
        ("cadence", in_call(2, episodes=33), "call 2 of simulation had 33 episodes"),
        ("cadence", in_call(7, episodes=12), "call 1 of scaled had 12 episodes, 16 are due"),
        ("cadence", set_in("phase_began", train_every=15), "scaled began with train_every 15, 16 is agreed"),
        ("cadence", one_more_call_than_episodes, "call 2 of simulation had 8 episodes"),
        ("nothing_left", one_more_call_than_episodes, "trained on 72 episodes, only 40 were there"),
        ("nothing_left", a_dropped_remainder, "historical ended with 2 of 18 episodes untrained"),
        ("nothing_left", in_call(8, episodes=3), "scaled ended with 1 of 20 episodes untrained"),
        ("nothing_left", training_after_a_guard, "trained after a guard had tripped on day 31"),
        ("gradient_steps", in_call(5, updates=23), "made 23 updates, 24 are due"),
        ("gradient_steps", in_call(5, batch_size=64), "used batch_size 64, 16 is agreed"),
        ("gradient_steps", in_call(1, transitions=186, simulated_transitions=186), "32 episodes make 192 and 192"),
        ("weights_moved", weights_that_stand_still, "changed the weights by 0"),
        ("weights_moved", in_call(3, min_update_change=0), "its smallest update by 0"),
        ("second_looks", in_call(1, second_look=None), "was not repeated, it is one of simulation's ends"),
        ("second_looks", in_call(2, second_look=None), "was not repeated, it is one of simulation's ends"),
        ("second_looks", in_call(3, second_look=OTHERWISE), "led elsewhere when it was played again"),
        ("second_looks", in_call(3, second_look=WRONG), "the step is off"),
        ("weights_chained", in_call(3, weights_hash_before="f" * 64), "began with weights ffffffffffff"),
        ("weights_chained", a_dropped_remainder, "training call 3 is followed by call 5"),
        ("weights_on_disk", a_broken_checkpoint, "altered or truncated"),
        ("weights_on_disk", a_lost_checkpoint, "is missing"),
        ("weights_on_disk", other_weights_saved, "were trained"),
        ("played_weights", a_day_by_an_actor_nobody_promoted, "day 37 was played by ffffffffffff"),
        ("played_weights", a_promotion_without_learning, "which no verdict called LEARNING"),
        ("played_weights", set_in("promoted", actor_hash="f" * 64), "promotes ffffffffffff, trained was"),
        ("played_weights", set_in("played", actor_hash="f" * 64), "was played by ffffffffffff"),
        ("frozen_actor", a_new_actor_within_a_window, "scaled, step 0, days 37 to 40 were played by"),
        ("step_spend", a_micro_more_in_a_step, "spent 600 micros, its dayparts add up to 601"),
        ("settled_spend", a_micro_more_in_an_episode, "was settled at 601 micros, 600 were reported"),
        ("settled_spend", an_unsettled_day, "real_testing/d32/agent/0-m0 was never settled, and real"),
        ("ledger_spend", a_micro_less_in_the_ledger, "599 micros in the ledger, 600 reported"),
        ("platform_bill", a_micro_less_in_the_ledger, "the platform bills 600 micros, the ledger holds 599"),
        ("platform_bill", set_in("journey_ended", platform_bill_micros=21_599), "notes a bill of 21599 micros"),
        ("reserved_first", a_day_played_before_its_reservation, f"{AGENT_DAY} was played at event"),
        ("reserved_first", a_day_without_a_reservation, f"{AGENT_DAY} was played without a reservation"),
        ("granted_first", a_reservation_before_the_grant, "1000 micros committed, 0 granted"),
        ("granted_first", a_smaller_grant, "24000 micros committed, 23999 granted"),
        ("reservations_resolved", an_open_reservation, f"{AGENT_DAY} still holds 1000 micros"),
        ("reservations_resolved", set_in("released", micros=399), "posted 600 and released 399"),
        ("within_limits", a_reservation_above_the_limit, "1001 committed, 1000 allowed"),
        ("within_limits", too_much_on_a_day, "day 31 11000 committed, 10000 allowed"),
        ("approvals", a_step_nobody_approved, "uses an approval of step 0 of scaled that nobody gave"),
        ("approvals", an_approval_for_another_limit, "without using an approval of the same binding"),
        ("approvals", authorised_after_the_first_reservation, "before anybody authorised it"),
        ("approvals", approved_for_another_actor, "was approved for actor ffffffffffff"),
        ("shadow_is_free", a_reservation_for_a_shadow_day, "a day that was only watched"),
    ],
)  # fmt: skip
def test_a_planted_fault_turns_its_check_red(small: SmallRun, check: str, plant: Plant, said: str) -> None:
    plant(small)
    found = red(validated(small))
    assert check in found, found
    assert said in found[check]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda lines: [replace(lines[0], cost_micros=601), *lines[1:]],
            "bills 601 micros, the ledger holds 600",
        ),
        (lambda lines: lines[1:], "the ledger holds 600 micros, the platform bills nothing"),
        (lambda lines: [replace(lines[0], final=False), *lines[1:]], "may still change its bill"),
        (
            lambda lines: [*lines, replace(lines[0], campaign=lines[0].campaign + "9")],
            "which the ledger does not know",
        ),
        (lambda lines: [replace(lines[0], day=32), *lines[1:]], "is billed for day 32, reserved was day 31"),
    ],
)
def test_a_bill_that_differs_by_a_campaign_day_is_red(small: SmallRun, change: Plant, said: str) -> None:
    found = red(validated(small, change(small.bill())))  # type: ignore[arg-type,func-returns-value]
    assert list(found) == ["platform_bill"]
    assert said in found["platform_bill"]


def test_another_run_on_the_same_account_is_none_of_this_runs_bill(small: SmallRun) -> None:
    foreign = BillLine(
        campaign="gaelp/small-11/real_testing/d31/agent/0-m0", day=31, cost_micros=5, final=True
    )
    assert validated(small, [*small.bill(), foreign]).ok


def test_a_missing_bill_is_named_and_never_passed_over(small: SmallRun) -> None:
    store = small.stored()
    found = red(validate_run(store, RUN, small.artifacts, None))
    assert "no bill of the platform could be compared with the ledger" in found["platform_bill"]

    def unreachable() -> list[BillLine]:
        raise PlatformError("the platform did not answer.")

    found = red(validate_run(store, RUN, small.artifacts, unreachable))
    assert "did not answer" in found["platform_bill"]
    store.close()


def test_an_altered_event_breaks_the_chain_and_nothing_else_is_read(small: SmallRun) -> None:
    store = small.stored()
    with sqlite3.connect(small.database) as raw:
        raw.execute("DROP TRIGGER event_refuses_update")
        raw.execute(
            "UPDATE event SET payload = replace(payload, '600', '601') WHERE kind = 'posted' AND seq > 90"
        )
    found = validate_run(store, RUN, small.artifacts, small.bill)
    assert [check.name for check in found.checks] == ["hash_chain", "event_payloads"]
    assert "was altered" in red(found)["hash_chain"]
    store.close()


def test_a_run_in_its_second_phase_is_checked_as_far_as_it_came_and_says_so(small: SmallRun) -> None:
    until = small.events.index(small.first("trained", phase="historical")) + 2
    small.events = small.events[:until]
    found = validated(small)
    assert found.ok
    said = {check.name: check.said for check in found.checks}
    assert "has not reached its end: 2 of 4 phases began, 1 ended" in said["phases_complete"]
    assert "historical 16 of 18" in said["nothing_left"]


def test_a_run_that_never_began_proves_nothing(small: SmallRun) -> None:
    small.events = []
    assert "nothing to validate" in red(validated(small))["phases_complete"]


def test_after_a_safety_fail_what_is_left_is_told_and_forgiven(small: SmallRun) -> None:
    ended = small.first("phase_ended", name="scaled")
    ended.told |= {"verdict": "FAIL", "rule": "spend_velocity", "episodes": 16, "train_calls": 1}
    small.events = [e for e in small.events if e.kind != "journey_ended"]
    small.events.remove(small.first("trained", call=8))
    small.events.remove(small.all("checkpoint")[-1])
    for kind in ("judged", "promoted"):
        small.events.remove(small.all(kind)[-1])
    found = validated(small)
    assert red(found) == {}
    said = {check.name: check.said for check in found.checks}
    assert "scaled 16 of 20, 4 left after spend_velocity said FAIL" in said["nothing_left"]


@pytest.mark.parametrize("told", [True, False])
def test_after_a_rollback_the_chain_goes_on_from_the_promoted_weights(small: SmallRun, told: bool) -> None:
    promoted, trained = small.first("promoted", phase="real_testing"), small.first("trained", phase="scaled")
    small.first("trained", call=8).told |= {
        "weights_hash_before": trained.told["weights_hash_before"],
        "actor_hash_before": trained.told["actor_hash_before"],
    }
    second = small.all("played", phase="scaled")[-1]
    second.told["actor_hash"] = trained.told["actor_hash_before"]
    at = small.events.index(second)
    back = {
        "phase": "scaled",
        "actor_hash": promoted.told["actor_hash"],
        "rule": "promotion_gate",
        "reason": "worse.",
    }
    if told:
        small.events.insert(at, Written("rolled_back", back))
    assert list(red(validated(small))) == ([] if told else ["weights_chained"])


def test_refused_batches_count_as_episodes_that_were_not_left_lying(small: SmallRun) -> None:
    call = small.first("trained", call=8)
    refused = Written("batch_refused", {"phase": "scaled", "episodes": 4, "reason": "log_prob: too far."})
    small.events[small.events.index(call)] = refused
    small.events.remove(small.all("checkpoint")[-1])
    for kind in ("judged", "promoted"):
        small.events.remove(small.all(kind)[-1])
    small.first("phase_ended", name="scaled").told |= {"episodes": 16, "train_calls": 1}
    assert red(validated(small)) == {}


def test_a_validation_without_checks_is_refused() -> None:
    with pytest.raises(BadInput, match="proves nothing"):
        Validation("one", ())


def test_an_unknown_run_is_named(small: SmallRun) -> None:
    store = small.stored()
    with pytest.raises(StoreError, match=r"no run 'smal-1' in the store\. Did you mean 'small-1'"):
        validate_run(store, "smal-1", small.artifacts, None)
    store.close()


def test_validating_needs_no_jax() -> None:
    code = (
        "import sys; import gaelp.audit.validate; sys.exit('jax' in sys.modules or 'equinox' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

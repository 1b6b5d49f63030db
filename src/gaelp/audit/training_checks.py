"""Did it train as it says? Cadence, remainder, gradient steps, moved weights, and whose weights played.

Everything is counted again from the events and, for the hashes, from the arrays on disk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gaelp.audit.record import (
    HISTORICAL,
    LIVE,
    REAL_TESTING,
    SIMULATION,
    Check,
    Line,
    Record,
    checked,
    number_of,
    whole_of,
)
from gaelp.core.config import Cadence, LogJourneyConfig
from gaelp.core.errors import StoreError
from gaelp.learn.export import hash_of, policy_part
from gaelp.store import checkpoints

CONTRACT: Mapping[str, Cadence] = {
    "simulation": Cadence(train_every=32, batch_size=64, num_epochs=4),
    "historical": Cadence(train_every=16, batch_size=32, num_epochs=2),
    "real_testing": Cadence(train_every=8, batch_size=16, num_epochs=1),
    "scaled": Cadence(train_every=16, batch_size=32, num_epochs=2),
}
"""The agreed cadence of each phase, written down here a second time on purpose."""

JUDGED_AFTER_TRAINING = (
    "simulation_gate",
    "historical_gate",
    "live_gate",
    "verify_learning",
    "books_balance",
)
"""Rules that speak when the remainder has been trained; a FAIL by any other rule stops training at once."""

_ALL = {2: "both", 4: "all four"}

_SAVED_AS = (
    ("state.agent.", ""),
    ("state.normaliser.observation.", "scaling."),
    ("state.normaliser.hidden.", "hidden_scaling."),
)


@dataclass(frozen=True, slots=True)
class _Plays:
    """How what plays stands in a saved state: its kind, and where its actor and its further numbers are."""

    kind: str
    saved_as: tuple[tuple[str, str], ...]


_PLAYS: Mapping[str, _Plays] = {
    "ppo": _Plays("categorical", (("state.agent.actor.", "actor."),)),
    "dqn": _Plays("epsilon_soft", (("state.agent.q.", "actor."), ("state.epsilon", "epsilon"))),
    "sac": _Plays("soft_categorical", (("state.agent.actor.", "actor."),)),
}
"""By algorithm, for joint moves; written down here a second time on purpose."""


@dataclass(frozen=True, slots=True)
class SavedHashes:
    """Hashes of the arrays in a checkpoint: of all weights, and of what plays."""

    weights: str
    actor: str


def phases_complete(record: Record) -> Check:
    """A finished journey began, trained and ended all its phases; an unfinished one says how far it came."""
    began = [line.text("name") for line in record.of("phase_began")]
    faults = [
        f"{name} began {began.count(name)} times" for name in dict.fromkeys(began) if began.count(name) > 1
    ]
    faults += [f"{name} is no phase" for name in dict.fromkeys(began) if name not in record.phases]
    if not began:
        faults.append("no phase has begun: there is nothing to validate")
    if began != list(record.phases[: len(began)]):
        faults.append(f"the phases began in the order {', '.join(began)}")
    ended = [name for name in record.phases if record.ended(name) is not None]
    calls = {name: len(record.of("trained", phase=name)) for name in record.phases}
    if record.finished:
        faults += [f"the journey ended, but {name} did not" for name in record.phases if name not in ended]
        faults += [
            f"the journey ended, but {name} never trained" for name in record.phases if not calls[name]
        ]
    for name in ended:
        faults += _ended_as_told(record, name)
    if record.finished:
        counts = " / ".join(str(calls[name]) for name in record.phases)
        said = f"{_ALL[len(record.phases)]} phases began, trained and ended, with {counts} training calls."
    else:
        said = (
            f"the journey has not reached its end: {len(began)} of {len(record.phases)} phases began, {len(ended)} "
            "ended; only these are checked."
        )
    return checked(
        "phases_complete", faults, said, {"began": len(began), "ended": len(ended), "train_calls": calls}
    )


def _ended_as_told(record: Record, phase: str) -> list[str]:
    """Do the sums that a phase ended with follow from its training calls?"""
    line, trained = record.ended(phase), record.of("trained", phase=phase)
    if line is None:
        return []
    sums = {"episodes": sum(call.whole("episodes") for call in trained), "train_calls": len(trained)}
    return [
        f"{phase} ended with {name} {line.whole(name)}, its events add up to {n}"
        for name, n in sums.items()
        if line.whole(name) != n
    ]


def cadence(record: Record) -> Check:
    """Every call had exactly its phase's episodes, as the run said and as agreed; only the last may have fewer."""
    faults: list[str] = []
    told: list[str] = []
    for phase in _begun(record):
        agreed = CONTRACT[phase]
        stated = record.of("phase_began", name=phase)[0]
        for name in ("train_every", "batch_size", "num_epochs"):
            if stated.whole(name) != getattr(agreed, name):
                faults.append(
                    f"{phase} began with {name} {stated.whole(name)}, {getattr(agreed, name)} is agreed"
                )
        calls = record.of("trained", "batch_refused", phase=phase)
        ended = record.ended(phase)
        consumed = 0
        for number, call in enumerate(calls, start=1):
            n = call.whole("episodes")
            consumed += n
            # Short of the cadence is right only for what was left at the end.
            may_be_short = number == len(calls) and (
                ended is not None or consumed == available_episodes(record, phase)
            )
            if n != agreed.train_every and not (may_be_short and 0 < n < agreed.train_every):
                faults.append(f"call {number} of {phase} had {n} episodes, {agreed.train_every} are due")
            if call.seq < stated.seq or (ended is not None and call.seq > ended.seq):
                faults.append(f"{call.where} trained outside its phase {phase}")
        last = (
            f", the last of {calls[-1].whole('episodes')}"
            if calls and calls[-1].whole("episodes") != agreed.train_every
            else ""
        )
        told.append(f"{phase} {len(calls)} calls of {agreed.train_every}{last}")
    faults += [f"{line.where} trained in a phase that never began" for line in _strays(record)]
    return checked("cadence", faults, f"{'; '.join(told)}.", {"phases": len(told)})


def nothing_left(record: Record) -> Check:
    """Every episode that could be trained on was, before its phase ended; after a safety FAIL nothing trained."""
    faults: list[str] = []
    told: list[str] = []
    numbers: dict[str, object] = {}
    for phase in _begun(record):
        consumed = sum(call.whole("episodes") for call in record.of("trained", "batch_refused", phase=phase))
        there, ended = available_episodes(record, phase), record.ended(phase)
        stopped = (
            ended is not None
            and ended.text("verdict") == "FAIL"
            and ended.text("rule") not in JUDGED_AFTER_TRAINING
        )
        numbers[phase] = {"available": there, "consumed": consumed}
        if consumed > there:
            faults.append(f"{phase} trained on {consumed} episodes, only {there} were there")
        elif ended is not None and not stopped and consumed < there:
            faults.append(f"{phase} ended with {there - consumed} of {there} episodes untrained")
        for tripped in (
            line for line in record.of("day_played", phase=phase) if line.told["tripped"] is not None
        ):
            after = [call for call in record.of("trained", phase=phase) if call.seq > tripped.seq]
            faults += [
                f"{call.where} trained after a guard had tripped on day {tripped.whole('day')}"
                for call in after
            ]
        left = (
            f", {there - consumed} left after {ended.text('rule')} said FAIL"
            if stopped and ended is not None
            else ""
        )
        told.append(f"{phase} {consumed} of {there}{left}")
    faults += _uneven_history(record)
    return checked(
        "nothing_left", faults, f"episodes trained of those there were: {'; '.join(told)}.", numbers
    )


def available_episodes(record: Record, phase: str) -> int:
    """The agent's episodes there are to train on: as configured, as logged, or as settled and not tripped."""
    if phase == SIMULATION:
        return record.config.simulation.episodes
    if phase == HISTORICAL and isinstance(record.config, LogJourneyConfig):
        parts = [part for split in record.of("log_split") for part in split.parts("parts")]
        return record.config.historical.passes * sum(
            whole_of(part, "episodes", "event log_split") for part in parts if part["name"] == "training"
        )
    if phase == HISTORICAL:
        exported = record.of("history_exported")
        if not exported:
            return 0
        first = exported[0].whole("first_day")
        days = range(first, first + record.campaigns.history.training_days)
        return sum(
            len(line.parts("slots"))
            for line in record.of("day_played", phase="history")
            if line.whole("day") in days
        )
    tripped = {
        line.whole("day") for line in record.of("day_played", phase=phase) if line.told["tripped"] is not None
    }
    settled = (
        line for line in record.of("episodes_settled", phase=phase) if line.whole("day") not in tripped
    )
    return sum(episode["arm"] == "agent" for line in settled for episode in line.parts("episodes"))


def _uneven_history(record: Record) -> list[str]:
    """The training days times the campaigns must be what was played on them."""
    exported = record.of("history_exported")
    if not exported:
        return []
    wanted = record.campaigns.history.training_days * exported[0].whole("campaigns")
    played = available_episodes(record, HISTORICAL)
    return (
        []
        if played == wanted
        else [f"{played} campaign-days were played on the training days, {wanted} were planned"]
    )


def gradient_steps(record: Record) -> Check:
    """batch_size and num_epochs as agreed; updates = num_epochs x ceil(transitions / batch_size), all accounted for."""
    faults: list[str] = []
    per_day = record.config.decisions_per_day
    updates = transitions = 0
    for call in record.of("trained"):
        phase, n = call.text("phase"), call.whole("episodes")
        if phase not in record.phases:
            continue
        agreed = CONTRACT[phase]
        for name in ("batch_size", "num_epochs"):
            if call.whole(name) != getattr(agreed, name):
                faults.append(
                    f"{call.where} used {name} {call.whole(name)}, {getattr(agreed, name)} is agreed"
                )
        simulated = (
            {SIMULATION: n, HISTORICAL: 0}[phase]
            if phase not in LIVE
            else n * record.config.learning.simulated_per_real
        )
        real = 0 if phase == SIMULATION else n
        wanted = (simulated + real) * per_day
        if call.whole("transitions") != wanted or call.whole("simulated_transitions") != simulated * per_day:
            faults.append(
                f"{call.where} trained on {call.whole('transitions')} transitions, "
                f"{call.whole('simulated_transitions')} of them "
                f"simulated; {n} episodes make {wanted} and {simulated * per_day}"
            )
        due = agreed.num_epochs * math.ceil(call.whole("transitions") / agreed.batch_size)
        if call.whole("updates") != due:
            faults.append(f"{call.where} made {call.whole('updates')} updates, {due} are due")
        updates, transitions = updates + call.whole("updates"), transitions + call.whole("transitions")
    said = (
        f"{updates} gradient steps on {transitions} transitions, in every call num_epochs x "
        "ceil(transitions / batch_size)."
    )
    return checked("gradient_steps", faults, said, {"updates": updates, "transitions": transitions})


def weights_moved(record: Record) -> Check:
    """Every call, and in it every single update, changed the weights."""
    faults: list[str] = []
    moved: list[float] = []
    smallest: list[float] = []
    for call in record.of("trained"):
        change, least = (
            number_of(call.part("weight_change"), "absolute", call.where),
            call.number("min_update_change"),
        )
        if not change > 0 or not least > 0:
            faults.append(f"{call.where} changed the weights by {change:g}, its smallest update by {least:g}")
        if call.text("weights_hash_before") == call.text("weights_hash_after"):
            faults.append(f"{call.where} left the weights' hash as it was")
        moved.append(change)
        smallest.append(least)
    if not moved:
        return Check(
            "weights_moved", True, "no training call yet, so there is no change to prove.", {"calls": 0}
        )
    said = (
        f"{len(moved)} calls moved the weights by {min(moved):.3g} to {max(moved):.3g}, the smallest "
        f"single update by {min(smallest):.3g}."
    )
    numbers = {
        "calls": len(moved),
        "min_change": min(moved),
        "max_change": max(moved),
        "min_update_change": min(smallest),
    }
    return checked("weights_moved", faults, said, numbers)


def second_looks(record: Record) -> Check:
    """The first and the last call of every phase, and some between, were repeated by other means; none differs."""
    faults: list[str] = []
    looked = 0
    for phase in _begun(record):
        calls = record.of("trained", phase=phase)
        due = calls[:1] + (calls[-1:] if record.ended(phase) is not None else ())
        faults += [
            f"{c.where} was not repeated, it is one of {phase}'s ends"
            for c in due
            if c.told["second_look"] is None
        ]
        for call in (c for c in calls if c.told["second_look"] is not None):
            looked += 1
            look = call.part("second_look")
            if look["faults"]:
                faults.append(f"{call.where}: {look['faults']}")
            if look["replayed_hash"] != look["trained_hash"]:
                faults.append(f"{call.where} led elsewhere when it was played again")
    said = f"{looked} training calls were repeated by other means, each phase's first and last among them."
    return checked("second_looks", faults, said, {"calls": looked})


def weights_chained(record: Record) -> Check:
    """Every call began with the weights the one before had left, or, after a rollback, with the promoted ones."""
    faults: list[str] = []
    for call, before in _weights_before(record, "trained"):
        if before is not None and call.text("weights_hash_before") != before:
            faults.append(
                f"{call.where} began with weights {call.text('weights_hash_before')[:12]}, {before[:12]} were left"
            )
    numbers_of = [call.whole("call") for call in record.of("trained")]
    rolled = len(record.of("rolled_back"))
    # The engine counts its calls; a rollback takes the count back with the weights.
    if not rolled:
        faults += [
            f"training call {a} is followed by call {b}" for a, b in pairwise(numbers_of) if b != a + 1
        ]
    said = f"{len(numbers_of)} calls in one chain of weights, {rolled} rollbacks."
    return checked("weights_chained", faults, said, {"calls": len(numbers_of), "rollbacks": rolled})


def weights_on_disk(record: Record, artifacts: Path) -> Check:
    """The hashes are of real weights: every checkpoint is read, proved intact and hashed again from its arrays."""
    faults: list[str] = []
    known: dict[str, SavedHashes] = {}
    for line, before in _weights_before(record, "checkpoint", "promoted"):
        name = line.text("checkpoint")
        try:
            if name not in known:
                arrays = checkpoints.load(artifacts, name).arrays
                known[name] = _hashes_of(arrays, _PLAYS[record.config.algorithm])
        except StoreError as error:
            faults.append(f"{line.where} names weights that cannot be read: {error}")
            continue
        if before is not None and known[name].weights != before:
            faults.append(
                f"{line.where} holds weights {known[name].weights[:12]}, {before[:12]} were trained"
            )
        if line.kind == "promoted" and known[name].actor != line.text("actor_hash"):
            faults.append(
                f"{line.where} names actor {line.text('actor_hash')[:12]}, its checkpoint holds "
                f"{known[name].actor[:12]}"
            )
    if record.of("trained") and not known and not faults:
        faults.append("it trained, but no checkpoint was kept")
    said = f"{len(known)} saved checkpoints hash to what the training calls and promotions say."
    return checked("weights_on_disk", faults, said, {"checkpoints": len(known)})


def played_weights(record: Record) -> Check:
    """What played is what was trained and promoted: day by day on the platform, and call by call in simulation."""
    faults: list[str] = []
    trained = record.of("trained")
    actor = trained[0].text("actor_hash_before") if trained else None
    learner, learned = actor, set[str]()
    promoted: list[str] = []
    days = 0
    waiting: Line | None = None
    for line in record.lines:
        if line.kind == "judged" and line.text("verdict") == "LEARNING":
            learned.add(line.text("actor_hash"))
        elif line.kind == "trained":
            if waiting is not None and waiting.text("actor_hash") != line.text("actor_hash_before"):
                faults.append(
                    f"{waiting.where} was played by {waiting.text('actor_hash')[:12]}, {line.where} "
                    f"trained {line.text('actor_hash_before')[:12]}"
                )
            waiting, learner = None, line.text("actor_hash_after")
        elif line.kind == "played":
            # Logged episodes are played by the incumbent; whatever is simulated or replayed, by the learner itself.
            waiting = line if line.text("source") in ("simulated", "replayed") else None
        elif line.kind == "promoted":
            actor = line.text("actor_hash")
            promoted.append(actor)
            if actor != learner:
                faults.append(f"{line.where} promotes {actor[:12]}, trained was {str(learner)[:12]}")
            if actor not in learned:
                faults.append(f"{line.where} promotes {actor[:12]}, which no verdict called LEARNING")
        elif line.kind == "rolled_back":
            learner = line.text("actor_hash")
            if not promoted or learner != promoted[-1]:
                faults.append(f"{line.where} goes back to {learner[:12]}, which was not the last promoted")
        elif line.kind == "day_played" and line.text("phase") in LIVE:
            days += 1
            if line.text("actor_hash") != actor:
                faults.append(
                    f"{line.where}: day {line.whole('day')} was played by {line.text('actor_hash')[:12]}, "
                    f"promoted was {str(actor)[:12]}"
                )
    by = (
        f"by {len(set(promoted))} promoted actors"
        if promoted
        else "by the untrained agent, for nothing was promoted"
    )
    where = "simulation and replay" if isinstance(record.config, LogJourneyConfig) else "simulation"
    said = f"{days} live days were played {by}; in {where} each call trained what had played."
    return checked("played_weights", faults, said, {"live_days": days, "promotions": len(promoted)})


def frozen_actor(record: Record) -> Check:
    """Within a judging window one actor plays, so that the window's verdict speaks about one set of weights."""
    faults: list[str] = []
    windows = 0
    for phase in LIVE:
        by_step: dict[int, list[Line]] = {}
        for line in record.of("day_played", phase=phase):
            by_step.setdefault(line.whole("step"), []).append(line)
        for step, days in by_step.items():
            length = record.campaigns.real_testing.window_days if phase == REAL_TESTING else len(days)
            for start in range(0, len(days), length):
                window = days[start : start + length]
                actors = list(dict.fromkeys(line.text("actor_hash")[:12] for line in window))
                windows += 1
                if len(actors) > 1:
                    faults.append(
                        f"{phase}, step {step}, days {window[0].whole('day')} to {window[-1].whole('day')} "
                        f"were played by {' then '.join(actors)} within one judging window"
                    )
    said = f"{windows} judging windows, each played by one actor from its first day to its last."
    return checked("frozen_actor", faults, said, {"windows": windows})


def _begun(record: Record) -> list[str]:
    return [phase for phase in record.phases if record.of("phase_began", name=phase)]


def _strays(record: Record) -> list[Line]:
    begun = _begun(record)
    return [line for line in record.of("trained", "batch_refused") if line.text("phase") not in begun]


def _weights_before(record: Record, *kinds: str) -> list[tuple[Line, str | None]]:
    """Lines of these kinds, each with the hash of all weights as they stood before it; None before any call."""
    found: list[tuple[Line, str | None]] = []
    now = promoted = None
    for line in record.lines:
        if line.kind in kinds:
            found.append((line, now))
        if line.kind == "trained":
            now = line.text("weights_hash_after")
        elif line.kind == "promoted":
            promoted = now
        elif line.kind == "rolled_back":
            now = promoted
    return found


def _hashes_of(arrays: Mapping[str, NDArray[np.generic]], plays: _Plays) -> SavedHashes:
    """Hashes of the agent, of what plays and of their scalings within a saved engine state."""
    weights = {
        here + name.removeprefix(there): array
        for name, array in arrays.items()
        for there, here in (*_SAVED_AS, *plays.saved_as)
        if name.startswith(there)
    }
    weights["policy.kind"] = np.frombuffer(plays.kind.encode(), np.uint8)
    return SavedHashes(hash_of(weights), hash_of(policy_part(weights)))

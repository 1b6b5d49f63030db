"""Where a run stands and what it waits for, by its last events; starts quickly and reads no arrays."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from gaelp.core.money import MICROS
from gaelp.report.reading import Fields
from gaelp.store.log import Event
from gaelp.store.store import Store

_PREPARING = ("pacer_certified", "history_exported", "fidelity", "worlds_fitted")
_PREPARING_A_LOG = ("log_split", "block_pacer_certified", "log_fidelity")
_TRAINING = ("played", "trained", "batch_refused", "judged", "certified", "checkpoint")
_TOLD_SHORTLY = (
    *_PREPARING, *_PREPARING_A_LOG, "phase_began", "phase_ended", "day_played", "checkpoint", "reserved",
    "authorisation_wanted",
    "authorised", "halted", "halt_lifted", "journey_ended",
)  # fmt: skip
"""Enough to know the state up to the last of them; training ends in a checkpoint, its long events are left out."""
_LIFTS_A_HALT = ("halt_lifted", "phase_began", "authorised", "reserved")
"""Under a dropped latch none of these is written; a training block that was under way still may be."""


@dataclass
class _Standing:
    """What the events read so far say."""

    phase: str | None = None
    state: str = "new"
    halted: bool = False
    failed: bool = False
    wanted: Fields | None = None
    reason: str | None = None
    last: Event | None = None

    def take(self, event: Event) -> None:
        told, kind = Fields.of(event), event.kind
        self.last = event
        self.halted = kind == "halted" or (self.halted and kind not in _LIFTS_A_HALT)
        if kind in _PREPARING or (kind == "day_played" and told.text("phase") == "history"):
            self.phase, self.state = "history", "preparing"
        elif kind in _PREPARING_A_LOG:
            self.phase, self.state = "log", "preparing"
        elif kind == "phase_began":
            self.phase, self.reason = told.text("name"), None
            self.state = "training" if self.phase in ("simulation", "historical") else "playing"
        elif kind == "phase_ended":
            self.state = "between_phases"
            self.reason, self.failed = told.text("reason"), told.text("verdict") == "FAIL"
        elif kind in _TRAINING:
            self.state = "training"
        elif kind == "authorisation_wanted":
            self.state, self.wanted = "waiting", told
        elif kind in ("authorised", "day_played"):
            self.state, self.wanted = "playing", None
        elif kind == "halted":
            self.reason = told.text("reason")
        elif kind == "journey_ended":
            # A gate that says WAIT where the journey may not go on has stopped it; only FAIL has failed it.
            stopped = "failed" if self.failed else "stopped"
            self.state = "ended" if told.yes("reached_end") else stopped
            self.reason = told.text("reason")


def status(store: Store, run_id: str) -> dict[str, object]:
    """`run, phase, state, waiting_for`, and the last event. Raises StoreError for a run that is not there.

    state: new, preparing, training, playing, waiting, between_phases, halted, ended, stopped (by a gate that waits)
    or failed. A process that died leaves its last state behind; `last_event_at` tells how old that is.
    waiting_for: the commands that a person may paste to let the run go on, else None.
    """
    store.config(run_id)
    standing = _Standing()
    for event in store.events(run_id, _TOLD_SHORTLY):
        standing.take(event)
    for event in store.events(run_id, after=0 if standing.last is None else standing.last.seq):
        standing.take(event)
    state, waiting_for = standing.state, None
    if standing.halted and state != "ended":
        state, waiting_for = "halted", resume_command(run_id)
    elif state == "waiting" and standing.wanted is not None:
        waiting_for = _missing(store, run_id, standing.wanted)
    last = standing.last
    return {
        "run": run_id,
        "phase": standing.phase,
        "state": state,
        "waiting_for": waiting_for,
        "reason": standing.reason,
        "events": 0 if last is None else last.seq,
        "last_event": None if last is None else last.kind,
        "last_event_at": None if last is None else last.at,
    }


def _missing(store: Store, run_id: str, wanted: Fields) -> str | None:
    """What is still missing of grant and approval, as commands; None when both are there and the run may go on."""
    phase, limit = wanted.text("phase"), wanted.whole("limit_micros")
    commands = []
    short = limit - store.books(run_id).phase(phase).available
    if short > 0:
        commands.append(grant_command(run_id, phase, short))
    bound = ("actor_hash", "phase", "step", "limit_micros", "evidence_hash")
    given = [approval.binding for approval in store.unused_approvals(run_id)]
    if not any(all(getattr(binding, name) == wanted.value(name) for name in bound) for binding in given):
        commands.append(approve_command(run_id))
    return " && ".join(commands) if commands else None


def grant_command(run_id: str, phase: str, micros: int) -> str:
    """How a person grants `micros` more to a phase; the amount exact, in whole units."""
    places = 2 if micros % 10_000 == 0 else 6
    amount = f"{Decimal(micros) / MICROS:.{places}f}"
    return f'gaelp grant {run_id} --phase {phase} --amount {amount} --by "$USER"'


def approve_command(run_id: str) -> str:
    """How a person approves what the run waits for."""
    return f'gaelp approve {run_id} --by "$USER"'


def resume_command(run_id: str) -> str:
    """How a person lets a halted run go on."""
    return f'gaelp resume {run_id} --lift "what was mended"'

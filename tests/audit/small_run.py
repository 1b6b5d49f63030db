"""A whole journey's log in small, written by hand and not by the orchestrator: 40 + 18 + 9 + 20 episodes.

Every campaign-day spends 600 micros in six dayparts of 100; budgets are 0.0005, so that 0.001 are reserved for it.
"""

from __future__ import annotations

import copy
import shutil
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gaelp.learn.export import hash_of, policy_part
from gaelp.platforms.platform import BillLine
from gaelp.store import checkpoints
from gaelp.store.canonical import canonical
from gaelp.store.log import GENESIS, event_hash
from gaelp.store.store import Store

RUN = "small-1"
SPENT, RESERVED = 600, 1000
LIMITS = {"per_episode": "0.001", "per_day": "0.01", "total": "0.1", "days": 10}
JOURNEY: dict[str, Any] = {
    "name": "small",
    "history": {"warmup_days": 4, "training_days": 6, "selection_days": 4, "certification_days": 1},
    "platform": {"kind": "sandbox", "markets": 3, "max_bid": "2"},
    "simulation": {"episodes": 40, "judging_worlds": 32, "budget_low": "3", "budget_high": "12"},
    "real_testing": {
        "shadow_days": 1, "play_days": 3, "window_days": 3, "daily_budget": "0.0005", "agent_campaigns": 3,
        "control_campaigns": 1, "limits": LIMITS,
    },
    "scaled": {
        "steps": [
            {"daily_budget": "0.0005", "days": 4, "agent_campaigns": 5, "control_campaigns": 1, "limits": LIMITS},
        ],
    },
}  # fmt: skip
CADENCE = {
    "simulation": (32, 64, 4),
    "historical": (16, 32, 2),
    "real_testing": (8, 16, 1),
    "scaled": (16, 32, 2),
}

OWNED = {f"acct/m{k}": "incumbent" for k in range(3)}

Told = dict[str, Any]


def live_arms(phase: str, day: int, agent: int) -> dict[str, str]:
    """The day's campaigns: `agent` of the agent's, one of control's."""
    labels = {f"{phase}/d{day}/agent/0-m{k}": "agent" for k in range(agent)}
    return labels | {f"{phase}/d{day}/control/0-m0": "control"}


@dataclass
class Written:
    """One event to be written; a test may plant a fault in it first."""

    kind: str
    told: Told


class SmallRun:
    """The events of an honest run, in order, and its checkpoints below `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        # Opened once: a test that copies the run is spared the migrations.
        Store.open(self.database).close()
        self.events: list[Written] = []
        self.calls = 0
        self.days = 20
        self._weights = self._arrays()
        self._write()

    @property
    def artifacts(self) -> Path:
        return self.home / "artifacts"

    @property
    def database(self) -> Path:
        return self.home / "gaelp.sqlite"

    def copied(self, home: Path) -> SmallRun:
        """The same run in another directory, for a test to spoil."""
        shutil.copytree(self.home, home, dirs_exist_ok=True)
        twin = copy.copy(self)
        twin.home, twin.events = home, copy.deepcopy(self.events)
        return twin

    # ---- what a test does

    def all(self, kind: str, **where: object) -> list[Written]:
        return [e for e in self.events if e.kind == kind and all(e.told[k] == v for k, v in where.items())]

    def first(self, kind: str, **where: object) -> Written:
        return self.all(kind, **where)[0]

    def move(self, event: Written, before: Written) -> None:
        self.events.remove(event)
        self.events.insert(self.events.index(before), event)

    def bill(self) -> list[BillLine]:
        """What the platform bills: the honest sum, whatever the log says."""
        days = [
            e.told
            for e in self.events
            if e.kind == "day_played" and e.told["phase"] in ("real_testing", "scaled")
        ]
        return [
            BillLine(
                campaign=f"gaelp/{RUN}/{slot['campaign']}", day=told["day"], cost_micros=SPENT, final=True
            )
            for told in days
            for slot in told["slots"]
        ]

    def stored(self) -> Store:
        """The store with these events; the chain is right whatever was planted in them."""
        store = Store.open(self.database)
        store.create_run(RUN, {"journey": JOURNEY})
        with sqlite3.connect(self.database) as raw:
            before = GENESIS
            for seq, event in enumerate(self.events, start=1):
                text = canonical(event.told, event.kind)
                digest = event_hash(before, event.kind, text)
                raw.execute(
                    "INSERT INTO event (run_id, seq, kind, payload, at, prev_hash, hash) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (RUN, seq, event.kind, text, "2026-01-01T00:00:00+00:00", before, digest),
                )
                before = digest
        return store

    # ---- the journey

    def _write(self) -> None:
        for day in range(10, 21):
            self._day("history", day, OWNED)
        exported = {"rows": 1584, "decisions": 231, "pacer_hash": "pacer", "first_day": 10, "last_day": 20}
        self._tell("history_exported", **exported, owner_spend_micros=19800, campaigns=3)
        self._phase("simulation", [32, 8], "PASS", "simulation_gate")
        self._phase("historical", [16, 2], "WAIT", "historical_gate")
        self._begin("real_testing")
        self._day("shadow", 30, OWNED)
        self._live("real_testing", range(31, 34), agent=3, calls=[8, 1], limit=12_000)
        self._begin("scaled")
        self._live("scaled", range(37, 41), agent=5, calls=[16, 4], limit=24_000)
        self._tell(
            "journey_ended", platform_bill_micros=len(self.bill()) * SPENT, reached_end=True, reason=""
        )

    def _phase(self, name: str, calls: list[int], verdict: str, rule: str) -> None:
        self._begin(name)
        for episodes in calls:
            self._train(name, episodes)
        self._promote(name)
        self._end(name, calls, verdict, rule)

    def _live(self, phase: str, days: Iterable[int], *, agent: int, calls: list[int], limit: int) -> None:
        bound = {"phase": phase, "step": 0, "limit_micros": limit, "evidence_hash": "e"}
        bound["actor_hash"] = self._actor()
        self._tell("authorisation_wanted", **bound, loss_micros=limit)
        self._ledger("granted", phase, 0, "", limit, intent=f"grant/{phase}/1", by="a person")
        self._tell("approved", **bound, by="a person")
        self._tell("approval_consumed", **bound, by="a person")
        self._tell("authorised", **bound, loss_micros=limit)
        arms = {day: live_arms(phase, day, agent) for day in days}
        for day, labels in arms.items():
            for label in labels:
                self._ledger("reserved", phase, day, label, RESERVED)
            self._day(phase, day, labels, step=0, actor_hash=self._actor())
        for day, labels in arms.items():
            for label in labels:
                self._ledger("posted", phase, day, label, SPENT)
                self._ledger("released", phase, day, label, RESERVED - SPENT)
            told = [
                {"campaign": label, "arm": arm, "spend_micros": SPENT, "conversions": 1.0, "score": 1.0}
                for label, arm in labels.items()
            ]
            self._tell("episodes_settled", phase=phase, day=day, artifact="a", episodes=told)
        self._tell("window_judged", phase=phase, window=0, verdict="WAIT", reason="not built yet.")
        for episodes in calls:
            self._train(phase, episodes)
        self._promote(phase)
        self._end(phase, calls, "WAIT", "live_gate")

    # ---- single events

    def _tell(self, kind: str, **told: Any) -> None:
        self.events.append(Written(kind, told))

    def _begin(self, phase: str) -> None:
        every, batch, epochs = CADENCE[phase]
        self._tell("phase_began", name=phase, train_every=every, batch_size=batch, num_epochs=epochs)

    def _end(self, phase: str, calls: list[int], verdict: str, rule: str) -> None:
        told = {"episodes": sum(calls), "train_calls": len(calls), "verdict": verdict, "rule": rule}
        self._tell("phase_ended", name=phase, **told, reason=".")

    def _train(self, phase: str, episodes: int) -> None:
        every, batch, epochs = CADENCE[phase]
        live = phase in ("real_testing", "scaled")
        simulated = {"simulation": episodes, "historical": 0}[phase] if not live else 7 * episodes
        transitions = 6 * (simulated + (0 if phase == "simulation" else episodes))
        before = (hash_of(self._weights), self._actor())
        source = "logged" if phase == "historical" else "simulated"
        played = simulated if live else episodes
        actor = "incumbent" if phase == "historical" else before[1]
        self._tell("played", phase=phase, source=source, episodes=played, seed=1, actor_hash=actor)
        self.calls += 1
        self._weights = self._arrays()
        self._tell(
            "trained", phase=phase, episodes=episodes, train_every=every, call=self.calls, transitions=transitions,
            simulated_transitions=6 * simulated, updates=epochs * -(-transitions // batch), batch_size=batch,
            num_epochs=epochs, learning_rate=3e-4, loss=0.1, min_update_change=0.01,
            weight_change={"absolute": 0.25, "relative": 0.01}, weights_hash_before=before[0],
            weights_hash_after=hash_of(self._weights), actor_hash_before=before[1], actor_hash_after=self._actor(),
            second_look={"worst": {}, "faults": [], "replayed_hash": "a", "trained_hash": "a", "units": {}},
        )  # fmt: skip
        self._tell("checkpoint", phase=phase, checkpoint=self.saved(self._weights), calls=self.calls)

    def _promote(self, phase: str) -> None:
        self._tell(
            "judged", phase=phase, depth="full", call=self.calls, actor_hash=self._actor(), verdict="LEARNING",
            reason="better.", parts={}, evidence={},
        )  # fmt: skip
        saved = self.saved(self._weights)
        self._tell("promoted", phase=phase, actor_hash=self._actor(), checkpoint=saved, reason="passed.")

    def _day(self, phase: str, day: int, arms: dict[str, str], **more: Any) -> None:
        slots = [
            {
                "campaign": label, "arm": arm, "item": 0, "budget_micros": 500, "moves": [36] * 6,
                "step_spend_micros": [100] * 6, "spend_micros": SPENT, "impressions": 9, "clicks": 3,
            }
            for label, arm in arms.items()
        ]  # fmt: skip
        self._tell(
            "day_played", phase=phase, day=day, artifact="a", slots=slots, refusals=[], tripped=None, **more
        )

    def _ledger(
        self, kind: str, phase: str, day: int, episode: str, micros: int, intent: str = "", **more: Any
    ) -> None:
        named = intent if intent else episode
        self._tell(kind, intent=named, phase=phase, day=day, episode=episode, micros=micros, **more)

    # ---- weights

    def _arrays(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(self.calls)
        return {
            name: rng.normal(size=2).astype(np.float32)
            for name in ("actor.0.weight", "critic.0.weight", "scaling.mean")
        } | {"policy.kind": np.frombuffer(b"categorical", np.uint8)}

    def _actor(self) -> str:
        return hash_of(policy_part(self._weights))

    def saved(self, weights: dict[str, np.ndarray]) -> str:
        renamed = {
            f"state.normaliser.observation.{n.removeprefix('scaling.')}"
            if n.startswith("scaling.")
            else f"state.agent.{n}": a
            for n, a in weights.items()
            if n != "policy.kind"
        }
        return checkpoints.save(self.artifacts, renamed, {"what": "checkpoint"})


Plant = Callable[[SmallRun], None]

"""A run: its configuration, store, files and latch, and the few verbs every stage shares.

Imports no JAX; HTTP and NumPy only where a call needs them, since `gaelp status` and `gaelp halt` start through here.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeGuard, TypeVar

from gaelp.core.config import (
    Journey,
    JourneyConfig,
    LogJourneyConfig,
    build_config,
    build_journey,
    build_log_config,
)
from gaelp.core.errors import BadInput, PhaseFailed
from gaelp.core.schema import Schema, default_schema
from gaelp.core.verdict import FAIL, Verdict
from gaelp.orchestration.steps import require_within_limits
from gaelp.platforms.sandbox import OVER_DELIVERY
from gaelp.safety import latch
from gaelp.safety.approvals import Binding
from gaelp.safety.guards import not_halted
from gaelp.store.store import Store

if TYPE_CHECKING:
    from typing_extensions import TypeVar as DefaultingTypeVar

    from gaelp.platforms.sandbox.client import SandboxPlatform
    from gaelp.platforms.sandbox.process import SandboxProcess
    from gaelp.store.checkpoints import Checkpoint

    # A plain `Run` is one with a platform; the default needs Python 3.13, and only the type checker reads it.
    Config = DefaultingTypeVar("Config", bound=Journey, covariant=True, default=JourneyConfig)
else:
    Config = TypeVar("Config", bound=Journey, covariant=True)

Entered = TypeVar("Entered", bound=Journey)

STORE_FILE = "gaelp.sqlite"
POLL_S = 0.25
OWNER_PREFIX = "acct/"


class Progress(Protocol):
    """Where a run shows how far it is; knows nothing of what it shows."""

    def advance(self, stage: str, done: int, total: int, note: str) -> None:
        """`done` of `total` of `stage`."""


class Quiet:
    """Shows nothing."""

    def advance(self, stage: str, done: int, total: int, note: str) -> None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a live phase waits for: a grant that covers it, and a person's approval bound to exactly this."""

    binding: Binding
    loss_micros: int
    """The most that can be lost with it."""


Person = Callable[["Run[Journey]", Wanted], None]
"""Told once of what is wanted. The demo's answers at once; a real run's shows it and waits for the command line."""


@dataclass
class Run(Generic[Config]):
    """One journey on disk: events in the store, arrays in `artifacts/`, the sandbox, if it has one, in `sandbox/`."""

    run_id: str
    home: Path
    store: Store
    config: Config
    progress: Progress = field(default_factory=Quiet)
    person: Person | None = None

    @property
    def directory(self) -> Path:
        return self.home / self.run_id

    @property
    def artifacts(self) -> Path:
        return self.directory / "artifacts"

    @property
    def schema(self) -> Schema:
        return default_schema(self.config.decisions_per_day, self.config.profile)

    @property
    def prefix(self) -> str:
        """What every campaign of this run is named by on its platform."""
        return f"gaelp/{self.run_id}/"

    def append(
        self, kind: str, payload: Mapping[str, object], ambient: Mapping[str, object] | None = None
    ) -> None:
        """One event in a transaction of its own."""
        with self.store.transaction(self.run_id) as tx:
            tx.append(kind, payload, ambient)

    def found(self, kind: str, **where: object) -> list[Mapping[str, object]]:
        """Payloads of all events of `kind` whose fields equal `where`, in order."""
        events = (event.payload for event in self.store.events(self.run_id, [kind]))
        return [told for told in events if all(told[key] == value for key, value in where.items())]

    def halted(self) -> Verdict:
        """The latch, as a guard."""
        return not_halted(latch.read(self.directory))

    def require_running(self) -> None:
        """Raises PhaseFailed when somebody halted the run."""
        verdict = self.halted()
        if verdict.ruling is FAIL:
            raise PhaseFailed(verdict.reason)

    def save(self, arrays: Mapping[str, object], manifest: Mapping[str, object]) -> str:
        """Store arrays by content; returns the hash that an event then names."""
        from gaelp.store import checkpoints

        return checkpoints.save(self.artifacts, arrays, manifest)  # type: ignore[arg-type]

    def load(self, content_hash: object) -> Checkpoint:
        """Arrays back, verified. A damaged checkpoint is refused, and the sound one before it is named."""
        from gaelp.store import checkpoints

        lineage = [str(told["checkpoint"]) for told in self.found("checkpoint")]
        return checkpoints.load(self.artifacts, str(content_hash), lineage)

    def open_platform(self: Run[JourneyConfig]) -> tuple[SandboxPlatform, SandboxProcess]:
        """The run's platform, started or found."""
        import httpx

        from gaelp.platforms.sandbox.client import SandboxPlatform
        from gaelp.platforms.sandbox.process import ensure_running

        process = ensure_running(
            self.directory / "sandbox", seed=self.config.seed, markets=self.config.platform.markets
        )
        return SandboxPlatform(httpx.Client(base_url=process.base_url, timeout=30.0)), process

    async def authorised(self, wanted: Wanted) -> None:
        """Return when a grant covers `wanted` and its approval was given (and is now used up).

        Waits without end: silence is no answer. Raises PhaseFailed when the run is halted meanwhile.
        """
        binding = wanted.binding
        told = {
            "phase": binding.phase, "step": binding.step, "limit_micros": binding.limit_micros,
            "actor_hash": binding.actor_hash, "evidence_hash": binding.evidence_hash, "loss_micros": wanted.loss_micros,
        }  # fmt: skip
        if self.found("authorised", phase=binding.phase, step=binding.step):
            return
        asked = bool(self.found("authorisation_wanted", phase=binding.phase, step=binding.step))
        if not asked:
            self.append("authorisation_wanted", told)
        if self.person is not None and not self._answered(binding):
            self.person(self, wanted)
        while True:
            self.require_running()
            with self.store.transaction(self.run_id) as tx:
                covered = tx.books.phase(binding.phase).available >= binding.limit_micros
                if covered and tx.consume_approval(binding):
                    tx.append("authorised", told)
                    return
            await asyncio.sleep(POLL_S)

    def _answered(self, binding: Binding) -> bool:
        """Has this very step been approved already, and only waits to be taken up?"""
        return any(approval.binding == binding for approval in self.store.unused_approvals(self.run_id))


def evidence_hash(payloads: Sequence[Mapping[str, object]]) -> str:
    """Identity of the evidence an approval is bound to."""
    return hashlib.sha256(json.dumps(list(payloads), sort_keys=True).encode()).hexdigest()[:32]


def compile_cache() -> Path:
    """Where compiled programs are kept between runs: where XDG says, else in ~/.cache."""
    base = os.environ["XDG_CACHE_HOME"] if "XDG_CACHE_HOME" in os.environ else str(Path.home() / ".cache")
    return Path(base) / "gaelp" / "jax"


def open_store(home: Path) -> Store:
    """The store of a home that must exist already. Raises StoreError when there is none."""
    return Store.existing(home / STORE_FILE)


def begin_run(home: Path, told: dict[str, object], where: str, answered_by: str) -> Run:
    """Enter a new run with the journey `told` (plain values, checked). Its name is the journey's and a number.

    answered_by: 'person' when grants come from the command line, 'demo' when the demo gives them itself.
    """
    config = build_config(told, where)
    require_within_limits(config, OVER_DELIVERY, where)
    return _entered(home, config, {"journey": told, "answered_by": answered_by})


def begin_log_run(home: Path, told: dict[str, Any], where: str) -> Run[LogJourneyConfig]:
    """Enter a new run with the journey `told` on an auction log. Nobody answers for money: there is none."""
    return _entered(home, build_log_config(told, where), {"journey": told, "answered_by": "nobody"})


def _entered(home: Path, config: Entered, told: dict[str, object]) -> Run[Entered]:
    if home.exists() and not home.is_dir():
        raise BadInput(f"{home} is a file: name a directory to keep runs in.")
    home.mkdir(parents=True, exist_ok=True)
    store = Store.open(home / STORE_FILE)
    number = 1 + sum(record.run_id.rsplit("-", 1)[0] == config.name for record in store.runs())
    run_id = f"{config.name}-{number}"
    if (home / run_id).exists():
        raise BadInput(f"{home / run_id} exists but is no run of the store: move it away.")
    (home / run_id).mkdir()
    store.create_run(run_id, told)
    return Run(run_id, home, store, config)


def any_run(home: Path, run_id: str | None) -> Run[Journey]:
    """A run by name, or the latest, whatever its journey. Raises StoreError when there is none."""
    store = open_store(home)
    name = store.latest_run().run_id if run_id is None else run_id
    config = build_journey(store.config(name)["journey"], f"run {name}")  # type: ignore[arg-type]
    return Run(name, home, store, config)


def is_on_a_log(run: Run[Journey]) -> TypeGuard[Run[LogJourneyConfig]]:
    """Is its journey one on a recorded auction log?"""
    return isinstance(run.config, LogJourneyConfig)


def has_a_platform(run: Run[Journey]) -> TypeGuard[Run[JourneyConfig]]:
    """Is its journey one on an ad platform?"""
    return isinstance(run.config, JourneyConfig)


def existing_run(home: Path, run_id: str | None) -> Run:
    """A run with a platform, by name, or the latest. Raises StoreError when there is none and
    BadInput when it is on a log.
    """
    found = any_run(home, run_id)
    if has_a_platform(found):
        return found
    raise BadInput(
        f"run {found.run_id} is a journey on an auction log: it has no platform, so no money can be granted, approved "
        "or spent."
    )


def pending(run: Run) -> Binding:
    """What the run waits to have approved. Raises BadInput when it waits for nothing."""
    done = {(told["phase"], told["step"]) for told in run.found("authorised")}
    wanted = [told for told in run.found("authorisation_wanted") if (told["phase"], told["step"]) not in done]
    if not wanted:
        raise BadInput(
            f"run {run.run_id} waits for no approval; `gaelp status {run.run_id}` says where it stands."
        )
    told = wanted[-1]
    return Binding(
        actor_hash=str(told["actor_hash"]), phase=str(told["phase"]), step=int(str(told["step"])),
        limit_micros=int(str(told["limit_micros"])), evidence_hash=str(told["evidence_hash"]),
    )  # fmt: skip

"""A journey as small as it may be and still be real, and how a test starts, answers, kills and reads one.

What is read here is read with sqlite3 and json alone: it shares no code with the store, the ledger or the sandbox.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gaelp
from gaelp.platforms.sandbox.process import SandboxProcess

SEED = 11
EPISODES, CALLS = 6420, 201
"""200 calls of 32 episodes and one of the 20 that are left."""
# From six days of three markets tiring cannot be told from none, and an agent rightly comes out as NOT_LEARNING: half of
# the demo's history is the least that these journeys can go on with.
TINY = f"""
name = "tiny"
seed = {SEED}
continue_after_wait = true

[learning]
learning_rate = 5e-4

[history]
warmup_days = 4
training_days = 14
selection_days = 9
certification_days = 1

[platform]
kind = "sandbox"
markets = 3
max_bid = "2.00"

[simulation]
episodes = {EPISODES}
judging_worlds = 2048
budget_low = "3.00"
budget_high = "12.00"
checkpoint_every = 20

[real_testing]
shadow_days = 1
play_days = 4
window_days = 2
daily_budget = "5.00"
agent_campaigns = 3
control_campaigns = 2
limits = {{ per_episode = "10.00", per_day = "50.00", total = "200.00", days = 4 }}

[scaled]
[[scaled.steps]]
daily_budget = "5.00"
days = 2
agent_campaigns = 4
control_campaigns = 1
limits = {{ per_episode = "10.00", per_day = "50.00", total = "100.00", days = 2 }}

[[scaled.steps]]
daily_budget = "7.00"
days = 2
agent_campaigns = 4
control_campaigns = 1
limits = {{ per_episode = "14.00", per_day = "70.00", total = "140.00", days = 2 }}
"""
RUN = "tiny-1"
ENTRANCE = (sys.executable, "-c", "from gaelp.cli.app import main; main()")
FREEZING = """
import contextlib, os, signal
from gaelp.cli.app import main
from gaelp.platforms.sandbox.client import SandboxPlatform
from gaelp.store.store import Store

moment = {moment}
step, transaction = SandboxPlatform.step, Store.transaction

def reached(store, run_id):
    return len(list(store.events(run_id, moment[:1]))) >= moment[1]

def stepping(platform, day, tick):
    if (day, tick) == moment:
        os.kill(os.getpid(), signal.SIGSTOP)
    return step(platform, day, tick)

@contextlib.contextmanager
def committing(store, run_id):
    already = reached(store, run_id)
    with transaction(store, run_id) as tx:
        yield tx
    if reached(store, run_id) and not already:
        os.kill(os.getpid(), signal.SIGSTOP)

if isinstance(moment[0], str):
    Store.transaction = committing
else:
    SandboxPlatform.step = stepping
main()
"""
"""The command itself, but that it stops itself at a certain moment: a test that polled for it could come days late."""
Moment = tuple[int, int] | tuple[str, int]
"""Right before the platform's half hour (day, tick), or right after event number n, from 1, of a kind: (kind, n)."""
PATIENCE_S = 300.0
POLL_S = 0.02

Told = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the event log as it stands in the database; the wall clock is left out."""

    seq: int
    kind: str
    told: Told
    hash: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a finished command said."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> Told:
        """The JSON object in the last line of standard output."""
        return json.loads(self.out.splitlines()[-1])

    @property
    def sentence(self) -> str:
        """The last line of standard error."""
        return self.err.splitlines()[-1]


@dataclass(frozen=True)
class Home:
    """A home directory of runs, and the compile cache that its commands share."""

    path: Path
    cache: Path

    # ---- commands, each a process of its own

    def command(self, *words: str, entrance: tuple[str, ...] = ENTRANCE) -> list[str]:
        return [*entrance, *words, "--home", str(self.path)]

    def environment(self) -> dict[str, str]:
        told = {
            key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "XLA_", "GAELP_"))
        }
        return {
            **told,
            "PYTHONPATH": str(Path(gaelp.__file__).parents[1]),
            "XDG_CACHE_HOME": str(self.cache),
            "COLUMNS": "100",
        }

    def ask(self, *words: str) -> Answer:
        """Run a command to its end."""
        done = subprocess.run(
            self.command(*words), env=self.environment(), capture_output=True, text=True, timeout=PATIENCE_S
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def start(self, *words: str, frozen_at: Moment | None = None) -> Travelling:
        """Begin a command that takes its time; at the moment `frozen_at` it stops (SIGSTOP)."""
        entrance = (
            ENTRANCE if frozen_at is None else (sys.executable, "-c", FREEZING.format(moment=frozen_at))
        )
        number = len(list(self.path.parent.glob(f"{self.path.name}.*.out")))
        said, complained = (self.path.parent / f"{self.path.name}.{number}.{what}" for what in ("out", "err"))
        with said.open("w") as out, complained.open("w") as err:
            process = subprocess.Popen(
                self.command(*words, entrance=entrance), env=self.environment(), stdout=out, stderr=err
            )
        return Travelling(self, process, said, complained)

    # ---- what the databases hold

    @property
    def directory(self) -> Path:
        return self.path / RUN

    @property
    def artifacts(self) -> Path:
        return self.directory / "artifacts"

    def rows(self, *kinds: str, **where: object) -> list[Row]:
        """The events of those kinds (all, when none is named) whose fields equal `where`."""
        found = self._read(
            self.path / "gaelp.sqlite",
            "SELECT seq, kind, payload, hash FROM event WHERE run_id = ? ORDER BY seq",
            RUN,
        )
        listed = [Row(seq, kind, json.loads(payload), digest) for seq, kind, payload, digest in found]
        return [
            r
            for r in listed
            if (not kinds or r.kind in kinds) and all(r.told[k] == v for k, v in where.items())
        ]

    def sandbox(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of the sandbox's own database."""
        return self._read(self.directory / "sandbox" / "sandbox.db", query, *values)

    def campaigns(self, prefix: str) -> dict[str, str]:
        """Status by name on the platform."""
        return dict(self.sandbox("SELECT name, status FROM campaigns WHERE name LIKE ? || '%'", prefix))

    def bills(self, prefix: str = f"gaelp/{RUN}/") -> dict[str, int]:
        """What the platform charged, in micros by campaign, as its half hours say."""
        return dict(
            self.sandbox(
                "SELECT c.name, SUM(p.cost_micros) FROM plays p JOIN campaigns c ON c.created_index = p.campaign "
                "WHERE c.name LIKE ? || '%' GROUP BY c.name",
                prefix,
            )
        )

    @staticmethod
    def _read(database: Path, query: str, *values: object) -> list[tuple[Any, ...]]:
        if not database.is_file():
            return []
        # Closed each time: an open reader would keep the writer's journal from being folded in.
        with contextlib.closing(
            sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)
        ) as connection:
            try:
                return connection.execute(query, values).fetchall()
            except sqlite3.OperationalError as young:
                if "no such table" not in str(young):
                    raise
                return []

    def stop_sandbox(self) -> None:
        """End the sandbox of this home's run, if one was left behind by a kill."""
        state = self.directory / "sandbox" / "sandbox.json"
        if not state.is_file():
            return
        told = json.loads(state.read_text())
        SandboxProcess(
            port=told["port"], pid=told["pid"], nonce=told["nonce"], database=state.with_name("sandbox.db")
        ).stop()

    def copied(self, path: Path) -> Home:
        """The same home elsewhere, its databases copied as of one instant each; no sandbox runs for it yet."""
        twin = Home(path, self.cache)
        shutil.copytree(
            self.path,
            path,
            ignore=shutil.ignore_patterns(
                "*.sqlite*", "sandbox.db*", "sandbox.json", "sandbox.log", "*.lock"
            ),
        )
        for database in (Path("gaelp.sqlite"), Path(RUN, "sandbox", "sandbox.db")):
            with (
                contextlib.closing(sqlite3.connect(self.path / database)) as old,
                contextlib.closing(sqlite3.connect(path / database)) as new,
            ):
                old.backup(new)
        return twin


@dataclass
class Travelling:
    """A command under way."""

    home: Home
    process: subprocess.Popen[bytes]
    said: Path
    complained: Path

    def until(self, happened: Callable[[], object], what: str) -> None:
        """Wait for something. Fails when the command ends before it."""

        def settled() -> bool:
            if happened():
                return True
            assert self.process.poll() is None, f"ended before {what}: {self.complained.read_text()[-2000:]}"
            return False

        until(settled, what)

    def until_frozen(self) -> None:
        """Wait for the moment `frozen_at`, answering as a person would whatever the run waits for."""

        def frozen() -> bool:
            grant_what_is_wanted(self.home)
            seen = os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
            return seen is not None

        self.until(frozen, "the moment to be frozen at")

    def thaw(self) -> None:
        """Let it go on from where it is frozen."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and the sandbox that was left behind goes on or not as it likes."""
        self.process.kill()
        self.process.wait()

    def end(self) -> Answer:
        """Wait for the end, answering as a person would whatever the run waits for."""
        while self.process.poll() is None:
            grant_what_is_wanted(self.home)
            until(lambda: self.process.poll() is not None or wanted(self.home), "the end")
        return Answer(self.process.returncode, self.said.read_text(), self.complained.read_text())


def wanted(home: Home) -> Told | None:
    """What the run waits for and nobody has answered: by the log, not by the code that asks."""
    asked = home.rows("authorisation_wanted")
    answered = {(r.told["phase"], r.told["step"]) for r in home.rows("approved", "authorised")}
    still = [r.told for r in asked if (r.told["phase"], r.told["step"]) not in answered]
    return still[-1] if still else None


def grant_what_is_wanted(home: Home) -> None:
    """A person at another terminal: grants exactly the worst case and approves it."""
    told = wanted(home)
    if told is None:
        return
    amount = f"{told['limit_micros'] / 1e6:.2f}"
    granted = home.ask(
        "grant", RUN, "--phase", told["phase"], "--amount", amount, "--by", "R. Money", "--json"
    )
    approved = home.ask("approve", RUN, "--by", "R. Money", "--json")
    assert (granted.code, approved.code) == (0, 0), granted.err + approved.err


def until(happened: Callable[[], object], what: str) -> None:
    """Poll for something that another process does."""
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:g} s in vain for {what}"
        time.sleep(POLL_S)


def live_day(home: Home, nth: int) -> int:
    """The platform's day that was the `nth` of real testing (from 0) in a finished journey."""
    return home.rows("day_played", phase="real_testing")[nth].told["day"]

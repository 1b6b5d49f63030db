"""The sandbox as a process of its own: find it, start it, stop it.

A small file in a directory tells where it answers. It outlives whoever started it, as a real network
would, and ends by itself when nobody calls; started again it goes on from its database. This module
refuses to know what the network does.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from gaelp.core.errors import BadInput, PlatformError
from gaelp.platforms.sandbox.lock import is_held

STATE_FILE, DATABASE_FILE, LOG_FILE = "sandbox.json", "sandbox.db", "sandbox.log"
STOP_WITHIN_S = 10.0
ANSWER_WITHIN_S = 2.0
POLL_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxProcess:
    """A sandbox that answered. `database` is its SQLite file; others may read it while it runs."""

    port: int
    pid: int
    nonce: str
    database: Path

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Ask it to end and wait until it has; nothing to do when it is gone. Raises PlatformError if it stays."""
        if not _answers(self.port, self.nonce):
            return
        _ask(self.port, "POST", "/stop", {"nonce": self.nonce})
        deadline = time.monotonic() + STOP_WITHIN_S
        while is_held(self.database):
            if time.monotonic() > deadline:
                raise PlatformError(
                    f"the sandbox (process {self.pid}) still runs {STOP_WITHIN_S:g} s after it was asked to end."
                )
            time.sleep(POLL_S)


def ensure_running(
    directory: Path, *, seed: int, markets: int = 8, idle_s: float = 900.0, start_within_s: float = 20.0
) -> SandboxProcess:
    """The sandbox of this directory, started if it does not answer, going on exactly where its database stands.

    It keeps its port over a restart while that port is free. One that somebody else is starting is waited for.
    Raises PlatformError with the process's own sentence when it does not start, for instance with another seed than
    the database's, or when nothing answers in time; BadInput for a broken file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    database = directory / DATABASE_FILE
    deadline = time.monotonic() + start_within_s
    child: _Child | None = None
    while True:
        known = _read_state(directory / STATE_FILE)
        if known is not None:
            if (known.seed, known.markets) != (seed, markets):
                raise PlatformError(
                    f"{directory} holds a sandbox of seed {known.seed} with {known.markets} markets, "
                    f"not of seed {seed} with {markets}."
                )
            if _answers(known.port, known.nonce):
                if child is not None and child.process.pid != known.pid:
                    # Somebody else's process was first. Ours waits for the database and must not inherit it later.
                    child.end()
                return SandboxProcess(port=known.port, pid=known.pid, nonce=known.nonce, database=database)
        if child is None and not is_held(database):
            port = known.port if known is not None and _is_free(known.port) else 0
            child = _start(directory, seed=seed, markets=markets, idle_s=idle_s, port=port)
        if child is not None and child.process.poll() is not None:
            # Another starter's process may have taken the database first: then that one is waited for.
            if not is_held(database):
                raise PlatformError(f"the sandbox did not start: {child.complaint()}")
            child = None
        if time.monotonic() > deadline:
            if child is not None:
                child.end()
            raise PlatformError(
                f"the sandbox of {directory} did not answer within {start_within_s:g} s; see {directory / LOG_FILE}."
            )
        time.sleep(POLL_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What a sandbox writes about itself once it listens."""

    port: int
    pid: int
    nonce: str
    seed: int
    markets: int


@dataclass(frozen=True, slots=True)
class _Child:
    """A process that was started, and where in the log its words begin."""

    process: subprocess.Popen[bytes]
    log: Path
    said_from: int

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def complaint(self) -> str:
        said = self.log.read_bytes()[self.said_from :].decode(errors="replace").strip()
        return f"{said} (exit code {self.process.returncode})"


def _start(directory: Path, *, seed: int, markets: int, idle_s: float, port: int) -> _Child:
    command = [
        sys.executable, "-m", "gaelp.platforms.sandbox", "--database", str(directory / DATABASE_FILE),
        "--state", str(directory / STATE_FILE), "--seed", str(seed), "--markets", str(markets), "--port", str(port),
        "--idle-s", str(idle_s),
    ]  # fmt: skip
    log = directory / LOG_FILE
    with log.open("ab") as words:
        said_from = words.tell()
        # A session of its own: an interrupt meant for us must not stop the network.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=words, start_new_session=True
        )
    return _Child(process, log, said_from)


def _ask(port: int, method: str, path: str, body: dict[str, str] | None) -> dict[str, object]:
    """One small request without the weight of a full client. Raises OSError or ValueError for no proper answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=ANSWER_WITHIN_S)
    try:
        connection.request(method, path, body=None if body is None else json.dumps(body))
        return {"status": (answer := connection.getresponse()).status, **json.loads(answer.read())}
    except HTTPException as garbled:
        raise ValueError(f"no HTTP on port {port}") from garbled
    finally:
        connection.close()


def _answers(port: int, nonce: str) -> bool:
    """Does the very process that wrote the file answer there, and not another one on its old port?"""
    try:
        told = _ask(port, "GET", "/health", None)
    except (OSError, ValueError, TypeError):
        return False  # fallback-allowed: no answer, or a stranger's, is the answer asked for
    return "nonce" in told and told["nonce"] == nonce


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False  # fallback-allowed: a port that cannot be bound is not free
        return True


def _read_state(path: Path) -> _State | None:
    """What the file says, None when there is none yet. Raises BadInput for a file that says something else."""
    if not path.exists():
        return None
    try:
        return _State(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as broken:
        raise BadInput(
            f"{path} does not tell where a sandbox runs ({broken}): remove it and start again."
        ) from broken

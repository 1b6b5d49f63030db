"""The sandbox as a process of its own: find it, start it, stop it.

A small file in a directory tells where it answers. It outlives whoever started it, as a real network
would, and ends by itself when nobody calls; started again it goes on from its database. This module
refuses to know what the network does.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from gaelp.core.errors import BadInput, PlatformError
from gaelp.platforms.sandbox.lock import is_held

STATE_FILE, DATABASE_FILE, LOG_FILE = "sandbox.json", "sandbox.db", "sandbox.log"
START_WITHIN_S = 20.0
STOP_WITHIN_S = 10.0
ANSWER_WITHIN_S = 2.0


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
        httpx.post(f"{self.base_url}/stop", json={"nonce": self.nonce}, timeout=ANSWER_WITHIN_S)
        deadline = time.monotonic() + STOP_WITHIN_S
        while is_held(self.database):
            if time.monotonic() > deadline:
                raise PlatformError(
                    f"the sandbox (process {self.pid}) still runs {STOP_WITHIN_S:g} s after it was asked to end."
                )
            time.sleep(0.01)


def ensure_running(directory: Path, *, seed: int, markets: int = 8, idle_s: float = 900.0) -> SandboxProcess:
    """The sandbox of this directory, started if it does not answer, going on exactly where its database stands.

    It keeps its port over a restart while that port is free. Raises PlatformError with the process's own
    sentence when it does not start, for instance with another seed than the database's, and BadInput for a
    broken file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    state_file = directory / STATE_FILE
    database = directory / DATABASE_FILE
    known = _read_state(state_file) if state_file.exists() else None
    if known is not None:
        if (known.seed, known.markets) != (seed, markets):
            raise PlatformError(
                f"{directory} holds a sandbox of seed {known.seed} with {known.markets} markets, "
                f"not of seed {seed} with {markets}."
            )
        if _answers(known.port, known.nonce):
            return SandboxProcess(port=known.port, pid=known.pid, nonce=known.nonce, database=database)
    port = known.port if known is not None and _is_free(known.port) else 0
    started = _start(database, directory / LOG_FILE, seed=seed, markets=markets, idle_s=idle_s, port=port)
    _write_state(
        state_file,
        _State(port=started.port, pid=started.pid, nonce=started.nonce, seed=seed, markets=markets),
    )
    return started


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    port: int
    pid: int
    nonce: str
    seed: int
    markets: int


def _start(database: Path, log: Path, *, seed: int, markets: int, idle_s: float, port: int) -> SandboxProcess:
    nonce = secrets.token_hex(8)
    command = [
        sys.executable, "-m", "gaelp.platforms.sandbox", "--database", str(database), "--seed", str(seed),
        "--markets", str(markets), "--port", str(port), "--idle-s", str(idle_s), "--nonce", nonce,
    ]  # fmt: skip
    with log.open("ab") as errors:
        before = log.stat().st_size
        # A session of its own: an interrupt meant for us must not stop the network.
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
    assert child.stdout is not None
    with child.stdout as output:
        ready, _, _ = select.select([output], [], [], START_WITHIN_S)
        line = output.readline() if ready else b""
    if not line:
        child.kill()
        code = child.wait()
        said = log.read_bytes()[before:].decode(errors="replace").strip()
        raise PlatformError(f"the sandbox did not start (exit code {code}): {said}")
    told = json.loads(line)
    return SandboxProcess(port=told["port"], pid=told["pid"], nonce=nonce, database=database)


def _answers(port: int, nonce: str) -> bool:
    """Does the very process that wrote the file answer there, and not another one on its old port?"""
    try:
        response = httpx.get(f"http://127.0.0.1:{port}/health", timeout=ANSWER_WITHIN_S)
        return response.status_code == 200 and response.json()["nonce"] == nonce
    except (httpx.TransportError, ValueError, KeyError, TypeError):
        return False  # fallback-allowed: no answer, or a stranger's, is the answer asked for


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False  # fallback-allowed: a port that cannot be bound is not free
        return True


def _read_state(path: Path) -> _State:
    try:
        return _State(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as broken:
        raise BadInput(
            f"{path} does not tell where a sandbox runs ({broken}): remove it and start again."
        ) from broken


def _write_state(path: Path, state: _State) -> None:
    """Whole or not at all: a reader never meets half a file."""
    fresh = path.with_suffix(".tmp")
    fresh.write_text(json.dumps(asdict(state)) + "\n", encoding="utf-8")
    os.replace(fresh, path)

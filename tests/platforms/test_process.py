"""The sandbox as a real process on loopback: started, killed, resumed, stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import anyio
import httpx
import pytest
from tests.platforms.in_process import Sandbox, open_sandbox, spec

from gaelp.core.errors import BadInput, PlatformError
from gaelp.platforms.sandbox.client import SandboxPlatform
from gaelp.platforms.sandbox.lock import is_held
from gaelp.platforms.sandbox.network import Network
from gaelp.platforms.sandbox.process import DATABASE_FILE, STATE_FILE, SandboxProcess, ensure_running
from gaelp.platforms.sandbox.server import Lifetime, build_app
from gaelp.platforms.sandbox.world import Settings

ONE = Settings(seed=5, markets=1)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[SandboxProcess]:
    started = ensure_running(tmp_path / "net", seed=5, markets=1, idle_s=60.0)
    yield started
    ensure_running(tmp_path / "net", seed=5, markets=1, idle_s=60.0).stop()


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[Sandbox]:
    sandbox = open_sandbox(tmp_path / "twin.db", ONE)
    yield sandbox
    sandbox.close()


def test_killed_in_the_middle_of_a_day_it_goes_on_as_its_undisturbed_twin(running, twin, tmp_path):
    with httpx.Client(base_url=running.base_url) as client:
        platform = SandboxPlatform(client)
        for each in (platform, twin.platform):
            each.create([spec("a")])
            each.skip(1, 20)
            each.edit_bids({"a": 66_000})
            each.step(1, 20)
        os.kill(running.pid, signal.SIGKILL)
        os.waitpid(running.pid, 0)
        with pytest.raises(PlatformError, match="did not answer"):
            platform.account()
        again = ensure_running(tmp_path / "net", seed=5, markets=1, idle_s=60.0)
        assert again.pid != running.pid
        assert again.base_url == running.base_url
        for each in (platform, twin.platform):
            each.skip(5, 0)
        assert platform.settled("", 0, 1) == twin.platform.settled("", 0, 1)
        for tick in range(48):
            assert platform.report("", 1, tick) == twin.platform.report("", 1, tick)


def test_a_sandbox_that_answers_is_found_and_not_started_again(running, tmp_path):
    assert ensure_running(tmp_path / "net", seed=5, markets=1) == running


def test_it_outlives_its_starter_and_ends_when_told(tmp_path):
    program = (
        "import pathlib, sys; from gaelp.platforms.sandbox.process import ensure_running; "
        "print(ensure_running(pathlib.Path(sys.argv[1]), seed=5, markets=1, idle_s=60.0).pid)"
    )
    starter = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        env=environment(),
    )
    found = ensure_running(tmp_path, seed=5, markets=1)
    assert found.pid == int(starter.stdout)
    found.stop()
    assert not is_held(found.database)
    found.stop()


def test_another_seed_or_a_broken_state_file_is_refused(running, tmp_path):
    with pytest.raises(PlatformError, match="seed 5 with 1 markets, not of seed 6"):
        ensure_running(tmp_path / "net", seed=6, markets=1)
    state = tmp_path / "net" / STATE_FILE
    kept = state.read_text()
    state.write_text("{}")
    with pytest.raises(BadInput, match="does not tell where a sandbox runs"):
        ensure_running(tmp_path / "net", seed=5, markets=1)
    state.write_text(kept)


def test_a_start_that_fails_says_why(tmp_path):
    with closing(Network(tmp_path / DATABASE_FILE, Settings(seed=6, markets=1))):
        pass
    with pytest.raises(PlatformError, match=r"did not start: .*seed=6.*not of.*seed=5.*\(exit code 2\)"):
        ensure_running(tmp_path, seed=5, markets=1)


def test_a_database_held_by_a_process_that_does_not_answer_is_not_started_twice(tmp_path):
    with (
        closing(Network(tmp_path / DATABASE_FILE, ONE)),
        pytest.raises(PlatformError, match=r"did not answer within 0.1 s; see .*sandbox.log"),
    ):
        ensure_running(tmp_path, seed=5, markets=1, start_within_s=0.1)


def test_two_starters_at_once_share_one_process(tmp_path):
    with ThreadPoolExecutor(2) as starters:
        found = [starters.submit(ensure_running, tmp_path, seed=5, markets=1, idle_s=60.0) for _ in range(2)]
        first, second = (future.result() for future in found)
    assert first == second
    first.stop()


def test_without_a_request_for_long_it_asks_to_be_stopped(tmp_path):
    asked = threading.Event()
    network = Network(tmp_path / "idle.db", ONE)
    app = build_app(network, Lifetime(nonce="n", idle_s=0.0, stop=asked.set))

    async def live() -> None:
        async with app.router.lifespan_context(app):
            with anyio.fail_after(5):
                while not asked.is_set():
                    await anyio.lowlevel.checkpoint()

    anyio.run(live)
    assert asked.is_set()


def test_only_the_process_meant_is_stopped(running):
    answer = httpx.post(f"{running.base_url}/stop", json={"nonce": "another"})
    assert answer.status_code == 409
    assert httpx.get(f"{running.base_url}/health").json()["pid"] == running.pid


def test_the_server_starts_without_what_it_does_not_need():
    program = (
        "import sys, gaelp.platforms.sandbox.__main__; "
        "print(sorted({'jax', 'scipy', 'polars', 'pydantic', 'httpx', 'gaelp.market', 'gaelp.learn', 'gaelp.bidding'}"
        " & set(sys.modules)))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment()
    )
    assert told.stdout.strip() == "[]"


def environment() -> dict[str, str]:
    """Ours, with the path on which this process finds gaelp."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

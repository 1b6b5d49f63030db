"""One undisturbed tiny journey, and one copy of it from the moment it first waited for money; many tests read them."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.specs.journey import TINY, Answer, Home, wanted


@dataclass(frozen=True)
class Finished:
    """The journey after its end: its home, what it said, and the home as it stood when it first waited for a person."""

    home: Home
    answer: Answer
    waiting: Home


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A directory of this session that all its workers see."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if hasattr(request.config, "workerinput") else base


@pytest.fixture(scope="session")
def cache(shared: Path) -> Path:
    """Compiled programs of this session, for every process of every test."""
    return shared / "cache"


@pytest.fixture(scope="session")
def config(shared: Path) -> Path:
    path = shared / "tiny.toml"
    path.write_text(TINY, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def finished(shared: Path, cache: Path, config: Path) -> Finished:
    """Played once a session, whoever asks first; the others wait for it."""
    home, waiting = Home(shared / "finished", cache), Home(shared / "waiting", cache)
    said, complained = shared / "finished.said", shared / "finished.complained"
    with (shared / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            travelling = home.start("run", str(config), "--json")
            travelling.until(lambda: wanted(home), "the first request for money")
            home.copied(waiting.path)
            answer = travelling.end()
            assert answer.code == 0, answer.err
            complained.write_text(answer.err)
            said.write_text(answer.out)
    return Finished(home, Answer(0, said.read_text(), complained.read_text()), waiting)


@pytest.fixture
def homes(tmp_path: Path, cache: Path) -> Iterator[Callable[[str], Home]]:
    """Opens homes by name; no sandbox of theirs outlives the test."""
    with ExitStack() as opened:

        def home(name: str) -> Home:
            found = Home(tmp_path / name, cache)
            opened.callback(found.stop_sandbox)
            return found

        yield home


@pytest.fixture
def waiting(finished: Finished, tmp_path: Path) -> Iterator[Home]:
    """A copy of the journey where it waits for its first grant and approval; nothing runs yet."""
    home = finished.waiting.copied(tmp_path / "waiting")
    assert wanted(home) is not None
    assert home.rows("reserved") == []
    yield home
    home.stop_sandbox()

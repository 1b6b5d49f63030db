"""Several processes on one store: they never reserve more than was granted, and a kill loses nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gaelp.store.store import Store

COMMON = """
import sys
from gaelp.safety.ledger import Limits, Request
from gaelp.store.store import Store
MANY = 10**9
LIMITS = Limits(per_episode_micros=MANY, per_day_micros=MANY, total_micros=MANY, days=MANY)
def ask(intent, micros):
    return Request(intent=intent, phase="scaled", day=0, episode="e", micros=micros)
"""

RACER = """
store = Store.open(sys.argv[1])
for k in range(100):
    with store.transaction("run") as tx:
        tx.reserve(LIMITS, ask(f"{sys.argv[2]}/{k}", 7))
"""

VICTIM = """
store = Store.open(sys.argv[1])
with store.transaction("run") as tx:
    assert tx.reserve(LIMITS, ask("sent", 7))
transaction = store.transaction("run")
tx = transaction.__enter__()
assert tx.reserve(LIMITS, ask("not committed", 7))
tx.append("half", {})
tx.flush()
print("ready", flush=True)
sys.stdin.read()
"""

OPENER = """
sys.stdin.readline()
Store.open(sys.argv[1]).close()
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMON + script, *arguments],
        env={"PYTHONPATH": ":".join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    store = Store.open(tmp_path / "store.db")
    store.create_run("run", {})
    with store.transaction("run") as tx:
        tx.grant("scaled", 500, "ada")
    store.close()
    return tmp_path / "store.db"


def test_two_processes_that_reserve_at_once_never_exceed_the_grant(path: Path) -> None:
    racers = [start(RACER, str(path), name) for name in ("left", "right")]
    assert [racer.wait(timeout=60) for racer in racers] == [0, 0]
    store = Store.existing(path)
    events = list(store.events("run", kinds=["reserved"]))
    # 200 times 7 were asked for; 71 x 7 = 497 fit into 500.
    assert sum(int(str(e.payload["micros"])) for e in events) == 497
    assert store.books("run").available == 3
    assert store.verify_chain("run") == 72
    store.close()


def test_a_kill_after_reserving_leaves_the_reserve_open_and_a_half_transaction_leaves_nothing(
    path: Path,
) -> None:
    victim = start(VICTIM, str(path))
    assert victim.stdout is not None
    assert victim.stdout.readline() == "ready\n"
    victim.send_signal(signal.SIGKILL)
    victim.wait(timeout=60)
    store = Store.existing(path)
    assert store.books("run").open_intents() == ("sent",)
    assert store.books("run").available == 493
    assert [e.kind for e in store.events("run")] == ["granted", "reserved"]
    with store.transaction("run") as tx:
        tx.resolve("sent", 7)
    assert store.verify_chain("run") == 4
    store.close()


def test_two_processes_may_open_a_new_store_at_once(tmp_path: Path) -> None:
    for round_ in range(2):
        openers = [start(OPENER, str(tmp_path / f"{round_}.db")) for _ in range(3)]
        for opener in openers:
            assert opener.stdin is not None
            opener.stdin.write("go\n")
            opener.stdin.flush()
        assert [opener.wait(timeout=60) for opener in openers] == [0, 0, 0]

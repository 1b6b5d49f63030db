"""`gaelp run --logs`: every mistake is one sentence with exit code 2, told before anything is written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.test_commands import Said, assert_one_sentence, environment
from tests.market.made_logs import made_log, written
from tests.specs.journey import ENTRANCE, TINY

LOG = ("--logs", "log.txt", "--format", "ipinyou-theta")
SHORT = ("--episode-auctions", "48")


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Said]:
    """Run `gaelp run` beside a configuration, a log long enough for episodes of 48 auctions, and a shorter one."""
    (tmp_path / "journey.toml").write_text(TINY, encoding="utf-8")
    written(tmp_path / "log.txt", made_log(5_040))
    written(tmp_path / "short.txt", made_log(5_039))

    def run(*words: str) -> Said:
        done = subprocess.run(
            [*ENTRANCE, "run", *words],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    return run


MISTAKES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "neither": ((), ("give the journey's TOML file, or --logs",)),
    "both": (("journey.toml", *LOG), ("CONFIG and --logs exclude each other",)),
    "a log's option beside a configuration": (
        ("journey.toml", "--episode-auctions", "480"),
        ("CONFIG and --episode-auctions exclude each other",),
    ),
    "no format": (("--logs", "log.txt"), ("--logs needs --format", "ipinyou-theta")),
    "an unknown format": (
        ("--logs", "log.txt", "--format", "ipinyou-teta"),
        ("no log format named 'ipinyou-teta'", "Did you mean 'ipinyou-theta'?"),
    ),
    "no such log": (("--logs", "nowhere.txt", "--format", "ipinyou-theta"), ("there is no file nowhere.txt",)),
    "two budgets": (
        (*LOG, "--budget-fraction", "1/8", "--episode-budget", "500"),
        ("--budget-fraction and --episode-budget exclude each other",),
    ),
    "no share": ((*LOG, "--budget-fraction", "an eighth"), ("--budget-fraction is 'an eighth'", "1/16")),
    "more than all": ((*LOG, "--budget-fraction", "3/2"), ("--budget-fraction is 3/2", "at most 1")),
    "part of a unit": ((*LOG, "--episode-budget", "0.5"), ("--episode-budget is 0.5", "whole")),
    "no bid": ((*LOG, "--max-bid", "-3"), ("--max-bid is '-3'",)),
    "too large a budget": ((*LOG, *SHORT, "--episode-budget", "3000000000"), ("budget", "3000000000")),
    "an episode of a few auctions": ((*LOG, "--episode-auctions", "47"), ("log.episode_auctions", "48", "47")),
    "a log too short": (
        ("--logs", "short.txt", "--format", "ipinyou-theta", *SHORT),
        ("holds 5039 auctions", "needs at least 5040"),
    ),
    "a log too short for the default": (LOG, ("holds 5040 auctions, a journey with episodes of 480 needs at least",)),
    "an unknown algorithm": ((*LOG, *SHORT, "--algorithm", "dpn"), ("no algorithm 'dpn'", "'dqn'")),
    "an unknown setting": ((*LOG, *SHORT, "--set", "pases=3"), ("no setting 'pases'", "'passes'")),
    "a setting of journeys with a platform": ((*LOG, *SHORT, "--set", "shadow_days=3"), ("no setting 'shadow_days'",)),
    "an impossible setting": ((*LOG, *SHORT, "--set", "historical.passes=0"), ("historical.passes", "0")),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_nothing_is_created(
    mistake: str, command: Callable[..., Said], tmp_path: Path
) -> None:
    words, parts = MISTAKES[mistake]
    before = {path.name for path in tmp_path.iterdir()}
    assert_one_sentence(command(*words), *parts)
    assert {path.name for path in tmp_path.iterdir()} == before | {"journey.toml", "log.txt", "short.txt"}


def test_a_malformed_line_is_told_with_file_and_line(command: Callable[..., Said], tmp_path: Path) -> None:
    lines = (tmp_path / "log.txt").read_text().splitlines(keepends=True)
    lines[41] = "0\tdear\t0.0001\t1\n"
    (tmp_path / "log.txt").write_text("".join(lines))
    assert_one_sentence(command(*LOG, *SHORT), "log.txt, line 42", "price is 'dear'")
    assert not (tmp_path / "runs").exists()


def test_a_mistake_is_told_without_loading_jax(command: Callable[..., Said], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom gaelp.cli.app import app\n"
        "try:\n    app(['run', '--logs', 'short.txt', '--format', 'ipinyou-theta'], standalone_mode=False)\n"
        "except Exception as error:\n    print(type(error).__name__, 'jax' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "BadInput False\n", done.stderr

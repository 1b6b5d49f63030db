"""Each check of a journey on a log holds on a sound record and breaks on the lie that it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.market.made_logs import made_log, written

from gaelp.audit import log_checks, training_checks
from gaelp.audit.record import Line, Record
from gaelp.core.config import LogJourneyConfig, build_log_config
from gaelp.orchestration.log_reading import sha256_of


@pytest.fixture
def config(tmp_path: Path) -> LogJourneyConfig:
    log = written(tmp_path / "log.txt", made_log(100))
    told = {
        "path": str(log),
        "format": "ipinyou-theta",
        "sha256": sha256_of(log),
        "episode_auctions": 48,
        "episode_budget": 9,
    }
    return build_log_config({"log": told, "historical": {"passes": 3}}, "a test")


def split(config: LogJourneyConfig, **changes: Any) -> Line:
    parts = [
        {"name": name, "episodes": n, "auctions": 48 * n}
        for name, n in (("training", 66), ("selection", 22), ("certification", 22))
    ]
    told = {"sha256": config.log.sha256, "episode_auctions": 48, "unused_auctions": 20, "parts": parts}
    return Line(1, "log_split", {**told, **changes})


def record(config: LogJourneyConfig, *lines: Line) -> Record:
    return Record("log-1", config, lines)


def test_a_sound_record_holds(config: LogJourneyConfig) -> None:
    sound = record(config, split(config))
    assert log_checks.log_on_disk(sound, config).ok
    assert log_checks.split_in_order(sound, config).ok
    assert log_checks.no_money(sound).ok


def test_another_file_or_none_is_noticed(config: LogJourneyConfig) -> None:
    path = Path(config.log.path)
    assert not log_checks.log_on_disk(record(config, split(config, sha256="0" * 64)), config).ok
    path.write_text("0\t1\t0.1\n")
    assert not log_checks.log_on_disk(record(config, split(config)), config).ok
    path.unlink()
    assert "there is no file" in log_checks.log_on_disk(record(config, split(config)), config).said


@pytest.mark.parametrize(
    "lie",
    [
        {"episode_auctions": 50},
        {"unused_auctions": 48},
        {"parts": [{"name": "training", "episodes": 66, "auctions": 48 * 66}]},
        {
            "parts": [
                {"name": "selection", "episodes": 22, "auctions": 48 * 22},
                {"name": "training", "episodes": 66, "auctions": 48 * 66},
                {"name": "certification", "episodes": 22, "auctions": 48 * 22},
            ]
        },
        {
            "parts": [
                {"name": "training", "episodes": 66, "auctions": 48 * 66 + 1},
                {"name": "selection", "episodes": 22, "auctions": 48 * 22},
                {"name": "certification", "episodes": 22, "auctions": 48 * 22},
            ]
        },
    ],
)
def test_parts_that_are_not_as_told_are_noticed(config: LogJourneyConfig, lie: dict[str, Any]) -> None:
    assert not log_checks.split_in_order(record(config, split(config, **lie)), config).ok


def test_any_event_of_money_is_noticed(config: LogJourneyConfig) -> None:
    for kind in ("granted", "reserved", "day_played"):
        assert not log_checks.no_money(record(config, Line(2, kind, {}))).ok
    ended = {"platform_bill_micros": 1, "reached_end": True, "reason": "x"}
    assert not log_checks.no_money(record(config, Line(2, "journey_ended", ended))).ok


def test_every_pass_over_the_training_episodes_is_due(config: LogJourneyConfig) -> None:
    assert training_checks.available_episodes(record(config, split(config)), "historical") == 3 * 66


def test_it_has_two_phases_and_is_finished_by_them(config: LogJourneyConfig) -> None:
    ends = [Line(k, "phase_ended", {"name": name}) for k, name in enumerate(("simulation", "historical"))]
    assert record(config).phases == ("simulation", "historical")
    assert record(config, *ends).finished
    assert not record(config, ends[0]).finished

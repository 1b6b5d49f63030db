"""`gaelp ladder`: what is refused before anything is played, and a log's own ladder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gaelp.cli.ladder_command import ladder_command
from gaelp.cli.replay_command import replay_command
from gaelp.core.errors import BadInput


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"asked": "fatigue"}, "no suite 'fatigue'.*Did you mean 'fatigue-cpa'"),
        ({"asked": "gsp", "processes": 0}, "--processes is 0, expected at least 1"),
        ({"asked": "gsp", "html": Path("nowhere/at/all.html")}, "--html: there is no folder"),
        ({"asked": "gsp", "worlds": 5}, "--worlds is 5, expected at least 20"),
        ({"asked": "gsp", "budget": "9"}, "--budget is for logs, which need --format as well: ipinyou-theta"),
        ({"asked": "gsp", "integer_bids": True}, "--integer-bids is for logs"),
        (
            {"asked": "log.txt", "format_": "ipinyou-theta", "seeds": 3},
            "--seeds is for suites of worlds, and with --format log.txt is a log",
        ),
        ({"asked": "log.txt", "format_": "ipinyou-teta", "budget": "9"}, "Did you mean 'ipinyou-theta'"),
    ],
)
def test_what_cannot_be_climbed_is_refused_in_one_sentence(asked, said):
    with pytest.raises(BadInput, match=said):
        ladder_command(**asked)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.txt"
    path.write_text("0 30 0.001\n1 20 0.002\n" * 48)
    return path


def test_a_log_has_the_ladder_that_replay_plays(log, capsys):
    words = {
        "budget_fraction": "1/4",
        "max_bid": "300",
        "integer_bids": True,
        "policy": "constant:9000",
        "json_": True,
    }
    ladder_command(str(log), format_="ipinyou-theta", **words)
    told = json.loads(capsys.readouterr().out)
    replay_command(log, "ipinyou-theta", ladder=True, **words)
    assert told == json.loads(capsys.readouterr().out)
    assert told["policies"][-1]["name"] == "constant:9000.0"


def test_a_log_without_its_format_is_asked_for_it(log):
    with pytest.raises(BadInput, match=r"a file of that name: a log needs --format, one of ipinyou-theta"):
        ladder_command(str(log))

"""Opening a journey on a log: pairs by hand, pacers read back and not made again, and a changed log refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.market.made_logs import made_log, written

from gaelp.core.errors import BadInput
from gaelp.orchestration.log_journey import CLIP, paired
from gaelp.orchestration.log_opening import LogGrounds, LogRun, faithful, prepare_log, reread_log
from gaelp.orchestration.log_reading import read_split, sha256_of
from gaelp.orchestration.run import any_run, begin_log_run, existing_run


@pytest.fixture
def run(tmp_path: Path) -> LogRun:
    log = written(tmp_path / "log.txt", made_log(5_300))
    told = {
        "log": {
            "path": str(log), "format": "ipinyou-theta", "sha256": sha256_of(log), "episode_auctions": 48,
            "budget_fraction": "1/8",
        },
        "simulation": {"episodes": 32, "judging_worlds": 32},
    }  # fmt: skip
    return begin_log_run(tmp_path / "runs", told, "a test")


def test_a_difference_is_told_in_units_of_the_mean_value_and_clipped_both_ways() -> None:
    pairs = paired(np.array([2.5, 1.0, 0.0]), np.array([2.4, 3.0, 0.1]), 1.0)
    # +0.1, -2 and -0.1: clipped, -2 counts as a quarter.
    assert pairs.mean == pytest.approx((0.1 - CLIP - 0.1) / 3)
    assert pairs.plain_mean == pytest.approx(-2.0 / 3)
    assert pairs.episodes == 3
    assert -CLIP <= pairs.lower <= pairs.mean <= pairs.upper <= CLIP


def test_the_interval_of_an_agent_that_is_the_pacer_holds_0() -> None:
    pairs = paired(np.ones(40), np.ones(40), 0.5)
    assert pairs.lower < 0.0 < pairs.upper
    assert (pairs.mean, pairs.plain_mean) == (0.0, 0.0)


def assert_no_auction_is_shared(grounds: LogGrounds) -> None:
    """Training, judging and certification are made of the log's 66 first, 22 next and 22 last episodes."""
    log = made_log(5_300)
    assert grounds.replay.source.auctions is grounds.split.training  # type: ignore[attr-defined]
    certified = grounds.certification.source.auctions  # type: ignore[attr-defined]
    assert np.array_equal(certified.value, log.value[88 * 48 : 110 * 48])
    assert grounds.practice.source.fit.auctions == 66 * 48  # type: ignore[attr-defined]
    assert grounds.judging.market.source.fit.auctions == 22 * 48  # type: ignore[attr-defined]


def test_what_the_log_holds_is_read_back_and_not_made_again_and_no_part_is_shared(run: LogRun) -> None:
    first = prepare_log(run)
    verdict = faithful(run, first)
    told = [(e.kind, e.payload) for e in run.store.events(run.run_id)]
    assert [kind for kind, _ in told] == ["log_split", "block_pacer_certified", "log_fidelity"]
    assert_no_auction_is_shared(first)
    again = prepare_log(run)
    assert (again.certified.hash, again.retuned.hash) == (first.certified.hash, first.retuned.hash)
    assert again.mean_value == first.mean_value
    assert faithful(run, again).reason == verdict.reason
    assert [(e.kind, e.payload) for e in run.store.events(run.run_id)] == told
    seeds = np.arange(8)
    reread = reread_log(run)
    assert np.array_equal(
        reread.judging.market.pacer(reread.certified, seeds),
        first.judging.market.pacer(first.certified, seeds),
    )


def test_an_altered_log_is_refused(run: LogRun) -> None:
    path = Path(run.config.log.path)
    path.write_text(path.read_text().replace("\t1\n", "\t2\n", 1))
    with pytest.raises(BadInput, match="is not the file that the run began with"):
        read_split(run.config)


def test_before_a_pacer_is_certified_there_is_nothing_to_verify(run: LogRun) -> None:
    with pytest.raises(BadInput, match="has no certified pacer yet"):
        reread_log(run)


def test_a_run_on_a_log_is_found_as_such_and_is_no_run_with_a_platform(run: LogRun) -> None:
    assert any_run(run.home, None).config == run.config
    with pytest.raises(BadInput, match="it has no platform, so no money can be granted"):
        existing_run(run.home, run.run_id)

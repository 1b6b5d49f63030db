"""Reads the log of a journey and cuts it as configured; imports no JAX, so that a mistake is told at once."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path

from gaelp.core.config import LogJourneyConfig
from gaelp.core.errors import BadInput
from gaelp.logs.files import expect_file
from gaelp.logs.theta import read_theta
from gaelp.market.log_split import LogSplit, split_log


def read_split(config: LogJourneyConfig) -> LogSplit:
    """The log, read and cut. Raises BadInput naming file and line of what cannot be used, or when the file changed."""
    log = config.log
    split = split_log(
        read_theta(Path(log.path)), auctions=log.episode_auctions,
        fraction=None if log.budget_fraction is None else Fraction(log.budget_fraction), budget=log.episode_budget,
        max_bid=log.max_bid,
    )  # fmt: skip
    now = sha256_of(Path(log.path))
    if now != log.sha256:
        raise BadInput(
            f"{log.path} is not the file that the run began with: its SHA-256 is {now[:12]}, then {log.sha256[:12]}. "
            "Bring that file back, or begin a new run."
        )
    return split


def sha256_of(path: Path) -> str:
    """SHA-256 of a log, in hex. Raises BadInput where there is no such file."""
    expect_file(path, "an auction log")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

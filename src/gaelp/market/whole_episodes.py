"""Played episodes that all run to their last decision, as one batch; shared by the markets of campaigns and of logs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from gaelp.core.episode import SOURCES, End, EpisodeBatch, Provenance

BLOCKS = ("observation", "executed", "log_prob", "reward", "hidden")
OUTCOMES = ("spend", "value", "impressions", "clicks", "conversions", "score")


def whole_episodes(played: Mapping[str, Any], mask: jax.Array, told: Provenance) -> EpisodeBatch:
    """`played` as one batch: each episode weighs 1 and lies in segment 0.

    `played` holds the action, BLOCKS and OUTCOMES, each named and shaped as in an EpisodeBatch; mask [A] holds for
    every decision.
    """
    b, t = played["reward"].shape
    end = np.full((b, t), int(End.RUNNING), np.int8)
    end[:, -1] = int(End.TERMINATED)
    return EpisodeBatch(
        **{name: played[name] for name in BLOCKS + OUTCOMES},
        action=played["action"].astype(np.int32),
        mask=np.broadcast_to(np.asarray(mask), (b, t + 1, len(mask))),
        end=end,
        valid=np.ones((b, t), bool),
        weight=np.ones(b, np.float32),
        segment=np.zeros((b, t), np.int32),
        matured=np.ones(b, np.float32),
        sources=np.full(b, SOURCES.index(told.source), np.int8),
        provenance=(told,),
    )

"""Rows become evidence: history tables into calibration arrays and logged episodes, live days into comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gaelp.core.episode import EpisodeBatch, Source, concatenate
from gaelp.core.errors import BadInput
from gaelp.core.money import MICROS
from gaelp.core.schema import TICKS_PER_DAY, Schema
from gaelp.evidence.sequences import betting_interval
from gaelp.logs.canonical import History, cube
from gaelp.orchestration.live import PlayedDay, Slot, episodes_of


def history_tables(
    days: Sequence[PlayedDay],
    conversions: Sequence[NDArray[np.float64]],
    pacer_hashes: Sequence[str],
    schema: Schema,
) -> History:
    """The canonical tables of played and settled days."""
    hours: list[pl.DataFrame] = []
    decisions: list[pl.DataFrame] = []
    per = schema.ticks_per_decision
    for day, final, pacer_hash in zip(days, conversions, pacer_hashes, strict=True):
        n = len(day.slots)

        def told(width: int, field: str, slots: tuple[Slot, ...] = day.slots) -> NDArray[np.generic]:
            return np.repeat([getattr(slot, field) for slot in slots], width)

        ticks = TICKS_PER_DAY
        whole = {
            name: getattr(day, name).reshape(-1).astype(np.int64)
            for name in ("eligible", "impressions", "clicks", "cost_micros", "arrived")
        }
        hours.append(
            pl.DataFrame(
                {
                    "campaign": told(ticks, "label"), "item": told(ticks, "item").astype(np.int64),
                    "day": np.full(n * ticks, day.day), "weekday": np.full(n * ticks, day.day % 7),
                    "tick": np.tile(np.arange(ticks), n),
                    "bid_micros": np.rint(np.exp(day.log_bid.reshape(-1)) * MICROS).astype(np.int64),
                    "move": np.repeat(day.pace, per, axis=1).reshape(-1), **whole,
                    "conversions": final.reshape(-1).astype(np.int64),
                    "target_cpa_micros": told(ticks, "target_cpa_micros").astype(np.int64),
                    "budget_micros": told(ticks, "budget_micros").astype(np.int64),
                }
            )
        )  # fmt: skip
        t = schema.decisions_per_day + 1
        pad = ((0, 0), (0, 1))
        decisions.append(
            pl.DataFrame(
                {
                    "campaign": told(t, "label"),
                    "item": told(t, "item").astype(np.int64),
                    "day": np.full(n * t, day.day),
                    "decision": np.tile(np.arange(t), n),
                    "move": np.pad(day.move, pad).reshape(-1).astype(np.int64),
                    "pace": np.pad(day.pace, pad).reshape(-1),
                    "log_prob": np.pad(day.log_prob, pad).reshape(-1),
                    "scale": np.repeat(day.scale, t),
                    "pacer_hash": [pacer_hash] * (n * t),
                    "schema_hash": [schema.hash] * (n * t),
                    "observation": pl.Series(day.observation.reshape(n * t, -1)).arr.to_list(),
                }
            )
        )
    columns = [
        "campaign",
        "item",
        "day",
        "weekday",
        "tick",
        "bid_micros",
        "move",
        "eligible",
        "impressions",
        "clicks",
        "cost_micros",
        "conversions",
        "arrived",
        "target_cpa_micros",
        "budget_micros",
    ]
    return History(pl.concat(hours).select(columns), pl.concat(decisions))


def logged_episodes(
    history: History, days: NDArray[np.int64], *, schema: Schema, mask: NDArray[np.bool_], pacer_hash: str,
    behaviour_hash: str, seed: int, hidden_width: int,
) -> EpisodeBatch:  # fmt: skip
    """The logged campaign-days as off-policy episodes, ordered by day, then item.

    Raises BadInput when the log was made around another pacer, or under another schema: its moves are residuals on
    that pacer, so their probabilities would speak about other bids.
    """
    chosen = history.decisions.filter(pl.col("day").is_in(days.tolist())).sort(["item", "day", "decision"])
    for name, wanted in (("pacer_hash", pacer_hash), ("schema_hash", schema.hash)):
        found = chosen[name].unique().to_list()
        if found != [wanted]:
            raise BadInput(
                f"the log was recorded with {name} {', '.join(map(str, sorted(found)))}, the run's is {wanted}: "
                "off-policy use refused."
            )
    t = schema.decisions_per_day + 1
    move, log_prob, pace, scale = (
        cube(chosen, name, days, "decision", t) for name in ("move", "log_prob", "pace", "scale")
    )
    items = move.shape[0]
    widths = chosen["observation"].list.len().unique().to_list()
    if widths != [schema.observation_size]:
        raise BadInput(
            f"observation: the log holds widths {widths}, the schema has {schema.observation_size}."
        )
    seen = chosen["observation"].explode().to_numpy().astype(np.float32).reshape(items, len(days), t, -1)
    hours = {
        n: cube(history.hours, n, days, "tick", TICKS_PER_DAY)
        for n in (
            "cost_micros",
            "conversions",
            "impressions",
            "clicks",
            "eligible",
            "arrived",
            "bid_micros",
            "target_cpa_micros",
            "budget_micros",
        )
    }
    batches = []
    for k, day in enumerate(days):
        slots = tuple(
            Slot(
                campaign=f"logged/{i}",
                label=f"logged/{i}",
                arm="incumbent",
                item=i,
                budget_micros=int(hours["budget_micros"][i, k, 0]),
                target_cpa_micros=int(hours["target_cpa_micros"][i, k, 0]),
            )
            for i in range(items)
        )
        played = PlayedDay(
            day=int(day),
            slots=slots,
            observation=seen[:, k],
            move=move[:, k, :-1].astype(np.int32),
            pace=pace[:, k, :-1],
            log_prob=log_prob[:, k, :-1],
            scale=scale[:, k, 0],
            log_bid=np.log(hours["bid_micros"][:, k] / MICROS),
            eligible=hours["eligible"][:, k],
            impressions=hours["impressions"][:, k],
            clicks=hours["clicks"][:, k],
            cost_micros=hours["cost_micros"][:, k].astype(np.int64),
            arrived=hours["arrived"][:, k],
            proposed=np.full(move[:, k, :-1].shape, -1, np.int32),
        )
        batches.append(
            episodes_of(
                played,
                hours["conversions"][:, k],
                schema=schema,
                mask=mask,
                source=Source.LOGGED,
                phase="history",
                actor_hashes={"incumbent": behaviour_hash},
                pacer_hash=pacer_hash,
                seed=seed,
                hidden_width=hidden_width,
                settled_at=f"day {int(day) + 3}",
            )
        )
    return concatenate(batches)


@dataclass(frozen=True)
class ArmComparison:
    """Agent against control on the platform itself, by campaign-day score as a share of the pacer's projection.

    The interval is time-uniform (betting) on paired differences clipped to [-1, 1]; pairs share market and day.
    """

    agent_mean: float
    control_mean: float
    pairs: int
    difference: float
    low: float
    high: float


def compare_arms(batch: EpisodeBatch) -> ArmComparison:
    """Settled live episodes: means by arm, and the paired difference where both arms played a market on a day."""
    share: dict[str, dict[tuple[int, str], float]] = {"agent": {}, "control": {}}
    for told, total in zip(batch.provenance, batch.reward.sum(axis=1), strict=True):
        share[told.arm][told.day, told.campaign.rsplit("/", 1)[1]] = float(total)
    both = sorted(set(share["agent"]) & set(share["control"]))
    differences = np.clip([share["agent"][k] - share["control"][k] for k in both], -1.0, 1.0)
    found = betting_interval(differences, -1.0, 1.0) if len(both) else None
    return ArmComparison(
        agent_mean=float(np.mean(list(share["agent"].values()))),
        control_mean=float(np.mean(list(share["control"].values()))),
        pairs=len(both),
        difference=float(differences.mean()) if len(both) else 0.0,
        low=-1.0 if found is None else found.lower,
        high=1.0 if found is None else found.upper,
    )

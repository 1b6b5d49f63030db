"""How the parts, pacers and markets of a journey on an auction log are opened, and opened again from its log and files.

A journey and a later verification must mean the same by them; this is the one place that says it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from gaelp.bidding.block_pacer import Curve, Knobs
from gaelp.core.config import LogJourneyConfig
from gaelp.core.episode import Source
from gaelp.core.errors import BadInput
from gaelp.core.schema import Schema
from gaelp.core.verdict import Ruling, Verdict
from gaelp.learn.policies import act, act_mode
from gaelp.logs.bids import bids_of_theta
from gaelp.market.auction_fit import AuctionFit, fit_auctions, reference_bids
from gaelp.market.fidelity import fidelity
from gaelp.market.log_episodes import Drawn, EpisodeSource, Recorded
from gaelp.market.log_market import BlockPacer, LogMarket
from gaelp.market.log_oracle import lp_bound
from gaelp.market.log_pacer import EPISODES, fit_curve, mean_value, tune, windows
from gaelp.market.log_split import LogSplit, cost_of
from gaelp.orchestration.judging import TUNING_SEEDS, JudgingWorlds
from gaelp.orchestration.log_reading import read_split
from gaelp.orchestration.opening import JUDGING
from gaelp.orchestration.phases import HISTORICAL, SIMULATION
from gaelp.orchestration.run import Run
from gaelp.safety.gates import fidelity_gate

LogRun = Run[LogJourneyConfig]

PREPARING = "read, split and fit the log"


@dataclass(frozen=True)
class LogGrounds:
    """Where an agent on a log trains and is judged. mean_value: what the certified pacer buys in a training episode."""

    config: LogJourneyConfig
    schema: Schema
    split: LogSplit
    training_fit: AuctionFit
    selection_fit: AuctionFit
    certified: BlockPacer
    retuned: BlockPacer
    mean_value: float

    @cached_property
    def practice(self) -> LogMarket:
        """Worlds of the training part."""
        return self._market(Drawn(self.training_fit, self.split.terms), Source.SIMULATED, SIMULATION)

    @cached_property
    def judging(self) -> JudgingWorlds[BlockPacer]:
        """Worlds of the selection part."""
        market = self._market(Drawn(self.selection_fit, self.split.terms), Source.SIMULATED, JUDGING)
        return JudgingWorlds(market, self.retuned, self.config.simulation.judging_worlds, self.config.seed)

    @cached_property
    def replay(self) -> LogMarket:
        """The recorded training episodes."""
        return self._market(Recorded(self.split.training, self.split.terms), Source.REPLAYED, HISTORICAL)

    @cached_property
    def certification(self) -> LogMarket:
        """The recorded certification episodes."""
        return self._market(Recorded(self.split.certification, self.split.terms), Source.REPLAYED, HISTORICAL)

    def _market(self, source: EpisodeSource, origin: Source, phase: str) -> LogMarket:
        return LogMarket(
            source=source, origin=origin, terms=self.split.terms, certified=self.certified,
            mean_value=self.mean_value, schema=self.schema, sample_move=act,
            mode_move=lambda policy, seen, mask: act_mode(policy, seen, mask).action, phase=phase,
        )  # fmt: skip


def prepare_log(run: LogRun) -> LogGrounds:
    """Read, split, fit the worlds, certify the pacer and retune it; what the run's log holds of it is read back."""
    run.progress.advance(PREPARING, 0, 1, "")
    config, schema = run.config, run.schema
    split = read_split(config)
    terms = split.terms
    if not run.found("log_split"):
        run.append("log_split", _told_split(config, split))
    training_fit, selection_fit = _fits(split)
    run.progress.advance(PREPARING, 1, 1, f"{len(split.training) + len(split.selection):,} auctions fitted")
    if not run.found("block_pacer_certified"):
        stage = "tune the pacer, and again in worlds"
        run.progress.advance(stage, 0, 2, "")
        curve = fit_curve(split.training, terms)
        certified = tune(curve, windows(split.training, terms, config.seed), terms, schema, config.seed)
        run.progress.advance(stage, 1, 2, f"pacer {certified.pacer.hash}")
        seeds = TUNING_SEEDS + np.arange(EPISODES)
        retuned = tune(curve, Drawn(training_fit, terms)(seeds), terms, schema, config.seed + 1)
        arrays = {f"curve.{name}": np.asarray(x) for name, x in curve._asdict().items()}
        arrays |= {f"knobs.{name}": np.asarray(x) for name, x in certified.pacer.knobs._asdict().items()}
        arrays |= {f"retuned.{name}": np.asarray(x) for name, x in retuned.pacer.knobs._asdict().items()}
        recorded = Recorded(split.training, terms)
        unit = mean_value(certified.pacer, recorded(np.arange(recorded.episodes)), terms, schema)
        arrays["mean_value"] = np.asarray(unit)
        run.append(
            "block_pacer_certified",
            {
                "hash": certified.pacer.hash, "retuned_hash": retuned.pacer.hash,
                "artifact": run.save(arrays, {"what": "block pacer"}),
                "knobs": {name: float(x) for name, x in certified.pacer.knobs._asdict().items()},
                "retuned_knobs": {name: float(x) for name, x in retuned.pacer.knobs._asdict().items()},
                "tuning_scores": list(certified.scores), "retuning_scores": list(retuned.scores),
                "mean_value": unit,
                "mean_lp_value": lp_bound(split.stretch(split.training)).value / split.episodes(split.training),
            },
        )  # fmt: skip
        run.progress.advance(stage, 2, 2, f"pacer {certified.pacer.hash}")
    return _grounds(run, split, training_fit, selection_fit)


def reread_log(run: LogRun) -> LogGrounds:
    """What the run was prepared with. Raises BadInput when it has not come that far, or its log or pacer changed."""
    if not run.found("block_pacer_certified"):
        raise BadInput(
            f"run {run.run_id} has no certified pacer yet: `gaelp resume {run.run_id}` takes it further."
        )
    split = read_split(run.config)
    return _grounds(run, split, *_fits(split))


def faithful(run: LogRun, grounds: LogGrounds) -> Verdict:
    """What the selection part says of worlds fitted on the training part; an event, read back when it is there."""
    told = run.found("log_fidelity")
    if not told:
        stage = "worlds beside the selection part"
        run.progress.advance(stage, 0, 1, "")
        fitted, held_out = (
            bids_of_theta([part]) for part in (grounds.split.training, grounds.split.selection)
        )
        fit = grounds.training_fit
        bids = reference_bids(fitted, fit.identified_to)
        found = fidelity(fit, held_out, bids, np.random.default_rng(run.config.seed))
        verdict = fidelity_gate(found)
        run.append(
            "log_fidelity",
            {
                "verdict": verdict.ruling.name, "rule": verdict.rule, "reason": verdict.reason,
                "surprise": found.surprise, "ks": found.ks, "ks_reference": found.ks_reference,
                "fitted_won": found.fitted_won, "held_out_won": found.held_out_won,
                "lines": [asdict(line) | {"within": line.within} for line in found.lines],
            },
        )  # fmt: skip
        run.progress.advance(stage, 1, 1, verdict.ruling.name)
        return verdict
    return Verdict(Ruling[str(told[0]["verdict"])], str(told[0]["rule"]), str(told[0]["reason"]))


def _fits(split: LogSplit) -> tuple[AuctionFit, AuctionFit]:
    """Worlds of the training part, and of the selection part."""
    return fit_auctions(bids_of_theta([split.training])), fit_auctions(bids_of_theta([split.selection]))


def _grounds(run: LogRun, split: LogSplit, training_fit: AuctionFit, selection_fit: AuctionFit) -> LogGrounds:
    told = run.found("block_pacer_certified")[0]
    saved = run.load(told["artifact"]).arrays
    curve = Curve(*(saved[f"curve.{name}"] for name in Curve._fields))
    certified, retuned = (
        BlockPacer(curve, Knobs(*(saved[f"{part}.{name}"] for name in Knobs._fields)))
        for part in ("knobs", "retuned")
    )
    for what, now, then in (
        ("the certified pacer", certified.hash, told["hash"]),
        ("the retuned pacer", retuned.hash, told["retuned_hash"]),
    ):
        if now != then:
            raise BadInput(f"run {run.run_id}: {what} is {now}, the log says {then}: its file was changed.")
    return LogGrounds(
        config=run.config, schema=run.schema, split=split, training_fit=training_fit, selection_fit=selection_fit,
        certified=certified, retuned=retuned, mean_value=float(saved["mean_value"]),
    )  # fmt: skip


def _told_split(config: LogJourneyConfig, split: LogSplit) -> dict[str, object]:
    parts = {"training": split.training, "selection": split.selection, "certification": split.certification}
    return {
        "log": Path(config.log.path).name, "sha256": config.log.sha256, "format": config.log.format,
        "episode_auctions": split.terms.auctions, "episode_budget": split.terms.budget, "max_bid": config.log.max_bid,
        "unused_auctions": split.unused,
        "parts": [
            {
                "name": name, "auctions": len(part), "episodes": split.episodes(part), "clicks": int(part.click.sum()),
                "cost": cost_of(part), "predicted_clicks": float(part.value.sum()),
            }
            for name, part in parts.items()
        ],
    }  # fmt: skip

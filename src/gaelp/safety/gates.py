"""The gate table: every ruling that lets a run take its next step, each a pure function of evidence."""

from __future__ import annotations

import math
from typing import Protocol

from gaelp.core.errors import BadInput
from gaelp.core.verdict import FAIL, PASS, WAIT, Ruling, Verdict


class Ruled(Protocol):
    """Any finding with a ruling and its reason: a Verdict, or a verdict on learning."""

    @property
    def ruling(self) -> Ruling: ...
    @property
    def reason(self) -> str: ...


class OffPolicy(Protocol):
    """An off-policy estimate with the figures that say how far it may be trusted."""

    @property
    def episodes(self) -> int: ...
    @property
    def estimate(self) -> float: ...
    @property
    def standard_error(self) -> float: ...
    @property
    def ess(self) -> float: ...
    @property
    def ess_share(self) -> float: ...
    @property
    def final_mean_weight(self) -> float: ...
    @property
    def worst_z(self) -> float: ...


class PlaceboResult(Protocol):
    """The behaviour policy judged against itself."""

    @property
    def estimate(self) -> float: ...
    @property
    def empirical_mean(self) -> float: ...
    @property
    def exact(self) -> bool: ...


class HistoryFidelityResult(Protocol):
    """Worlds fitted to hourly reports, held against later days of the account."""

    @property
    def surprise(self) -> float: ...
    @property
    def held_out_days(self) -> int: ...
    @property
    def conversions(self) -> int: ...


FEWEST_HELD_OUT_DAYS, FEWEST_CONVERSIONS = 4, 100
"""With fewer the figures of held-out days stray by a tenth and more by chance alone."""
STRANGE, UNUSUAL = 0.01, 0.1
"""Held-out days rarer than this in the fitted worlds: refused; not yet believed."""


def history_fidelity_gate(fidelity: HistoryFidelityResult) -> Verdict:
    """fit -> simulation: do later days look like days of the fitted worlds, at the bids that were played?

    FAIL where the worlds hold nothing like them (a sound fit is so refused once in 100 logs), WAIT where they are
    unusual or too few.
    """
    rule = "fidelity_gate"
    evidence: dict[str, object] = {
        "surprise": fidelity.surprise, "held_out_days": fidelity.held_out_days, "conversions": fidelity.conversions,
    }  # fmt: skip
    if fidelity.held_out_days < FEWEST_HELD_OUT_DAYS or fidelity.conversions < FEWEST_CONVERSIONS:
        reason = (
            f"{fidelity.held_out_days} held-out days with {fidelity.conversions} conversions; {FEWEST_HELD_OUT_DAYS} "
            f"days with {FEWEST_CONVERSIONS} are needed."
        )
        return Verdict(WAIT, rule, reason, evidence)
    share = f"{fidelity.surprise:.1%} of the fitted worlds' days"
    reason = f"{share} stray as far from their prediction as the held-out days do"
    if fidelity.surprise < UNUSUAL:
        ruling = FAIL if fidelity.surprise < STRANGE else WAIT
        return Verdict(ruling, rule, f"only {reason}; at least {UNUSUAL:.0%} expected.", evidence)
    return Verdict(PASS, rule, f"{reason}.", evidence)


class FidelityResult(Protocol):
    """Fitted worlds held against a later part of their log."""

    @property
    def ks(self) -> float: ...
    @property
    def ks_reference(self) -> float: ...
    @property
    def surprise(self) -> float: ...
    @property
    def fitted_won(self) -> int: ...
    @property
    def held_out_won(self) -> int: ...
    @property
    def only_price(self) -> float | None: ...


KS_MARGIN = 0.02
"""A fitted win-rate curve may be so much farther from the held-out part than the fitted part's own curve."""
FEWEST_WON = 1000
"""Two empirical curves of so many prices each differ by up to 0.06 by chance alone; of fewer, by more."""


def fidelity_gate(fidelity: FidelityResult) -> Verdict:
    """calibration -> simulation: do the fitted worlds show what a later part of the log shows?

    FAIL where the fit bends what its own part of the log shows, or where its worlds hold nothing like the later part
    (a sound fit is so refused once in 100 logs); WAIT where too little was won, or the later part is unusual.
    """
    rule = "fidelity_gate"
    evidence: dict[str, object] = {
        "ks": fidelity.ks,
        "ks_reference": fidelity.ks_reference,
        "ks_margin": KS_MARGIN,
        "surprise": fidelity.surprise,
        "fitted_won": fidelity.fitted_won,
        "held_out_won": fidelity.held_out_won,
    }
    if min(fidelity.fitted_won, fidelity.held_out_won) < FEWEST_WON:
        reason = (
            f"{fidelity.fitted_won} auctions were won in the fitted part and {fidelity.held_out_won} in the held-out "
            f"part; {FEWEST_WON} in each are needed."
        )
        return Verdict(WAIT, rule, reason, evidence)
    distance = f"{fidelity.ks:.3f}, the log's own curve {fidelity.ks_reference:.3f} (+ {KS_MARGIN} allowed)"
    if fidelity.ks > fidelity.ks_reference + KS_MARGIN:
        return Verdict(FAIL, rule, f"the fitted win-rate curve is off by {distance}.", evidence)
    if fidelity.surprise < UNUSUAL:
        told = "A longer log tells more of its drift."
        if fidelity.only_price is not None:
            told = (
                f"Every auction that was won cost {fidelity.only_price:g}: one price shows no drift, however long the "
                "log is, and fitted worlds drift."
            )
        reason = (
            f"only {fidelity.surprise:.1%} of the fitted worlds stray as far as the held-out part does; "
            f"at least {UNUSUAL:.0%} expected. {told}"
        )
        return Verdict(FAIL if fidelity.surprise < STRANGE else WAIT, rule, reason, evidence)
    return Verdict(PASS, rule, f"the fitted win-rate curve is off by {distance}.", evidence)


def simulation_gate(learning: Ruled, fidelity: Ruled) -> Verdict:
    """simulation -> historical: the agent learned, in worlds it was not trained in, and the worlds are like the
    account."""
    rule = "simulation_gate"
    evidence: dict[str, object] = {"learning": learning.ruling.name, "fidelity": fidelity.ruling.name}
    if fidelity.ruling is FAIL:
        return Verdict(FAIL, rule, f"the worlds are not like the account: {fidelity.reason}", evidence)
    if learning.ruling is PASS and fidelity.ruling is WAIT:
        return Verdict(WAIT, rule, f"the agent learned; fidelity of its worlds: {fidelity.reason}", evidence)
    return Verdict(learning.ruling, rule, f"learning verification: {learning.reason}", evidence)


def historical_gate(
    ope: OffPolicy | None, placebo: PlaceboResult | None, propensity_fault: str | None
) -> Verdict:
    """historical -> real_testing: WAIT, or FAIL for a broken log or estimator; nothing here may PASS.

    propensity_fault: the sentence that says which logged probability is missing or impossible, or None; with
    one, `ope` and `placebo` may be None, because nothing could be computed.
    """
    rule = "historical_gate"
    if propensity_fault is not None:
        return Verdict(FAIL, rule, f"the log's probabilities cannot be used: {propensity_fault}")
    if ope is None or placebo is None:
        raise BadInput(
            "the historical gate needs the estimate and the placebo when no propensity is at fault."
        )
    if not placebo.exact:
        return Verdict(
            FAIL,
            rule,
            f"the placebo failed: behaviour against itself gives {placebo.estimate!r}, the log's mean is "
            f"{placebo.empirical_mean!r}.",
            {"placebo": placebo.estimate, "empirical_mean": placebo.empirical_mean},
        )
    return Verdict(
        WAIT,
        rule,
        f"off-policy bounds that may pass are not built yet; effective sample size {ope.ess:.1f} of "
        f"{ope.episodes} episodes, mean weight {ope.final_mean_weight:.3f} (1 expected, worst z {ope.worst_z:.1f}).",
        {
            "episodes": ope.episodes,
            "estimate": ope.estimate,
            "standard_error": ope.standard_error,
            "ess": ope.ess,
            "ess_share": ope.ess_share,
            "mean_weight": ope.final_mean_weight,
            "worst_z": ope.worst_z,
        },
    )


class PairedReplay(Protocol):
    """The agent beside the certified pacer on the same recorded auctions, episode by episode.

    mean, lower, upper: of agent less pacer in units of the pacer's mean value, clipped to `clip` either way, with an
    interval that holds however often it is looked at; plain_mean: of the differences as they are.
    """

    @property
    def episodes(self) -> int: ...
    @property
    def mean(self) -> float: ...
    @property
    def lower(self) -> float: ...
    @property
    def upper(self) -> float: ...
    @property
    def plain_mean(self) -> float: ...
    @property
    def clip(self) -> float: ...


def replay_gate(pairs: PairedReplay) -> Verdict:
    """historical -> real_testing on exact auction logs: does the agent buy more than the certified pacer?

    PASS when the whole interval is above 0 and so is the plain mean, FAIL when nothing of the interval is, else WAIT,
    with how many episodes a difference of the size seen would take. The plain mean has a say because clipping hides an
    auction that is worth a hundred others.
    """
    rule = "replay_gate"
    evidence: dict[str, object] = {
        "episodes": pairs.episodes, "mean": pairs.mean, "lower": pairs.lower, "upper": pairs.upper,
        "plain_mean": pairs.plain_mean, "clip": pairs.clip,
    }  # fmt: skip
    told = (
        f"agent less certified pacer {pairs.mean:+.4f} [{pairs.lower:+.4f}, {pairs.upper:+.4f}] of the pacer's mean "
        f"value over {pairs.episodes} replayed episodes, differences clipped to {pairs.clip:g}; unclipped "
        f"{pairs.plain_mean:+.4f}"
    )
    if pairs.upper <= 0:
        return Verdict(FAIL, rule, f"{told}; nothing of the interval is above 0.", evidence)
    if pairs.lower > 0 and pairs.plain_mean > 0:
        return Verdict(PASS, rule, f"{told}; the whole interval is above 0.", evidence)
    if pairs.lower > 0:
        return Verdict(WAIT, rule, f"{told}; a few auctions decide, and they say otherwise.", evidence)
    if pairs.mean <= 0:
        return Verdict(WAIT, rule, f"{told}; no longer log would pass an agent that is not ahead.", evidence)
    # The distance from the mean to the lower end shrinks at least as the root of the episodes.
    needed = math.ceil(pairs.episodes * ((pairs.mean - pairs.lower) / pairs.mean) ** 2)
    return Verdict(
        WAIT, rule, f"{told}; about {needed} episodes would settle a difference of this size.", evidence
    )


def live_gate(phase: str, agent_unit_days: int, control_unit_days: int) -> Verdict:
    """Leaving a live phase on statistical evidence: WAIT, because no live bound is built yet."""
    return Verdict(
        WAIT,
        "live_gate",
        f"live statistical gates are not built yet; {phase} has {agent_unit_days} unit-days of the agent and "
        f"{control_unit_days} of control.",
        {"phase": phase, "agent_unit_days": agent_unit_days, "control_unit_days": control_unit_days},
    )


def ramp_step_gate(
    *,
    days_played: int,
    days_needed: int,
    guard_tripped: Verdict | None,
    learning: Ruled,
    available_micros: int,
    needed_micros: int,
) -> Verdict:
    """May the budget go up one step? Its days played, no guard tripped, LEARNING, a grant that covers it.

    A tripped guard is FAIL (roll back); everything else that is missing is WAIT (hold), an agent that does
    not learn included: more money would not teach it.
    """
    rule = "ramp_step_gate"
    evidence: dict[str, object] = {
        "days_played": days_played,
        "days_needed": days_needed,
        "learning": learning.ruling.name,
        "available_micros": available_micros,
        "needed_micros": needed_micros,
    }
    if guard_tripped is not None:
        reason = f"guard {guard_tripped.rule} tripped: {guard_tripped.reason}"
        return Verdict(FAIL, rule, reason, evidence | {"guard": guard_tripped.rule})
    if learning.ruling is not PASS:
        return Verdict(WAIT, rule, f"Agent not learning! The step is held: {learning.reason}", evidence)
    if days_played < days_needed:
        return Verdict(WAIT, rule, f"{days_played} of {days_needed} days played at this step.", evidence)
    if available_micros < needed_micros:
        reason = f"the next step needs {needed_micros} micros, {available_micros} are granted and free."
        return Verdict(WAIT, rule, reason, evidence)
    return Verdict(PASS, rule, f"{days_played} days played, no guard tripped, learning, granted.", evidence)


def promotion_gate(judging: Ruled, certification: Ruled) -> Verdict:
    """May a candidate become the actor? The judging worlds must pass it, certification must not fail it."""
    rule = "promotion_gate"
    evidence = {"judging": judging.ruling.name, "certification": certification.ruling.name}
    if certification.ruling is FAIL:
        return Verdict(FAIL, rule, f"certification failed: {certification.reason}", evidence)
    if judging.ruling is not PASS:
        return Verdict(judging.ruling, rule, f"judging worlds: {judging.reason}", evidence)
    return Verdict(
        PASS,
        rule,
        f"judging worlds passed, certification {certification.ruling.name}: {certification.reason}",
        evidence,
    )


def may_continue(verdict: Verdict, *, declared: bool, sandbox: bool) -> Verdict:
    """May the journey go on after this verdict?

    PASS: yes. WAIT: only if the configuration says so in writing (`declared`) and the adapter's class
    declares itself a sandbox (`sandbox`). FAIL: never.
    """
    evidence = {
        "after": verdict.rule,
        "ruling": verdict.ruling.name,
        "declared": declared,
        "sandbox": sandbox,
    }
    if verdict.ruling is PASS:
        return Verdict(PASS, "may_continue", f"{verdict.rule} passed.", evidence)
    if verdict.ruling is WAIT and declared and sandbox:
        reason = f"{verdict.rule} waits; the configuration lets a sandbox journey go on: {verdict.reason}"
        return Verdict(PASS, "may_continue", reason, evidence)
    return Verdict(verdict.ruling, "may_continue", f"stopped by {verdict.rule}: {verdict.reason}", evidence)

"""Negative controls: learning verification must refuse what cannot have learned, and accept what can.

A short run is repeated with learning rate 0 and with shuffled rewards. Who plays it is handed in; nothing here
trains or knows how.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from gaelp.core.errors import BadInput

Play = Callable[[list[str]], Awaitable[Mapping[str, object]]]
"""`key=value` settings -> the payload of the learning verdict on a short run with them."""

OUTCOMES = ("LEARNING", "INCONCLUSIVE", "NOT_LEARNING", "BROKEN")
SHUFFLED_MAY_PASS = 0.05
"""Share of seeds whose shuffled twin may look like learning: 1 of 20."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A short run and the verdicts that are right for it. tolerated: share of seeds that may come out otherwise."""

    name: str
    overrides: tuple[str, ...]
    expected: tuple[str, ...]
    tolerated: float = 0.0

    def __post_init__(self) -> None:
        if not self.expected or not set(self.expected) <= set(OUTCOMES):
            raise BadInput(
                f"control {self.name!r} expects {self.expected}, the verdicts are {', '.join(OUTCOMES)}."
            )


CONTROLS = (
    Control(name="honest", overrides=(), expected=("LEARNING",)),
    Control(name="learning_rate_0", overrides=("learning.learning_rate=0",), expected=("BROKEN",)),
    Control(
        name="shuffled_rewards",
        overrides=("learning.shuffle_rewards=true",),
        expected=("INCONCLUSIVE", "NOT_LEARNING", "BROKEN"),
        tolerated=SHUFFLED_MAY_PASS,
    ),
)
"""The honest run is the positive reference: a verification that refuses everything would pass the other two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlResult:
    """What learning verification said of one control, seed by seed; `ok` when it said it often enough."""

    name: str
    ok: bool
    said: str
    verdicts: tuple[str, ...]
    reasons: tuple[str, ...]

    def payload(self) -> dict[str, object]:
        """Ready for JSON."""
        return {
            "name": self.name,
            "ok": self.ok,
            "said": self.said,
            "verdicts": list(self.verdicts),
            "reasons": list(self.reasons),
        }


async def negative_controls(play: Play, seeds: Sequence[int]) -> tuple[ControlResult, ...]:
    """Play each control once for every seed, and judge what learning verification said.

    Raises BadInput without a seed, or for an answer that is no verdict.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise BadInput(f"negative controls need distinct seeds, at least one, got {list(seeds)}.")
    results = []
    for control in CONTROLS:
        told = [await play([*control.overrides, f"seed={seed}"]) for seed in seeds]
        results.append(judge_control(control, told))
    return tuple(results)


def judge_control(control: Control, told: Sequence[Mapping[str, object]]) -> ControlResult:
    """Was the control refused, or accepted, as it must be? `told`: payloads of learning verdicts, one a seed."""
    if not told:
        raise BadInput(f"control {control.name!r} was never played: nothing can be said of it.")
    verdicts, reasons = [str(one["verdict"]) for one in told], [str(one["reason"]) for one in told]
    unknown = [verdict for verdict in verdicts if verdict not in OUTCOMES]
    if unknown:
        raise BadInput(f"control {control.name!r} was answered with {unknown[0]!r}, which is no verdict.")
    wrong = [k for k, verdict in enumerate(verdicts) if verdict not in control.expected]
    allowed = int(control.tolerated * len(told))
    counts = ", ".join(f"{verdicts.count(name)} {name}" for name in OUTCOMES if name in verdicts)
    said = f"{control.name}: {counts} of {len(told)}, {' or '.join(control.expected)} expected"
    said += f", {allowed} may differ" if allowed else ""
    said += f"; for instance: {reasons[wrong[0]]}" if wrong else f". {reasons[0]}"
    return ControlResult(
        name=control.name,
        ok=len(wrong) <= allowed,
        said=said,
        verdicts=tuple(verdicts),
        reasons=tuple(reasons),
    )

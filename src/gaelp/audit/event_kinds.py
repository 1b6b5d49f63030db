"""Which kinds of events a run's log may hold, and what each must tell; knows nothing of why they are written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import NoneType

from gaelp.audit.record import Check, Line, checked

Shape = object
"""A type, a tuple of types, a mapping from key to shape, or a list holding the one shape of all elements."""

NUMBER = (int, float)
_BINDING: dict[str, Shape] = {
    "phase": str, "step": int, "limit_micros": int, "actor_hash": str, "evidence_hash": str,
}  # fmt: skip
_ENTRY: dict[str, Shape] = {"intent": str, "phase": str, "day": int, "episode": str, "micros": int}
_RULED: dict[str, Shape] = {"phase": str, "verdict": str, "reason": str}

KINDS: Mapping[str, Mapping[str, Shape]] = {
    "account_read": {"campaigns": [{"campaign": str, "bid_micros": int, "target_cpa_micros": int}]},
    "pacer_certified": {"hash": str, "artifact": str, "days": [int]},
    "history_exported": {
        "rows": int, "decisions": int, "pacer_hash": str, "first_day": int, "last_day": int,
        "owner_spend_micros": int, "campaigns": int,
    },
    "worlds_fitted": {"training": dict, "selection": dict, "retuned_hash": str, "retuned_params": dict},
    "fidelity": {
        "verdict": str, "rule": str, "reason": str, "surprise": NUMBER, "fitted_days": int, "held_out_days": int,
        "conversions": int,
        "lines": [{
            "name": str, "fitted": NUMBER, "held_out": NUMBER, "low": NUMBER, "high": NUMBER, "identified": bool,
            "within": bool,
        }],
    },
    "log_split": {
        "log": str, "sha256": str, "format": str, "episode_auctions": int, "episode_budget": int,
        "max_bid": (int, NoneType), "unused_auctions": int,
        "parts": [{
            "name": str, "auctions": int, "episodes": int, "clicks": int, "cost": int, "predicted_clicks": NUMBER,
        }],
    },
    "block_pacer_certified": {
        "hash": str, "retuned_hash": str, "artifact": str, "knobs": dict, "retuned_knobs": dict, "mean_value": NUMBER,
        "mean_lp_value": NUMBER,
    },
    "log_fidelity": {
        "verdict": str, "rule": str, "reason": str, "surprise": NUMBER, "ks": NUMBER, "ks_reference": NUMBER,
        "fitted_won": int, "held_out_won": int,
        "lines": [{
            "name": str, "fitted": NUMBER, "held_out": NUMBER, "low": NUMBER, "high": NUMBER, "identified": bool,
            "within": bool,
        }],
    },
    "phase_began": {"name": str, "train_every": int, "batch_size": int, "num_epochs": int},
    "phase_ended": {"name": str, "episodes": int, "train_calls": int, "verdict": str, "rule": str, "reason": str},
    "day_played": {
        "phase": str, "day": int, "artifact": str, "tripped": (dict, NoneType),
        "slots": [{
            "campaign": str, "arm": str, "item": int, "budget_micros": int, "moves": [int], "step_spend_micros": [int],
            "spend_micros": int, "impressions": int, "clicks": int,
        }],
    },
    "episodes_settled": {
        "phase": str, "day": int, "artifact": str,
        "episodes": [{"campaign": str, "arm": str, "spend_micros": int, "conversions": NUMBER, "score": NUMBER}],
    },
    "played": {"phase": str, "source": str, "episodes": int, "seed": int, "actor_hash": str},
    "trained": {
        "phase": str, "episodes": int, "train_every": int, "call": int, "updates": int, "transitions": int,
        "simulated_transitions": int, "batch_size": int, "num_epochs": int, "learning_rate": NUMBER,
        "weight_change": {"absolute": NUMBER, "relative": NUMBER}, "min_update_change": NUMBER, "loss": NUMBER,
        "weights_hash_before": str, "weights_hash_after": str, "actor_hash_before": str, "actor_hash_after": str,
        "second_look": (dict, NoneType),
    },
    "canaries_run": {"key": str, "results": [{"name": str, "seeds": int, "passed": int, "needed": int, "ok": bool}]},
    "twin_trained": {"calls": int, "updates": int, "actor_hash": str, "artifact": str},
    "batch_refused": {"phase": str, "episodes": int, "reason": str},
    "checkpoint": {"phase": str, "checkpoint": str, "calls": int},
    "judged": _RULED | {"depth": str, "call": int, "actor_hash": str, "parts": dict, "evidence": dict},
    "certified": _RULED | {"candidate": str, "rule": str, "evidence": dict},
    "promoted": {"phase": str, "actor_hash": str, "checkpoint": str, "reason": str},
    "not_promoted": _RULED,
    "rolled_back": {"phase": str, "actor_hash": str, "rule": str, "reason": str},
    "window_judged": _RULED | {"window": int},
    "ramp_step": _RULED | {"step": int},
    "held": {"phase": str, "step": int, "reason": str},
    "left_untrained": {"phase": str, "episodes": list},
    "arms_compared": {"phase": str, "agent_mean": NUMBER, "control_mean": NUMBER, "pairs": int},
    "authorisation_wanted": _BINDING | {"loss_micros": int},
    "authorised": _BINDING | {"loss_micros": int},
    "approved": _BINDING | {"by": str},
    "approval_consumed": _BINDING | {"by": str},
    "granted": _ENTRY | {"by": str},
    "reserved": _ENTRY,
    "posted": _ENTRY,
    "released": _ENTRY,
    "breach": _ENTRY,
    "halted": {"reason": str, "paused": int},
    "halt_lifted": {"reason": str},
    "journey_ended": {"platform_bill_micros": int, "reached_end": bool, "reason": str},
}  # fmt: skip
"""Required fields. Others are welcome: what nobody relies on needs no agreement."""

_LIVE_DAY: dict[str, Shape] = {"step": int, "actor_hash": str}


def event_payloads(lines: tuple[Line, ...], live: tuple[str, ...]) -> Check:
    """Every event is of a known kind and tells what its kind must, in the right types."""
    faults: list[str] = []
    for line in lines:
        if line.kind not in KINDS:
            faults.append(f"{line.where} is of no known kind")
            continue
        shape = dict(KINDS[line.kind])
        if line.kind == "day_played" and "phase" in line.told and line.told["phase"] in live:
            shape |= _LIVE_DAY
        faults += [f"{line.where}: {fault}" for fault in _misfits(line.told, shape, "")]
    kinds = len({line.kind for line in lines})
    said = f"{len(lines)} events of {kinds} kinds, each tells what its kind must."
    return checked("event_payloads", faults, said, {"events": len(lines), "kinds": kinds})


def _misfits(value: object, shape: Shape, at: str) -> Iterator[str]:
    """What in `value` does not have `shape`; `at` is its path."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{at} is {value!r}, expected an object"
            return
        for key, inner in shape.items():
            path = f"{at}.{key}" if at else str(key)
            if key not in value:
                yield f"{path} is missing"
            else:
                yield from _misfits(value[key], inner, path)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{at} is {value!r}, expected a list"
            return
        for index, element in enumerate(value):
            yield from _misfits(element, shape[0], f"{at}[{index}]")
    elif isinstance(shape, type | tuple):
        types = shape if isinstance(shape, tuple) else (shape,)
        # Exact types: a bool is an int to isinstance.
        if type(value) not in types:
            yield f"{at} is {value!r}, expected {' or '.join(kind.__name__ for kind in types)}"

"""`gaelp verify`: the run's actor is read back, judged again in worlds fitted again, and held against the log."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gaelp.core.config import Journey
from gaelp.core.errors import BadInput
from gaelp.learn.verify import Depth, LearningVerdict
from gaelp.orchestration.canaries import canaries_of
from gaelp.orchestration.judging import JudgingWorlds
from gaelp.orchestration.log_opening import reread_log
from gaelp.orchestration.opening import blank_engine, open_judging, reread
from gaelp.orchestration.run import Run, has_a_platform, is_on_a_log


@dataclass(frozen=True)
class Reverified:
    """The verdict now, and where the log's own judgement of the same weights says something else.

    judged_at: the number of the log's event, None when these weights were never judged. differs: one sentence per
    number or word that is not equal.
    """

    actor_hash: str
    verdict: LearningVerdict
    judged_at: int | None
    differs: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Judged before, and in every number alike."""
        return self.judged_at is not None and not self.differs

    def payload(self) -> dict[str, object]:
        """Ready for JSON: verdict, reason, parts and evidence, with the comparison beside them."""
        return {
            **self.verdict.payload(),
            "actor_hash": self.actor_hash,
            "judged_at": self.judged_at,
            "same_as_judged": self.same,
            "differs": list(self.differs),
        }


@dataclass(frozen=True)
class _Place:
    """Which saved state to judge, and the judgement in the log that it led to."""

    checkpoint: str
    judged_at: int | None
    judged: Mapping[str, object]


async def reverify(run: Run[Journey]) -> Reverified:
    """Learning verification in full of the weights that play at the run's end; the same answer each time.

    These are the last promoted ones; before there are any, the learner's last. Asks no platform, writes nothing.
    Raises BadInput when nothing was trained, or when the run's worlds cannot be fitted again as they were.
    """
    place = _place(run)
    judging = _judging(run)
    engine = blank_engine(run.config, run.schema, judging, judging.market.hidden_width)
    engine.load_state(run.load(place.checkpoint).arrays)
    engine.canaries = canaries_of(run)
    verdict = await engine.verify_learning(Depth.FULL)
    if place.judged_at is None:
        return Reverified(engine.actor_hash(), verdict, None, ())
    now = json.loads(json.dumps({"actor_hash": engine.actor_hash(), **verdict.payload()}))
    return Reverified(engine.actor_hash(), verdict, place.judged_at, tuple(_differences(now, place.judged)))


def _judging(run: Run[Journey]) -> JudgingWorlds[Any]:
    """The judging worlds of the run, fitted again."""
    if is_on_a_log(run):
        return reread_log(run).judging
    if has_a_platform(run):
        return open_judging(reread(run), run.schema, run.config)
    raise BadInput(f"run {run.run_id} is of no known kind of journey.")


def _place(run: Run[Journey]) -> _Place:
    """The state that stood when the actor was judged last, in full if it ever was.

    A promotion changes the state, for what was promoted is what the next candidate is held against; so the state to
    judge again is the one before the judgement, not the one that was saved with the promotion.
    """
    events = list(run.store.events(run.run_id, ["checkpoint", "promoted", "rolled_back", "judged"]))
    checkpoints = [event for event in events if event.kind == "checkpoint"]
    if not checkpoints:
        raise BadInput(f"run {run.run_id} has no checkpoint yet: nothing was trained that could be verified.")
    actors = [event.payload["actor_hash"] for event in events if event.kind in ("promoted", "rolled_back")]
    judged = [
        event
        for event in events
        if event.kind == "judged" and (not actors or event.payload["actor_hash"] == actors[-1])
    ]
    judged = [event for event in judged if event.payload["depth"] == Depth.FULL] or judged
    before = [event for event in checkpoints if not judged or event.seq < judged[-1].seq]
    if not judged or not before:
        return _Place(str(checkpoints[-1].payload["checkpoint"]), None, {})
    return _Place(str(before[-1].payload["checkpoint"]), judged[-1].seq, judged[-1].payload)


def _differences(now: Mapping[str, object], then: Mapping[str, object]) -> Iterator[str]:
    """What the log told of these weights and is not told now; parts that were not asked for then are new, not other."""
    for name in ("actor_hash", "verdict", "reason"):
        yield from _unequal(name, now[name], then[name])
    parts, told = now["parts"], then["parts"]
    if not isinstance(parts, dict) or not isinstance(told, dict):
        raise BadInput("a judgement in the log holds no parts.")
    for name, part in told.items():
        yield from (
            _unequal(name, parts[name], part) if name in parts else [f"{name} was judged then, not now"]
        )


def _unequal(path: str, now: object, then: object) -> Iterator[str]:
    if isinstance(now, dict) and isinstance(then, dict):
        for key in sorted(set(now) | set(then)):
            if key in now and key in then:
                yield from _unequal(f"{path}.{key}", now[key], then[key])
            else:
                yield f"{path}.{key} is told {'now' if key in now else 'then'} only"
    elif now != then:
        yield f"{path} is {now!r} now and was {then!r}"

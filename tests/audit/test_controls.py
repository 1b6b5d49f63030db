"""Negative controls: which short runs are asked for, and which answers of learning verification are right."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Mapping

import pytest

from gaelp.audit.controls import CONTROLS, Control, ControlResult, judge_control, negative_controls
from gaelp.core.errors import BadInput

Answer = Callable[[list[str]], str]

BY_NAME = {control.name: control for control in CONTROLS}


def right(overrides: list[str]) -> str:
    """What a sound verification says."""
    if "learning.learning_rate=0" in overrides:
        return "BROKEN"
    return "NOT_LEARNING" if "learning.shuffle_rewards=true" in overrides else "LEARNING"


def controlled(answer: Answer, seeds: list[int]) -> dict[str, ControlResult]:
    async def play(overrides: list[str]) -> Mapping[str, object]:
        return {"verdict": answer(overrides), "reason": f"because of {' '.join(overrides)}."}

    return {result.name: result for result in asyncio.run(negative_controls(play, seeds))}


def test_each_control_is_played_once_for_every_seed_with_its_own_setting() -> None:
    asked: list[list[str]] = []

    def answer(overrides: list[str]) -> str:
        asked.append(overrides)
        return right(overrides)

    found = controlled(answer, [3, 4])
    assert asked == [
        ["seed=3"],
        ["seed=4"],
        ["learning.learning_rate=0", "seed=3"],
        ["learning.learning_rate=0", "seed=4"],
        ["learning.shuffle_rewards=true", "seed=3"],
        ["learning.shuffle_rewards=true", "seed=4"],
    ]
    assert all(result.ok for result in found.values())
    assert found["learning_rate_0"].verdicts == ("BROKEN", "BROKEN")
    assert "2 BROKEN of 2, BROKEN expected" in found["learning_rate_0"].said


@pytest.mark.parametrize(
    ("always", "refused"),
    [
        ("LEARNING", {"learning_rate_0", "shuffled_rewards"}),
        ("BROKEN", {"honest"}),
        ("INCONCLUSIVE", {"honest", "learning_rate_0"}),
        ("NOT_LEARNING", {"honest", "learning_rate_0"}),
    ],
)
def test_a_verification_that_always_says_the_same_fails(always: str, refused: set[str]) -> None:
    found = controlled(lambda _: always, [1])
    assert {name for name, result in found.items() if not result.ok} == refused


@pytest.mark.parametrize(
    ("seeds", "passed", "ok"), [(1, 1, False), (19, 1, False), (20, 1, True), (20, 2, False), (40, 2, True)]
)
def test_one_of_twenty_shuffled_seeds_may_look_like_learning(seeds: int, passed: int, ok: bool) -> None:
    told = [{"verdict": "LEARNING" if k < passed else "NOT_LEARNING", "reason": "."} for k in range(seeds)]
    assert judge_control(BY_NAME["shuffled_rewards"], told).ok is ok


def test_learning_rate_0_is_never_let_off() -> None:
    told = [{"verdict": "BROKEN", "reason": "."}] * 99 + [
        {"verdict": "LEARNING", "reason": "it looked fine."}
    ]
    result = judge_control(BY_NAME["learning_rate_0"], told)
    assert not result.ok
    assert "1 LEARNING, 99 BROKEN of 100" in result.said
    assert "it looked fine." in result.said


def test_a_result_is_ready_for_json() -> None:
    result = judge_control(BY_NAME["honest"], [{"verdict": "LEARNING", "reason": "better."}])
    assert result.payload() == {
        "name": "honest",
        "ok": True,
        "said": "honest: 1 LEARNING of 1, LEARNING expected. better.",
        "verdicts": ["LEARNING"],
        "reasons": ["better."],
    }


def test_answers_that_are_no_verdict_and_missing_seeds_are_refused() -> None:
    with pytest.raises(BadInput, match="'FINE', which is no verdict"):
        controlled(lambda _: "FINE", [1])
    with pytest.raises(BadInput, match="distinct seeds, at least one"):
        controlled(right, [])
    with pytest.raises(BadInput, match="distinct seeds"):
        controlled(right, [2, 2])
    with pytest.raises(BadInput, match="never played"):
        judge_control(BY_NAME["honest"], [])
    with pytest.raises(BadInput, match="the verdicts are"):
        Control(name="odd", overrides=(), expected=("FINE",))


def test_the_controls_need_no_jax() -> None:
    code = "import sys; import gaelp.audit.controls; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

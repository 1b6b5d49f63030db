"""The ramp goes up on PASS, holds on WAIT and goes back on FAIL."""

from __future__ import annotations

import pytest

from gaelp.core.errors import BadInput
from gaelp.core.verdict import FAIL, PASS, WAIT, Ruling, Verdict
from gaelp.safety.ramp import Move, NextStep, RampStep, check_ramp, next_step

STEPS = (RampStep(10_000_000, 2), RampStep(20_000_000, 2), RampStep(40_000_000, 3))


@pytest.mark.parametrize(
    ("step", "ruling", "then"),
    [
        (0, PASS, NextStep(1, Move.UP)), (1, PASS, NextStep(2, Move.UP)), (2, PASS, NextStep(2, Move.DONE)),
        (1, WAIT, NextStep(1, Move.HOLD)), (2, FAIL, NextStep(1, Move.BACK)), (0, FAIL, NextStep(0, Move.BACK)),
    ],
)  # fmt: skip
def test_one_rung_at_a_time(step: int, ruling: Ruling, then: NextStep) -> None:
    assert next_step(STEPS, step, Verdict(ruling, "ramp_step_gate", "because")) == then


def test_what_is_no_ramp_is_refused() -> None:
    with pytest.raises(BadInput, match="no steps"):
        check_ramp(())
    with pytest.raises(BadInput, match="goes up"):
        check_ramp((STEPS[1], STEPS[0]))
    with pytest.raises(BadInput, match="does not exist"):
        next_step(STEPS, 3, Verdict(PASS, "g", "r"))
    with pytest.raises(BadInput, match="above 0"):
        RampStep(0, 2)
    with pytest.raises(BadInput, match="above 0"):
        RampStep(10.0, 2)  # type: ignore[arg-type]

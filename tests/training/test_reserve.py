"""What a training keeps of its time follows from the steps that it took."""

from __future__ import annotations

import pytest

from ofa_tvm.training.reserve import Reserve


def test_time_is_kept_for_a_step_and_for_validating() -> None:
    reserve = Reserve(step_s=0.1, validation_s=0.5, subnets=2)
    assert reserve.seconds == 0.0, "the first step is always taken"
    for _ in range(20):
        reserve.took(2.0)
    # Twenty times as long as guessed: so are two validations.
    assert reserve.seconds == pytest.approx(2.0 + 1.2 * 2 * 0.5 * 20)
    reserve.took(6.0)
    long = reserve.seconds
    assert long > 6.0 + 20, "the next step may take as long"
    for _ in range(10):
        reserve.took(2.0)
    assert reserve.seconds < long - 3.9, "one that was slow once is forgotten"

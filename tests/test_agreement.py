"""One comparison of outputs."""

from __future__ import annotations

import warnings
from typing import get_args

import numpy as np
import pytest

from ofa_tvm.agreement import absolute_difference, largest, relative_difference, tolerance
from ofa_tvm.number_formats import Stage

INF, NAN = float("inf"), float("nan")


def test_differences_are_shares_of_the_largest_value_wanted() -> None:
    want = np.array([[-4.0, 1.0], [0.5, 2.0]], np.float32)
    assert absolute_difference(want, want + np.float32(0.5)) == 0.5
    assert relative_difference(want, want + np.float32(0.5)) == 0.125
    assert relative_difference(want, want + np.float32(0.5), least=8.0) == 0.0625
    assert relative_difference(np.zeros(3), np.zeros(3)) == 0 < relative_difference(np.zeros(3), np.ones(3))
    assert relative_difference(np.zeros((0, 3)), np.zeros((0, 3))) == 0
    assert absolute_difference(np.array([200], np.uint8), np.array([201], np.uint8)) == 1
    assert absolute_difference(np.array([True]), np.array([False])) == 1


@pytest.mark.parametrize(
    ("want", "got", "difference"),
    [
        ([1.0, NAN], [1.5, NAN], 0.5),
        ([1.0, INF, -INF], [1.0, INF, -INF], 0.0),
        ([1.0, INF], [1.0, -INF], INF),
        ([1.0, INF], [1.0, 3e38], INF),
        ([1.0, 2.0], [1.0, NAN], INF),
        ([1.0, NAN], [1.0, 2.0], INF),
        ([1.0], [1.0, 1.0], INF),
    ],
)
def test_what_is_not_finite_has_to_be_so_in_both(
    want: list[float], got: list[float], difference: float
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert absolute_difference(np.array(want), np.array(got)) == difference
    assert largest(np.array([NAN, -3.0, INF, 2.0])) == 3.0 and largest(np.array([NAN])) == 0.0


def test_every_stage_has_a_tolerance_of_every_dtype() -> None:
    for stage in get_args(Stage):
        assert 1e-4 < tolerance(stage, "float32") < 1e-2
        assert tolerance(stage, "float32") <= tolerance(stage, "float16") < 0.1

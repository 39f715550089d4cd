"""Reductions over given axes, over all, over none, and over nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from node_models import Case, assert_right, by_reference

KINDS = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]
X = np.random.default_rng(0).uniform(0.5, 2, (2, 3, 4)).astype(np.float32)


@pytest.mark.slow
def test_axes_as_operand(tmp_path: Path) -> None:
    cases = [
        Case(f"Reduce{kind}", [X, axes], [1], 1, {"keepdims": keepdims})
        for kind in KINDS
        for keepdims in (0, 1)
        for axes in (np.array([1]), np.array([-1, 0]))
    ]
    cases += [Case(f"Reduce{kind}", [X], attributes={"keepdims": 0}) for kind in KINDS]
    assert_right(cases, tmp_path)


def test_axes_as_attribute(tmp_path: Path) -> None:
    cases = [Case(f"Reduce{kind}", [X], attributes={"axes": [2, 0]}) for kind in KINDS]
    assert_right(cases, tmp_path, opset=11)


def test_no_axes_may_mean_none(tmp_path: Path) -> None:
    empty = np.array([], np.int64)
    cases = [
        Case(f"Reduce{k}", [X, empty], [1], 1, {"noop_with_empty_axes": n}) for k in KINDS for n in (0, 1)
    ]
    cases = [case for case in cases if case.kind not in ("ReduceLogSumExp", "ReduceMean")]
    assert_right(cases, tmp_path, reference=by_reference)


def test_log_of_a_sum_of_exponentials_at_extremes(tmp_path: Path) -> None:
    x = np.array([[1000, 1001], [-np.inf, -np.inf], [np.inf, 1], [-np.inf, 2]], np.float32)
    assert_right(
        [Case("ReduceLogSumExp", [x, np.array([1])], [1])], tmp_path, reference=lambda c, o: [_log_sum_exp(x)]
    )


def _log_sum_exp(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x[:, :1], x[:, 1:])


@pytest.mark.parametrize("kind", ["Max", "Min"])
def test_truth_values(kind: str, tmp_path: Path) -> None:
    x = np.array([[True, False], [True, True], [False, False]])
    assert_right([Case(f"Reduce{kind}", [x, np.array([1])], [1])], tmp_path, opset=20, reference=by_reference)

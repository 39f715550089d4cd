"""Pooling with every padding, stride, dilation and rank, and where the maxima are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from node_models import Array, Case, assert_right, by_reference, merged

import ofa_tvm
from ofa_tvm.errors import UserError


def values(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def pool(kind: str, x: Array, kernel: list[int], outputs: int = 1, **attributes: Any) -> Case:
    return Case(kind, [x], outputs=outputs, attributes={"kernel_shape": kernel, **attributes})


def test_same_padding_where_the_stride_does_not_divide_the_side(tmp_path: Path) -> None:
    assert_right(
        [
            pool(kind, values(1, 2, *sizes), [3, 2], strides=[2, 2], auto_pad=padding)
            for kind in ("MaxPool", "AveragePool", "LpPool")
            for padding in ("SAME_UPPER", "SAME_LOWER", "VALID")
            for sizes in ([7, 7], [6, 9])
        ],
        tmp_path,
    )


@pytest.mark.slow
def test_ceil_mode_padding_and_dilation(tmp_path: Path) -> None:
    cases = []
    for kind in ("MaxPool", "AveragePool", "LpPool"):
        cases += [
            pool(kind, values(1, 2, 8, 7), [3, 2], strides=[2, 3], pads=[1, 0, 2, 1], ceil_mode=1),
            pool(kind, values(1, 1, 9, 9), [2, 3], strides=[1, 2], pads=[1, 1, 1, 2], dilations=[2, 2]),
            pool(kind, values(2, 3, 10), [3], strides=[2], pads=[1, 1], ceil_mode=1),
            pool(kind, values(1, 2, 5, 6, 7), [2, 3, 2], strides=[2, 1, 3], pads=[1, 1, 0, 0, 1, 1]),
        ]
    for case in [c for c in cases if c.kind == "AveragePool"]:
        cases.append(Case(case.kind, case.operands, attributes={**case.attributes, "count_include_pad": 1}))
    cases.append(pool("LpPool", values(1, 2, 6, 6), [2, 2], p=3))
    assert_right(cases, tmp_path, opset=19)


def test_indices_of_the_maxima(tmp_path: Path) -> None:
    ties = np.random.default_rng(0).integers(0, 3, (2, 2, 6, 7)).astype(np.float32)
    assert_right(
        [
            pool("MaxPool", ties, [3, 3], 2, strides=[2, 2], pads=[1, 1, 1, 1], storage_order=order)
            for order in (0, 1)
        ]
        + [
            pool("MaxPool", values(1, 2, 9), [2], 2, strides=[2]),
            pool("MaxPool", values(1, 2, 4, 5, 6), [2, 2, 2], 2, dilations=[1, 2, 1]),
        ],
        tmp_path,
    )


def test_unpooling(tmp_path: Path) -> None:
    indices = np.array([5, 7, 13, 15], np.int64).reshape(1, 1, 2, 2)
    x = values(1, 1, 2, 2)
    kernel = {"kernel_shape": [2, 2], "strides": [2, 2]}
    assert_right(
        [
            Case("MaxUnpool", [x, indices], attributes=kernel),
            Case("MaxUnpool", [x, indices, np.array([1, 1, 5, 5], np.int64)], [2], attributes=kernel),
        ],
        tmp_path,
        reference=by_reference,
    )


@pytest.mark.parametrize("dilation", [1, 2])
def test_what_nobody_agrees_upon_is_refused(dilation: int, tmp_path: Path) -> None:
    case = pool(
        "MaxPool", values(1, 1, 6), [dilation], strides=[3], dilations=[dilation], auto_pad="SAME_UPPER"
    )
    with pytest.raises(UserError, match=r"MaxPool \(node 'case0'\).*give pads instead of auto_pad"):
        ofa_tvm.compile(merged([case], 18), ofa_tvm.get_target("x86"), tmp_path / "m.so")

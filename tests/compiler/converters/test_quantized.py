"""Integer convolutions and products, zero points and scales for a tensor or for a channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from node_models import Array, Case, assert_right


def integers(dtype: type, *shape: int, seed: int = 0) -> Array:
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max + 1, shape).astype(dtype)


def scale(*shape: int) -> Array:
    return np.random.default_rng(1).uniform(0.01, 0.02, shape).astype(np.float32)


def test_integer_convolution(tmp_path: Path) -> None:
    x, w = integers(np.uint8, 1, 3, 6, 5), integers(np.uint8, 4, 3, 3, 3, seed=1)
    zero: Any = np.array(7, np.uint8)
    assert_right(
        [
            Case("ConvInteger", [x, w], [1]),
            Case(
                "ConvInteger",
                [x, w, zero, zero],
                [1, 2, 3],
                attributes={"pads": [1, 0, 1, 2], "strides": [2, 1]},
            ),
        ],
        tmp_path,
    )


def test_quantized_convolution(tmp_path: Path) -> None:
    x, w = integers(np.uint8, 1, 4, 6, 5), integers(np.int8, 4, 2, 3, 3, seed=1)
    point = np.array(120, np.uint8)
    for each in ((), (4,)):
        operands = [
            x,
            scale(),
            point,
            w,
            scale(*each),
            np.zeros(each, np.int8),
            np.array(1.3, np.float32),
            point,
        ]
        bias = integers(np.int8, 4, seed=2).astype(np.int32)
        attributes = {"group": 2, "pads": [1, 1, 1, 1]}
        constant = list(range(1, 9))
        assert_right([Case("QLinearConv", [*operands, bias], constant, 1, attributes)], tmp_path)


def test_quantized_product(tmp_path: Path) -> None:
    a, b = integers(np.uint8, 2, 3, 5), integers(np.uint8, 5, 4, seed=1)
    point = np.array(120, np.uint8)
    operands = [a, scale(), point, b, scale(), point, np.array(0.5, np.float32), np.array(3, np.uint8)]
    assert_right([Case("QLinearMatMul", operands, range(1, 8))], tmp_path)


def test_rounding_of_halves_and_of_what_is_no_number(tmp_path: Path) -> None:
    special = [np.nan, np.inf, -np.inf, 1e30, -1e30, 3e9, -3e9]
    values: Any = np.concatenate([np.arange(-300, 300, 0.5), special]).astype(np.float32)
    one: Any = np.array(1, np.float32)
    points: list[Any] = [np.array(3, dtype) for dtype in (np.uint8, np.int8, np.uint16)]
    assert_right(
        [Case("QuantizeLinear", [values, one, point], [1, 2]) for point in points], tmp_path, opset=21
    )

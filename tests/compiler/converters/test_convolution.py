"""Convolutions and transposed ones: every way to say how they are padded, in one to three dimensions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from node_models import Array, Case, assert_right


def values(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def convolution(
    kind: str, x: Array, outputs: int, kernel: list[int], group: int = 1, **attributes: Any
) -> Case:
    inputs = x.shape[1]
    weight = (outputs, inputs // group) if kind == "Conv" else (inputs, outputs // group)
    operands = [x, values(*weight, *kernel, seed=1), values(outputs, seed=2)]
    return Case(kind, operands, [1, 2], attributes={"group": group, **attributes})


@pytest.mark.slow
def test_convolutions_padded_by_name(tmp_path: Path) -> None:
    assert_right(
        [
            convolution("Conv", x, 4, kernel, group, auto_pad=padding, strides=[2] * len(kernel))
            for padding in ("SAME_UPPER", "SAME_LOWER", "VALID")
            for x, kernel, group in [
                (values(1, 4, 7, 8), [3, 2], 2),
                (values(2, 3, 9), [4], 1),
                (values(1, 2, 5, 6, 7), [2, 3, 3], 1),
            ]
        ],
        tmp_path,
    )


@pytest.mark.slow
def test_transposed(tmp_path: Path) -> None:
    kind = "ConvTranspose"
    assert_right(
        [
            convolution(kind, values(1, 3, 5, 4), 2, [3, 3], strides=[2, 2], output_shape=[10, 8]),
            convolution(kind, values(1, 3, 5, 4), 2, [3, 3], strides=[3, 2], output_shape=[12, 9]),
            convolution(kind, values(1, 3, 5, 4), 2, [2, 4], strides=[2, 3], pads=[0, 1, 1, 2]),
            convolution(
                kind,
                values(1, 4, 5, 4),
                6,
                [3, 3],
                2,
                strides=[2, 2],
                pads=[1, 1, 1, 1],
                output_padding=[1, 1],
            ),
            convolution(kind, values(1, 4, 3, 3), 4, [3, 2], 4, strides=[2, 3], dilations=[2, 1]),
            convolution(kind, values(2, 3, 6), 5, [4], strides=[2], pads=[1, 1]),
            convolution(
                kind, values(1, 2, 3, 4, 3), 3, [2, 3, 2], strides=[2, 1, 3], pads=[1, 0, 0, 0, 1, 1]
            ),
            convolution(kind, values(1, 3, 6, 6), 2, [3, 3], dilations=[2, 3], pads=[1, 2, 1, 0]),
            convolution(kind, values(1, 2, 4, 5), 3, [5, 3], strides=[2, 3], auto_pad="SAME_UPPER"),
            convolution(kind, values(1, 2, 4, 5), 3, [4, 4], strides=[1, 2], auto_pad="SAME_LOWER"),
            convolution(kind, values(1, 2, 4, 5), 3, [1, 1], strides=[3, 3]),
            convolution(kind, values(1, 2, 4, 5), 36, [3, 3], 2, strides=[3, 3]),
        ],
        tmp_path,
    )

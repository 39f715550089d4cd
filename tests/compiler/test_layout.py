"""Networks of one axis, grouped convolutions and the user's own permutations take the channels-last way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx_models import Graph, random_inputs, reference

import ofa_tvm
from ofa_tvm.logs import KernelTable
from ofa_tvm.targets import get_target


def assert_equal(g: Graph, folder: Path, transposes: int, target: str = "x86") -> None:
    """As ONNX Runtime, all kernels by templates, and so many permutations."""
    model, path = g.finished(), folder / "m.so"
    made = ofa_tvm.compile(model, get_target(target), path, records=KernelTable())
    inputs = random_inputs(model)
    (expected,) = reference(model, inputs)
    got = ofa_tvm.load(path)(*inputs)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * float(np.abs(expected).max()))
    assert {use.origin for use in made.kernels} == {"default"}
    assert sum("transpose" in use.name for use in made.kernels) == transposes, [u.name for u in made.kernels]


@pytest.mark.parametrize("groups", [1, 4, 24])
def test_one_axis(groups: int, tmp_path: Path) -> None:
    """Convolutions, pooling, an epilogue, a reduction and the way to two axes and back."""
    g = Graph()
    x = g.op("Conv", g.input("x", 2, 24, 61), g.weight(24, 24 // groups, 5), g.weight(24), pads=[2, 1],
             group=groups, strides=[2], dilations=[1])  # fmt: skip
    x = g.op("MaxPool", g.op("Relu", x), kernel_shape=[3], strides=[2], pads=[1, 1])
    x = g.op("Mul", x, g.weight(1, 24, 1))
    x = g.op("Unsqueeze", x, g.constant([2], "int64"))
    x = g.op("Squeeze", g.conv(x, 24, 20, 1, pads=[0] * 4), g.constant([2], "int64"))
    x = g.op("AveragePool", x, kernel_shape=[2], strides=[1])
    x = g.op("Flatten", g.op("GlobalAveragePool", g.op("Add", x, x)))
    g.finish(g.op("Gemm", x, g.weight(5, 20), g.weight(5), transB=1))
    assert_equal(g, tmp_path, 1)


@pytest.mark.parametrize(
    ("c_in", "c_out", "groups"), [(64, 64, 2), (32, 32, 8), (24, 48, 3), (30, 60, 5), (12, 24, 12)]
)
def test_grouped(c_in: int, c_out: int, groups: int, tmp_path: Path) -> None:
    g = Graph()
    x = g.conv(g.input("x", 1, c_in, 9, 7), c_in, c_out, 3, groups, strides=[2, 1])
    g.finish(g.op("Relu", x))
    assert_equal(g, tmp_path, 2)


def test_permutations_of_the_users_own(tmp_path: Path) -> None:
    """ConvNeXt's: a layer norm and products on channels-last tensors between convolutions."""
    g = Graph()
    x = g.conv(g.input("x", 1, 3, 16, 12), 3, 40, 4, pads=[0] * 4, strides=[4, 4])
    y = g.op("Transpose", g.conv(x, 40, 40, 7, groups=40), perm=[0, 2, 3, 1])
    y = g.op("LayerNormalization", y, g.weight(40), g.weight(40), axis=-1)
    y = g.op("Add", g.op("MatMul", y, g.weight(40, 70)), g.weight(70))
    y = g.op("MatMul", g.op("Relu", y), g.weight(70, 40))
    x = g.op("Relu", g.op("Add", x, g.op("Transpose", y, perm=[0, 3, 1, 2])))
    g.finish(g.op("Flatten", g.op("GlobalAveragePool", x)))
    assert_equal(g, tmp_path, 1)


@pytest.mark.parametrize("tokens", [7, 17, 64, 197])
def test_attention(tokens: int, tmp_path: Path) -> None:
    """Products of two tensors, with numbers of rows and columns that no tile divides."""
    g = Graph()
    q, k, v = (g.input(name, 1, 3, tokens, 32) for name in "qkv")
    weights = g.op("Mul", g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2])), g.constant(0.2))
    g.finish(g.op("MatMul", g.op("Softmax", weights, axis=-1), v))
    assert_equal(g, tmp_path, 1)


@pytest.mark.parametrize("rows", [1, 5, 17, 31])
@pytest.mark.parametrize("columns", [3, 10, 16, 37])
def test_products_of_any_size(rows: int, columns: int, tmp_path: Path) -> None:
    g = Graph()
    g.finish(g.op("Relu", g.op("MatMul", g.input("x", 2, rows, 20), g.weight(20, columns))))
    assert_equal(g, tmp_path, 0)


def test_a_map_of_width_one(tmp_path: Path) -> None:
    g = Graph()
    x = g.op("Conv", g.input("x", 1, 20, 33, 1), g.weight(24, 20, 5, 1), g.weight(24), pads=[2, 0, 1, 0],
             strides=[2, 1], dilations=[2, 1])  # fmt: skip
    g.finish(g.op("Relu", x))
    assert_equal(g, tmp_path, 2)

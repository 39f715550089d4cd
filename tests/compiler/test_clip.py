"""A clip is a clip: at any bounds, in every dtype, wherever it stands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import Graph, reference

import ofa_tvm
from ofa_tvm.targets import get_target

BOUNDS = [
    (-3.4e38, 3.4e38),
    (-3.4e38, 6),
    (-1e6, 1e6),
    (-64504, 64504),
    (-1e4, 1e4),
    (1e-30, 1e30),
    (0, 6),
    (2, 2),
    (6, 0),
    (-np.inf, np.inf),
    (-np.inf, 1),
    (1, np.inf),
    (np.inf, np.inf),
    (np.nan, 2),
    (0, np.nan),
    (None, 1),
    (-1, None),
    (0, None),
    (None, None),
]
X = np.array([-3, -0.5, 0, 1e-3, 7, -1e30, 1e30, np.inf, -np.inf, np.nan], np.float32)


def clips(shape: tuple[int, ...]) -> onnx.ModelProto:
    """A clip of an input for every pair of bounds, which are constants of `shape`."""
    g = Graph()
    x = g.input("x", len(X))
    outputs = []
    for pair in BOUNDS:
        names = ["" if bound is None else g.constant(np.full(shape, bound)) for bound in pair]
        outputs.append(g.op("Clip", x, *names))
    return g.model(*outputs)


@pytest.mark.parametrize("name", ["x86-64-v2", "x86"])
def test_bounds_of_every_kind(name: str, tmp_path: Path) -> None:
    model = clips(())
    ofa_tvm.compile(model, get_target(name), tmp_path / "m.so")
    got = ofa_tvm.load(tmp_path / "m.so")(X)
    for bounds, ours, theirs in zip(BOUNDS, got, reference(model, [X]), strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=str(bounds))


def test_bounds_of_shape_1(tmp_path: Path) -> None:
    """ONNX asks for scalars and ONNX Runtime refuses others, but some exporters write them."""
    ofa_tvm.compile(clips((1,)), get_target("x86"), tmp_path / "m.so")
    got = ofa_tvm.load(tmp_path / "m.so")(X)
    for bounds, ours, theirs in zip(BOUNDS, got, reference(clips(()), [X]), strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=str(bounds))


def test_bounds_that_are_inputs(tmp_path: Path) -> None:
    g = Graph()
    model = g.model(g.op("Clip", g.input("x", len(X)), g.input("low"), g.input("high")))
    ofa_tvm.compile(model, get_target("x86"), tmp_path / "m.so")
    run = ofa_tvm.load(tmp_path / "m.so")
    for pair in BOUNDS:
        if None not in pair:
            arrays = [X, *(np.array(bound, np.float32) for bound in pair)]
            np.testing.assert_array_equal(run(*arrays), reference(model, arrays)[0], err_msg=str(pair))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "float64"])
def test_other_dtypes(dtype: str, tmp_path: Path) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    bounds = [numpy_helper.from_array(np.array(value, dtype), f"c{value}") for value in (3, 100)]
    nodes = [
        helper.make_node("Clip", ["x", "c3", "c100"], ["a"]),
        helper.make_node("Clip", ["x", "c100", "c3"], ["b"]),
        helper.make_node("Clip", ["x", "c3"], ["c"]),
        helper.make_node("Clip", ["x", "", "c3"], ["d"]),
    ]
    values = [helper.make_tensor_value_info(name, kind, [5]) for name in "xabcd"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], bounds)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    x = np.array([0, 3, 50, 100, 120], dtype)
    ofa_tvm.compile(model, get_target("x86"), tmp_path / "m.so")
    got = ofa_tvm.load(tmp_path / "m.so")(x)
    expected = [np.clip(x, 3, 100), np.full(5, 3, dtype), np.maximum(x, 3), np.minimum(x, 3)]
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


def test_attributes_of_old_operator_sets(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Clip", ["x"], ["a"], min=0.0, max=6.0),
        helper.make_node("Clip", ["x"], ["b"], max=1.0),
        helper.make_node("Clip", ["x"], ["c"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [len(X)]) for name in "xabc"]
    model = helper.make_model(
        helper.make_graph(nodes, "g", values[:1], values[1:]),
        opset_imports=[helper.make_opsetid("", 9)],
        ir_version=4,
    )
    ofa_tvm.compile(model, get_target("x86"), tmp_path / "m.so")
    got = ofa_tvm.load(tmp_path / "m.so")(X)
    for ours, theirs in zip(got, reference(model, [X]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_behind_a_convolution(dtype: str, tmp_path: Path) -> None:
    g = Graph()
    y = g.conv(g.input("x", 1, 8, 6, 6), 8, 24)
    bounds = [(-1e4, 1e4), (-64504, 64504), (-3.4e38, 3.4e38), (0, 6), (-0.5, 0.25)]
    model = g.model(*(g.op("Clip", y, g.constant(low), g.constant(high)) for low, high in bounds))
    x = np.random.default_rng(0).standard_normal((1, 8, 6, 6)).astype(np.float32)
    ofa_tvm.compile(model, get_target("x86"), tmp_path / "m.so", dtype=dtype)
    tolerance = 1e-5 if dtype == "float32" else 4e-3
    for ours, theirs in zip(ofa_tvm.load(tmp_path / "m.so")(x), reference(model, [x]), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=tolerance)

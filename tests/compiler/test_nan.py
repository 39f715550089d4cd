"""NaN stays NaN: a bad pixel must not become a confident class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from emulated import arm_target
from onnx_models import Graph, reference
from opencl_device import skip_without_opencl

import ofa_tvm
from ofa_tvm.targets import get_target
from ofa_tvm.targets.target import Target

TARGETS = ("x86-64-v2", "x86-64-v3", "x86", "cortex-a72", "cortex-a76", "opencl-pocl")


def target_of(name: str) -> Target:
    if name.startswith("cortex"):
        return arm_target(name)
    if name.startswith("opencl"):
        skip_without_opencl()
    return get_target(name)


def extrema() -> onnx.ModelProto:
    """Every operator that compares, alone, behind a convolution and of two maps."""
    g = Graph()
    x, z = g.input("x", 1, 16, 6, 6), g.input("z", 1, 16, 6, 6)
    low, high = g.constant(0.0), g.constant(6.0)
    both = [g.op(kind, *pair) for kind in ("Max", "Min") for pair in ((x, z), (z, x), (x, g.op("Exp", z)))]
    behind = [
        g.op(kind, g.conv(x, 16, 16, 1), *bounds)
        for kind, bounds in (("Relu", ()), ("Clip", (low, high)), ("HardSwish", ()), ("HardSigmoid", ()))
    ]
    alone = [g.op("Relu", x), g.op("Clip", x, low, high), g.op("Clip", x, low), g.op("Clip", x, "", high)]
    alone += [g.op(kind, x) for kind in ("HardSigmoid", "HardSwish", "LeakyRelu", "Sigmoid", "Tanh", "Elu")]
    return g.model(*both, *behind, *alone, g.op("Max", x, z, g.constant(0.5)))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", TARGETS)
def test_nan_is_where_onnx_runtime_has_it(name: str, dtype: str, tmp_path: Path) -> None:
    if name.startswith("opencl") and dtype == "float16":
        pytest.skip("PoCL has no half precision")
    target, model = target_of(name).with_dtype(dtype), extrema()
    rng = np.random.default_rng(0)
    x, z = (rng.standard_normal((1, 16, 6, 6)).astype(np.float32) for _ in range(2))
    x[0, 3, 4, 5] = x[0, 15, 0, 0] = z[0, 2, 1, 1] = np.nan
    ofa_tvm.compile(model, target, tmp_path / "m.so")
    outputs = ofa_tvm.load(tmp_path / "m.so", target)(x, z)
    tolerance = 1e-5 if dtype == "float32" else 1e-2
    for got, expected in zip(outputs, reference(model, [x, z]), strict=True):
        assert np.isnan(expected).any()
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)  # NaN equals NaN only


@pytest.mark.parametrize("name", ["x86-64-v2", "x86", "cortex-a72"])
def test_a_pool_keeps_every_nan(name: str, tmp_path: Path) -> None:
    """ONNX Runtime's maxima keep or lose it by its place; numpy's keep it."""
    g = Graph()
    x = g.input("x", 1, 8, 6, 6)
    axes = g.constant([2, 3], "int64")
    pooled = g.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    model = g.model(pooled, g.op("GlobalMaxPool", x), g.op("ReduceMin", x, axes, keepdims=0))
    target = target_of(name)
    ofa_tvm.compile(model, target, tmp_path / "m.so")
    run = ofa_tvm.load(tmp_path / "m.so", target)
    for place in ((0, 0), (0, 5), (3, 2), (5, 5)):
        array = np.random.default_rng(1).standard_normal((1, 8, 6, 6)).astype(np.float32)
        array[(0, 4, *place)] = np.nan
        windows = array.reshape(1, 8, 3, 2, 3, 2)
        got = run(array)
        np.testing.assert_array_equal(got[0], windows.max(axis=(3, 5)))
        np.testing.assert_array_equal(got[1], array.max(axis=(2, 3), keepdims=True))
        np.testing.assert_array_equal(got[2], array.min(axis=(2, 3)))


@pytest.mark.parametrize("name", ["x86-64-v2", "x86", "cortex-a72"])
def test_the_largest_of_nothing_but_minus_infinity(name: str, tmp_path: Path) -> None:
    g = Graph()
    x = g.input("x", 1, 16, 4, 4)
    model = g.model(
        g.op("ReduceMax", x, g.constant([2, 3], "int64")),
        g.op("ReduceMin", g.op("Neg", x), g.constant([1], "int64")),
        g.op("GlobalMaxPool", x),
        g.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]),
    )
    array, target = np.full((1, 16, 4, 4), -np.inf, np.float32), target_of(name)
    array[0, 3, 1, 2] = 5
    ofa_tvm.compile(model, target, tmp_path / "m.so")
    got = ofa_tvm.load(tmp_path / "m.so", target)(array)
    for ours, theirs in zip(got[:2], reference(model, [array])[:2], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(got[2], array.max(axis=(2, 3), keepdims=True))
    np.testing.assert_array_equal(got[3], array.reshape(1, 16, 2, 2, 2, 2).max(axis=(3, 5)))

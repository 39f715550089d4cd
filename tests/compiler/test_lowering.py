"""What is fused into one kernel, what is kept out of it, and that any chain of operators stays right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_models import Graph, reference

import ofa_tvm
from ofa_tvm.targets import get_target

DEEP = 12
CHAINS: dict[str, Callable[[Graph, str, str], str]] = {
    "maximum": lambda g, x, y: str(g.op("Max", g.op("Mul", y, y), g.op("Add", y, x))),
    "doubling": lambda g, x, y: str(g.op("Add", y, y)),
    "swish": lambda g, x, y: str(g.op("Mul", y, g.op("Sigmoid", y))),
    "choice": lambda g, x, y: str(g.op("Sub", g.op("Abs", g.op("Where", g.op("Less", y, x), y, x)), y)),
}


@pytest.mark.slow
@pytest.mark.parametrize("chain", CHAINS)
def test_values_that_are_read_twice_do_not_double_the_code_each_time(chain: str, tmp_path: Path) -> None:
    """In one kernel, twelve such steps would be up to 3^12 expressions: hours of code generation."""
    g = Graph()
    x = y = g.input("x", 1, 8, 4, 4)
    for _ in range(DEEP):
        y = CHAINS[chain](g, x, y)
    model = g.model(y)
    ofa_tvm.compile(model, get_target("x86"), tmp_path / "m.so")
    array = np.random.default_rng(0).standard_normal((1, 8, 4, 4)).astype(np.float32) / 4
    np.testing.assert_allclose(
        ofa_tvm.load(tmp_path / "m.so")(array), reference(model, [array])[0], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("kind", ["Sigmoid", "Tanh", "Erf"])
def test_an_activation_by_a_function_is_fused_into_each_convolution(kind: str, tmp_path: Path) -> None:
    """Also where the convolution's input was made by such a function in another kernel."""
    g = Graph()
    y = g.input("x", 1, 16, 8, 8)
    for _ in range(3):
        y = g.conv(y, 16, 16)
        y = g.op("Mul", y, g.op(kind, y))
    compiled = ofa_tvm.compile(g.model(y), get_target("x86"), tmp_path / "m.so")
    assert sum(use.calls for use in compiled.kernels) == 3 + 2, "three convolutions, two changes of layout"


_UNARY = ["Relu", "Sigmoid", "Tanh", "Abs", "Neg", "HardSwish", "Softplus", "Erf", "Floor", "Softmax", "Elu"]
_BINARY = ["Add", "Sub", "Mul", "Max", "Min"]
_STEPS = [*_UNARY, *_BINARY, "Conv", "Depthwise", "MaxPool", "Mean", "Transpose", "Concat", "Slice", "Clip"]


@pytest.mark.slow
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    steps=st.lists(st.tuples(st.sampled_from(_STEPS), st.integers(0, 3)), min_size=2, max_size=9),
    seed=st.integers(0, 99),
)
def test_any_chain_of_operators_equals_onnx_runtime(
    steps: list[tuple[str, int]], seed: int, tmp_path: Path
) -> None:
    """Each step reads the last value and, with two operands, one of the same shape made before."""
    g = Graph(seed)
    channels, side = 3 + seed % 7, 6
    values = [g.input("x", 1, channels, side, side)]
    for kind, back in steps:
        values.append(_step(g, kind, values[-1], values[-1 - back % len(values)], channels))
    model = g.model(values[-1], values[len(values) // 2])
    ofa_tvm.compile(model, get_target("x86"), tmp_path / "m.so")
    array = np.random.default_rng(seed).standard_normal((1, channels, side, side)).astype(np.float32)
    for got, want in zip(ofa_tvm.load(tmp_path / "m.so")(array), reference(model, [array]), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * max(1.0, np.abs(want).max()))


def _step(g: Graph, kind: str, x: str, other: str, channels: int) -> str:
    """A step that keeps the shape."""
    if kind in _BINARY:
        return str(g.op(kind, x, other))
    if kind == "Conv":
        return g.conv(x, channels, channels)
    if kind == "Depthwise":
        return g.conv(x, channels, channels, groups=channels)
    if kind == "MaxPool":
        return str(g.op("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    if kind == "Mean":
        return str(g.op("Mul", x, g.op("GlobalAveragePool", other)))
    if kind == "Transpose":
        return str(g.op("Transpose", x, perm=[0, 1, 3, 2]))
    if kind == "Concat":
        joined = g.op("Concat", x, other, axis=1)
        return str(g.op("Slice", joined, *(g.constant([v], "int64") for v in (1, channels + 1, 1))))
    if kind == "Slice":
        start, end, axis, step = (g.constant([v], "int64") for v in (-1, -99, 1, -1))
        return str(g.op("Slice", x, start, end, axis, step))
    if kind == "Clip":
        return str(g.op("Clip", x, g.constant(-0.5), g.constant(1.5)))
    return str(g.op(kind, x, **({"axis": 1} if kind == "Softmax" else {})))

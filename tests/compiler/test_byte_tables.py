"""Functions of quantised maps looked up: every byte, every width of vectors, and what is no such function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tvm
from onnx_models import Graph
from tvm import te
from tvm.s_tir import Schedule

import ofa_tvm
from ofa_tvm.compiler.byte_tables import has_lookups
from ofa_tvm.compiler.code import kernel_code
from ofa_tvm.targets import get_target

_SCALE, _ZERO = 0.0371, 131
_OUT_SCALE, _OUT_ZERO = 0.0293, 77

FUNCTIONS: dict[str, Callable[[Graph, str], str]] = {
    "HardSwish": lambda g, x: g.op("HardSwish", x),
    "SiLU": lambda g, x: g.op("Mul", x, g.op("Sigmoid", x)),
    "Tanh": lambda g, x: g.op("Tanh", x),
    "Clip": lambda g, x: g.op("Clip", x, g.constant(-1.5), g.constant(2.25)),
    "Relu": lambda g, x: g.op("Relu", x),
    "Exp": lambda g, x: g.op("Exp", x),
    "Sqrt": lambda g, x: g.op("Sqrt", g.op("Abs", x)),
    "shifted": lambda g, x: g.op("Div", g.op("Sub", g.constant(1.0), g.op("Neg", x)), g.constant(3.0)),
    "Max": lambda g, x: g.op("Max", x, g.op("Min", x, g.constant(-0.5))),
}

needs_lookups = pytest.mark.skipif(
    not has_lookups(get_target("x86").tvm_target()), reason="this CPU has no instruction that looks bytes up"
)


def quantised(g: Graph, x: str, scale: float = _SCALE, zero: int = _ZERO) -> str:
    scheme = g.constant(scale), g.constant(zero, "uint8")
    return str(g.op("DequantizeLinear", g.op("QuantizeLinear", x, *scheme), *scheme))


def kernels(model: object, folder: Path, target: str = "x86") -> tuple[list[str], Path]:
    module = ofa_tvm.compile(model, get_target(target), folder / "m.so")
    uses = [(use.calls, use.signature.operators) for use in module.kernels]
    return [
        operator for calls, operators in uses for _ in range(calls) for operator in operators
    ], module.path


@needs_lookups
def test_every_byte_has_the_functions_value(tmp_path: Path) -> None:
    g = Graph()
    x = g.input("x", 1, 256, 3, 3)
    real = quantised(g, x)
    model = g.model(*(quantised(g, made(g, real), _OUT_SCALE, _OUT_ZERO) for made in FUNCTIONS.values()))
    codes = np.arange(256, dtype=np.float32).reshape(1, 256, 1, 1) - _ZERO
    data = np.broadcast_to(codes * np.float32(_SCALE), (1, 256, 3, 3)).copy()
    operators, path = kernels(model, tmp_path)
    assert operators.count("lookup") == len(FUNCTIONS)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    for name, got, expected in zip(
        FUNCTIONS, ofa_tvm.load(path)(data), session.run(None, {"x": data}), strict=True
    ):
        steps = np.abs(np.rint((got - expected) / _OUT_SCALE))
        assert steps.max() <= 1, name  # a tie that the last bit of a function decides
        assert (steps > 0).mean() < 0.01, name


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("lanes", [2, 8, 16, 64])
def test_vectors_of_every_length(lanes: int, dtype: str, rng: np.random.Generator) -> None:
    """By the instruction where there is one; what TVM makes of the same loads elsewhere."""
    target = get_target("x86").tvm_target()
    data = te.placeholder((3 * lanes,), "uint8", name="data")
    table = te.placeholder((256,), dtype, name="table")
    found = te.compute(data.shape, lambda i: table[data[i].astype("int32")], name="found")
    sch = Schedule(tvm.IRModule({"main": te.create_prim_func([data, table, found])}))
    _, inner = sch.split(sch.get_loops(sch.get_sblock("found"))[0], [None, lanes])
    sch.vectorize(inner)
    code = kernel_code(sch.mod, target)
    values = rng.integers(0, 256, (256,)).astype(np.uint8).view(dtype)
    bytes_ = rng.integers(0, 256, 3 * lanes).astype(np.uint8)
    arrays = [tvm.runtime.tensor(a) for a in (bytes_, values, np.zeros(3 * lanes, dtype))]
    code["main"](*arrays)
    np.testing.assert_array_equal(arrays[-1].numpy(), values[bytes_])
    assert ("vpermt2b" in code.mod.inspect_source("asm")) == has_lookups(target)


@needs_lookups
@pytest.mark.parametrize(("channels", "side"), [(24, 7), (16, 112)])
def test_averages_are_sums_of_bytes(channels: int, side: int, tmp_path: Path) -> None:
    """As exact at 112 x 112, where a sum in float32 would have rounded."""
    g = Graph()
    x = g.input("x", 1, channels, side, side)
    weights = g.constant(np.eye(channels).reshape(channels, channels, 1, 1), "int8")
    same = g.op("DequantizeLinear", weights, g.constant(1.0), g.constant(0, "int8"))
    real = quantised(g, g.op("Conv", quantised(g, x), same))
    model = g.model(quantised(g, g.op("GlobalAveragePool", real), _OUT_SCALE / 64, _OUT_ZERO))
    operators, path = kernels(model, tmp_path)
    assert "sum" in operators
    assert "mean" not in operators
    rng = np.random.default_rng(0)
    data = rng.uniform(-4, 4, (1, channels, side, side)).astype(np.float32)
    codes = np.clip(np.rint(data / np.float32(_SCALE)) + _ZERO, 0, 255).astype(np.float64)
    exact = (codes - _ZERO).mean(axis=(2, 3), keepdims=True) * np.float32(_SCALE)
    step = np.float32(_OUT_SCALE / 64)
    expected = (np.clip(np.rint(exact / step) + _OUT_ZERO, 0, 255) - _OUT_ZERO) * step
    got = ofa_tvm.load(path)(data)
    assert np.abs(np.rint((got - expected) / step)).max() <= 1  # a tie
    assert (np.abs(got - expected) > step / 2).mean() < 0.1


def test_what_is_no_function_of_one_byte_is_computed(tmp_path: Path) -> None:
    """Products of two maps, of a map with numbers of its channels, and sums over positions."""
    g = Graph()
    x = g.input("x", 1, 16, 4, 4)
    real, other = quantised(g, x), quantised(g, x, 0.0523, 90)
    by_channel = g.constant(np.linspace(-1, 1, 16).reshape(1, 16, 1, 1))
    results = [
        g.op("Mul", real, other),
        g.op("Mul", real, by_channel),
        g.op("Add", real, g.op("GlobalAveragePool", real)),
    ]
    model = g.model(*(quantised(g, y, _OUT_SCALE, _OUT_ZERO) for y in results))
    operators, path = kernels(model, tmp_path)
    assert "lookup" not in operators
    data = np.random.default_rng(0).uniform(-4, 4, (1, 16, 4, 4)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for got, expected in zip(ofa_tvm.load(path)(data), session.run(None, {"x": data}), strict=True):
        assert np.abs(got - expected).max() <= 1.01 * _OUT_SCALE


def test_cpus_without_the_instruction_compute(tmp_path: Path) -> None:
    g = Graph()
    model = g.model(quantised(g, g.op("HardSwish", quantised(g, g.input("x", 1, 16, 4, 4)))))
    assert "lookup" not in kernels(model, tmp_path, "x86-64-v4")[0]

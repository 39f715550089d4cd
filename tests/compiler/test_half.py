"""float16 as a setting: close to float32, with float32 at the network's edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from emulated import arm_target
from onnx_models import Builder, Graph, mlp, random_inputs, reference, residual_network, swishes
from onnxruntime.transformers.float16 import convert_float_to_float16

import ofa_tvm
from ofa_tvm.compiler.templates import templates_of
from ofa_tvm.targets import get_target
from ofa_tvm.targets.target import Target


@pytest.mark.parametrize("build", [mlp, residual_network, swishes], ids=lambda build: build.__name__)
def test_is_close_to_float32_but_not_equal(build: Builder, tmp_path: Path) -> None:
    model = build()
    before = model.SerializeToString()
    ofa_tvm.compile(model, get_target("x86"), tmp_path / "m.so", dtype="float16")
    assert model.SerializeToString() == before
    arrays = random_inputs(model)
    run = ofa_tvm.load(tmp_path / "m.so")
    got, expected = run(*arrays), reference(model, arrays)[0]
    assert run.metadata["target"]["dtype"] == "float16"
    assert isinstance(got, np.ndarray)
    assert got.dtype == np.float32
    difference = np.abs(got - expected).max() / np.abs(expected).max()
    assert 0 < difference < 1e-2


def test_a_descriptor_keeps_it(tmp_path: Path) -> None:
    half = get_target("cuda").with_dtype("float16")
    assert half.to_descriptor()["dtype"] == "float16"
    assert "dtype" not in get_target("cuda").to_descriptor()
    assert Target.from_json(half.to_json()) == half


@pytest.mark.slow
def test_arm_computes_in_vectors_of_eight(tmp_path: Path) -> None:
    """Half the instructions of float32, by the emulator's exact count, and ONNX Runtime's result."""
    counts = {}
    model = residual_network(24)
    arrays = random_inputs(model)
    expected = reference(model, arrays)[0]
    for dtype in ("float32", "float16"):
        target = arm_target("cortex-a76").with_dtype(dtype)
        so = tmp_path / f"{dtype}.so"
        ofa_tvm.compile(model, target, so)
        difference = np.abs(ofa_tvm.load(so, target)(*arrays) - expected).max() / np.abs(expected).max()
        assert difference < {"float32": 1e-5, "float16": 2e-2}[dtype]
        counts[dtype] = ofa_tvm.measure(so, target).cost
    assert counts["float16"] < 0.75 * counts["float32"]


def test_arm_without_half_arithmetic_adds_in_float32() -> None:
    assert templates_of(get_target("neoverse-n1").tvm_target()).lanes("float16") == 8
    assert templates_of(get_target("cortex-a72").tvm_target()).lanes("float16") == 4
    assert not templates_of(get_target("cortex-a72").tvm_target()).sums_in_half


def reductions_of(height: int, width: int, seed: int) -> tuple[onnx.ModelProto, np.ndarray]:
    """Every kind of sum over a map of positive values, behind a convolution and alone."""
    g = Graph(seed)
    x = g.input("x", 1, 16, height, width)
    pixels = g.constant([2, 3], "int64")
    y = g.conv(x, 16, 16, 1, bias=False)
    kernel = {"kernel_shape": [min(height, 7), min(width, 7)]}
    mean = g.op("ReduceMean", x, pixels)
    centred = g.op("Sub", x, mean)
    square = g.op("ReduceMean", g.op("Pow", centred, g.constant(2.0)), pixels)
    spread = g.op("Sqrt", g.op("Add", square, g.constant(1e-12)))
    flat = g.op("Reshape", x, g.constant([1, 16 * height * width], "int64"))
    ones, zeros = g.constant(np.ones(16)), g.constant(np.zeros(16))
    model = g.model(
        g.op("GlobalAveragePool", x),
        g.op("GlobalAveragePool", y),
        mean,
        g.op("ReduceL2", x, pixels),
        g.op("ReduceSumSquare", g.op("Mul", x, g.constant(0.01)), pixels),
        g.op("AveragePool", x, **kernel),
        g.op("InstanceNormalization", x, ones, zeros),
        g.op("Div", centred, spread),
        g.op("Div", g.op("Mul", centred, centred), g.constant(1e4)),
        g.op("Softmax", g.op("Mul", flat, g.constant(0.0)), axis=1),
        g.op("Mul", x, g.op("HardSigmoid", g.op("GlobalAveragePool", x))),
    )
    return model, np.random.default_rng(seed).uniform(10, 80, (1, 16, height, width)).astype(np.float32)


def assert_close_in_half(
    model: onnx.ModelProto, arrays: list[np.ndarray], target: Target, so: Path, tolerance: float = 4e-3
) -> None:
    ofa_tvm.compile(model, target, so, dtype="float16")
    outputs = ofa_tvm.load(so, target)(*arrays)
    expected = reference(model, arrays)
    for got, want in zip(outputs if isinstance(outputs, tuple) else [outputs], expected, strict=True):
        assert np.isfinite(got).all()
        assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x86", "cortex-a72", "cortex-a76"])
def test_sums_are_those_of_float32(name: str, tmp_path: Path) -> None:
    """Half precision counts to 2048 and ends at 65504; an average of 112 x 112 pixels of 40 needs more."""
    target = arm_target(name) if name.startswith("cortex") else get_target(name)
    for seed, (height, width) in enumerate([(112, 112), (28, 31)] if name == "x86" else [(40, 40)]):
        model, x = reductions_of(height, width, seed)
        assert_close_in_half(model, [x], target, tmp_path / "m.so")


def test_squares_beyond_float16_pass_between_float32_operators(tmp_path: Path) -> None:
    """A layer normalisation spelled out behind a product: 300 squared is more than float16 holds."""
    g = Graph()
    y = g.op("MatMul", g.input("x", 6, 16), g.constant(np.eye(16) * 300))
    last = g.constant([1], "int64")
    centred = g.op("Sub", y, g.op("ReduceMean", y, last))
    variance = g.op("ReduceMean", g.op("Pow", centred, g.constant(2.0)), last)
    normal = g.op("Div", centred, g.op("Sqrt", g.op("Add", variance, g.constant(1e-5))))
    model = g.model(normal, g.op("MatMul", normal, g.constant(np.eye(16))), variance)
    x = np.random.default_rng(0).standard_normal((6, 16)).astype(np.float32)
    assert_close_in_half(model, [x], get_target("x86"), tmp_path / "m.so")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x86", "cortex-a72", "cortex-a76"])
def test_long_products(name: str, tmp_path: Path) -> None:
    g = Graph()
    x, y = g.input("x", 1, 4096, 2, 2), g.input("y", 1, 384, 3, 3)
    flat = g.op("Reshape", g.op("GlobalAveragePool", x), g.constant([1, 4096], "int64"))
    weights = [np.full(shape, 0.4) for shape in ((16, 4096, 1, 1), (5, 4096, 1, 1), (16, 384, 3, 3))]
    model = g.model(
        g.op("Conv", x, g.constant(weights[0])),
        g.op("Conv", x, g.constant(weights[1])),
        g.op("Conv", y, g.constant(weights[2])),
        g.op("Conv", y, g.constant(np.full((384, 1, 3, 3), 0.4)), group=384),
        g.op("Gemm", flat, g.constant(np.full((4096, 10), 0.4))),
        g.op("Gemm", flat, g.constant(np.full((4096, 3), 0.4))),
    )
    target = arm_target(name) if name.startswith("cortex") else get_target(name)
    arrays = [np.ones(shape, np.float32) for shape in ((1, 4096, 2, 2), (1, 384, 3, 3))]
    # Blocks of 128 equal terms are off by up to 1.5 % where float16 is what a processor adds in.
    tolerance = 1.5e-2 if name == "cortex-a76" else 1e-3
    assert_close_in_half(model, arrays, target, tmp_path / "m.so", tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_model_that_is_in_float16(dtype: str, tmp_path: Path) -> None:
    """It is computed in the target's type; its inputs and outputs keep theirs."""
    model, x = reductions_of(56, 56, 3)
    exported = convert_float_to_float16(model, op_block_list=[])
    ofa_tvm.compile(exported, get_target("x86"), tmp_path / "m.so", dtype=dtype)
    run = ofa_tvm.load(tmp_path / "m.so")
    assert {spec.dtype for spec in (*run.inputs, *run.outputs)} == {"float16"}
    rounded = x.astype(np.float16)
    for got, want in zip(run(rounded), reference(model, [rounded.astype(np.float32)]), strict=True):
        assert got.dtype == np.float16
        within = np.abs(want) < 6e4  # what float16 can hold
        assert np.isfinite(got[within]).all()
        assert np.abs(got - want)[within].max(initial=0) <= 4e-3 * np.abs(want).max()


def test_a_model_in_float16_that_rounds_twice_in_a_row(tmp_path: Path) -> None:
    """As ONNX's own Attention does around its mask: float32 to float16 and back, twice."""
    g = Graph()
    x = g.op("Cast", g.input("x", 4, 8), to=onnx.TensorProto.FLOAT16)
    y = g.op("MatMul", x, g.op("Cast", g.weight(8, 8), to=onnx.TensorProto.FLOAT16))
    y = g.op("Add", g.op("Cast", y, to=onnx.TensorProto.FLOAT), g.weight(4, 8))
    y = g.op("Cast", g.op("Cast", y, to=onnx.TensorProto.FLOAT16), to=onnx.TensorProto.FLOAT)
    model = g.model(g.op("Softmax", g.op("Add", g.op("Exp", y), g.weight(4, 8))))
    inputs = random_inputs(model)
    ofa_tvm.compile(model, get_target("x86").with_dtype("float16"), tmp_path / "m.so")
    got = ofa_tvm.load(tmp_path / "m.so")(*inputs)
    np.testing.assert_allclose(got, reference(model, inputs)[0], rtol=0, atol=1e-2)

"""float16 weights of one-row products beside float32 maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from emulated import arm_target
from onnx_models import Graph

import ofa_tvm
from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.targets import get_target

DEPTH, WIDTH = 96, 80


def product(weights: np.ndarray, rows: int = 1) -> onnx.ModelProto:
    graph = Graph()
    x = graph.input("x", rows, weights.shape[0])
    return graph.model(graph.op("MatMul", x, graph.constant(weights)))


def compiled(model: onnx.ModelProto, path: Path, target: str = "x86-64-v3") -> ofa_tvm.Runner:
    ofa_tvm.compile(model, get_target(target), path, weights="float16")
    return ofa_tvm.load(path)


def test_is_the_product_with_rounded_weights(tmp_path: Path, rng: np.random.Generator) -> None:
    weights = rng.standard_normal((DEPTH, WIDTH)).astype(np.float32)
    x = rng.standard_normal((1, DEPTH)).astype(np.float32)
    run = compiled(product(weights), tmp_path / "m.so")
    rounded = weights.astype(np.float16).astype(np.float64)
    np.testing.assert_allclose(run(x), x.astype(np.float64) @ rounded, rtol=1e-4, atol=1e-4)
    assert np.abs(run(x) - x @ weights).max() > 1e-4
    assert run.metadata["target"]["dtype"] == "float16-weights"


def test_weights_beyond_its_range_are_cut(tmp_path: Path) -> None:
    weights = np.full((DEPTH, WIDTH), 1e6, np.float32)
    x = np.zeros((1, DEPTH), np.float32)
    x[0, 0] = -1
    np.testing.assert_array_equal(compiled(product(weights), tmp_path / "m.so")(x), -65504)


def test_products_of_many_rows_stay_float32(tmp_path: Path, rng: np.random.Generator) -> None:
    """They are bound by arithmetic, which halved weights would only slow down."""
    weights = rng.standard_normal((DEPTH, WIDTH)).astype(np.float32)
    x = rng.standard_normal((16, DEPTH)).astype(np.float32)
    model = product(weights, rows=16)
    narrow = compiled(model, tmp_path / "half.so")
    ofa_tvm.compile(model, get_target("x86-64-v3"), tmp_path / "single.so")
    np.testing.assert_array_equal(narrow(x), ofa_tvm.load(tmp_path / "single.so")(x))


def test_the_library_is_half_as_large(tmp_path: Path, rng: np.random.Generator) -> None:
    model = product(rng.standard_normal((1024, 1024)).astype(np.float32))
    compiled(model, tmp_path / "half.so")
    ofa_tvm.compile(model, get_target("x86-64-v3"), tmp_path / "single.so")
    saved = (tmp_path / "single.so").stat().st_size - (tmp_path / "half.so").stat().st_size
    assert abs(saved - 2 * 1024 * 1024) < 1 << 16


@pytest.mark.parametrize("target", ["x86-64-v2", "opencl"])
def test_targets_that_cannot_read_it_say_so(target: str, tmp_path: Path) -> None:
    model = product(np.ones((DEPTH, WIDTH), np.float32))
    with pytest.raises(UserError, match="float16-weights is for CPUs that read float16"):
        ofa_tvm.compile(model, get_target(target), tmp_path / "m.so", weights="float16")


def test_other_weights_are_refused(tmp_path: Path) -> None:
    model = product(np.ones((DEPTH, WIDTH), np.float32))
    with pytest.raises(UsageError, match="weights are None or 'float16'"):
        ofa_tvm.compile(model, get_target("x86"), tmp_path / "m.so", weights="int4")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="beside float32 maps"):
        ofa_tvm.compile(model, get_target("x86"), tmp_path / "m.so", dtype="float16", weights="float16")


def test_an_emulated_arm_reads_it(tmp_path: Path, rng: np.random.Generator) -> None:
    weights = rng.standard_normal((DEPTH, WIDTH)).astype(np.float32)
    x = rng.standard_normal((1, DEPTH)).astype(np.float32)
    target = arm_target("cortex-a53")
    ofa_tvm.compile(product(weights), target, tmp_path / "m.so", weights="float16")
    expected = x @ weights.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(ofa_tvm.load(tmp_path / "m.so", target)(x), expected, rtol=1e-4, atol=1e-4)

"""Softmax, normalisations and reductions: right to float32's precision, all scheduled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx_models import Graph

import ofa_tvm
from ofa_tvm.compiler import row_schedules
from ofa_tvm.compiler.build import kernels_of, lower_onnx
from ofa_tvm.compiler.cpu_model import cpu_model
from ofa_tvm.logs import KernelTable
from ofa_tvm.targets import get_target

EPSILON = 1e-5
Reference = Callable[[np.ndarray], np.ndarray]


def run(g: Graph, x: np.ndarray, folder: Path, target: str = "x86") -> np.ndarray:
    path = folder / "m.so"
    made = ofa_tvm.compile(g.finished(), get_target(target), path, records=KernelTable())
    assert {use.origin for use in made.kernels} == {"default"}, list(made.kernels)
    return np.asarray(ofa_tvm.load(path)(x))


def normalised(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + EPSILON)


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("length", [5, 16, 100, 197, 768])
def test_layer_norm(length: int, offset: float, tmp_path: Path) -> None:
    """With a large mean as well, where E[x^2] - E[x]^2 has no digits left."""
    x = (np.random.default_rng(0).standard_normal((2, 7, length)) + offset).astype(np.float32)
    g = Graph()
    scale, bias = g.weight(length), g.weight(length)
    g.finish(g.op("LayerNormalization", g.input("x", *x.shape), scale, bias, axis=-1, epsilon=EPSILON))
    gamma, beta = (np.frombuffer(t.raw_data, np.float32) for t in g.initializers)
    expected = normalised(x.astype(np.float64), (-1,)) * gamma + beta
    np.testing.assert_allclose(run(g, x, tmp_path), expected, atol=5e-6 if offset == 0 else 5e-4)


@pytest.mark.parametrize(
    ("shape", "axis"), [((3, 197, 197), -1), ((64, 1000), -1), ((2, 7), -1), ((2, 80, 9, 9), 1)]
)
@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
def test_softmax(kind: str, shape: tuple[int, ...], axis: int, tmp_path: Path) -> None:
    x = (10 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)
    g = Graph()
    g.finish(g.op(kind, g.input("x", *shape), axis=axis))
    expected = softmax(x.astype(np.float64), axis)
    expected = expected if kind == "Softmax" else np.log(expected)
    # x - max has the rounding error of 40, which is a relative one of its exponential.
    np.testing.assert_allclose(
        run(g, x, tmp_path), expected, rtol=5e-6, atol=0 if kind == "Softmax" else 1e-6
    )


def test_softmax_of_what_is_no_number(tmp_path: Path) -> None:
    x = np.zeros((3, 100), np.float32)
    x[0, 3], x[1, 5] = np.nan, -np.inf
    g = Graph()
    g.finish(g.op("Softmax", g.input("x", *x.shape), axis=-1))
    got = run(g, x, tmp_path)
    assert np.isnan(got[0]).all()
    np.testing.assert_allclose(got[1], np.where(np.arange(100) == 5, 0, 1 / 99), rtol=1e-6)
    np.testing.assert_allclose(got[2], 0.01, rtol=1e-6)


@pytest.mark.parametrize("within", [False, True], ids=["alone", "behind a convolution"])
def test_instance_norm(within: bool, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((2, 24, 13, 11)).astype(np.float32)
    g = Graph()
    node = g.input("x", *x.shape)
    if within:  # in channels-last form, by a convolution that changes nothing
        node = g.op("Conv", node, g.constant(np.eye(24).reshape(24, 24, 1, 1)))
    ones, zeros = g.constant(np.ones(24)), g.constant(np.zeros(24))
    g.finish(g.op("InstanceNormalization", node, ones, zeros, epsilon=EPSILON))
    np.testing.assert_allclose(run(g, x, tmp_path), normalised(x.astype(np.float64), (2, 3)), atol=5e-6)


REDUCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "ReduceMean": np.mean,
    "ReduceSum": np.sum,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
}


@pytest.mark.parametrize("axes", [(-1,), (1,), (2, 3), (0, 1, 2, 3), (1, 3)], ids=str)
@pytest.mark.parametrize("kind", REDUCTIONS)
def test_reductions(kind: str, axes: tuple[int, ...], tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((2, 12, 10, 37)).astype(np.float32)
    g = Graph()
    g.finish(g.op(kind, g.input("x", *x.shape), g.constant(axes, "int64"), keepdims=0))
    # Values of both signs cancel: a sum is as exact as the sum of their sizes.
    sizes = float(np.abs(x).sum(axes).max()) if kind == "ReduceSum" else 1.0
    np.testing.assert_allclose(
        run(g, x, tmp_path),
        REDUCTIONS[kind](x.astype(np.float64), axes),
        rtol=1e-6,
        atol=max(1e-6, 1e-8 * sizes),
    )


@pytest.mark.parametrize("target", ["x86-64-v2", "x86-64-v3", "x86-64-v4", "cortex-a72"])
@pytest.mark.parametrize("width", [9, 17, 37])
def test_channels_in_front_of_pictures_compile_for_every_vector_unit(
    width: int, target: str, tmp_path: Path
) -> None:
    g = Graph()
    g.finish(g.op("LogSoftmax", g.input("x", 2, 20, 3, width), axis=1))
    made = ofa_tvm.compile(g.finished(), get_target(target), tmp_path / "m.so", records=KernelTable())
    assert {use.origin for use in made.kernels} == {"default"}


@pytest.mark.parametrize("target", ["x86-64-v2", "x86-64-v3", "x86-64-v4", "cortex-a72"])
def test_rows_are_scheduled_for_every_vector_unit(target: str) -> None:
    """At a row's loop, with its reductions in vectors, and with no more work than the plain kernel has."""
    described = get_target(target).tvm_target()
    machine = cpu_model(described)
    for length in (192, 197):
        g = Graph()
        g.finish(g.op("LayerNormalization", g.input("x", 49, length), g.weight(length), g.weight(length)))
        (kernel,) = kernels_of(lower_onnx(g.finished(), get_target(target))).values()
        sch = row_schedules.scheduled(kernel.mod, machine)
        assert sch is not None
        loops = sch.get_loops(sch.get_sblock("block0_update"))
        assert int(sch.get(loops[0]).extent) == 49
        assert sch.mod["main"].script().count("T.vectorized") >= 4

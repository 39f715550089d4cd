"""exp, log, sigmoid, tanh and erf: within 2 ulp for every exponent, in vectors, NaN and infinities right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tvm
from emulated import arm_target
from onnx_models import Graph, reference
from places import runnable
from scipy import special
from tvm import te, tirx
from tvm.s_tir import Schedule

import ofa_tvm
from ofa_tvm.compiler.cpu_model import cpu_model
from ofa_tvm.compiler.elementary import FUNCTIONS
from ofa_tvm.logs import KernelTable
from ofa_tvm.targets import Target, get_target

EXACT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exp": np.exp,
    "log": np.log,
    "sigmoid": special.expit,
    "tanh": np.tanh,
    "erf": special.erf,
}
SPECIAL = np.array(
    [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 88.722839, 88.72284, -103.97, -87.4] * 64
)


def inputs(count: int) -> np.ndarray:
    """Bit patterns spread over all float32 (every exponent and sign), where functions bend, special ones."""
    bits = np.linspace(0, 2**32 - 1, count).astype(np.uint64).astype(np.uint32)
    rng = np.random.default_rng(0)
    middle = [rng.uniform(-bound, bound, count // 2) for bound in (1, 5, 110)]
    with np.errstate(invalid="ignore"):  # signalling NaN
        values = np.concatenate([bits.view(np.float32), *middle, SPECIAL]).astype(np.float32)
    return values[-(len(values) // 64 * 64) :]


def assert_within_two_ulp(name: str, x: np.ndarray, got: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        exact = EXACT[name](x.astype(np.float64))
        rounded = exact.astype(np.float32)
        ulps = np.abs(got.astype(np.float64) - exact) / np.spacing(np.abs(rounded)).astype(np.float64)
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(got[~finite], rounded[~finite])
    worst = int(np.argmax(np.where(finite, ulps, 0)))
    assert ulps[worst] <= 2, f"{name}({x[worst]!r}) = {got[worst]!r}, {ulps[worst]:.2f} ulp off"
    assert np.isfinite(got[finite]).all()


def built(name: str, count: int, target: Target, dtype: str = "float32") -> tvm.runtime.Module:
    lanes = cpu_model(target.tvm_target(), dtype).lanes
    x = te.placeholder((count,), dtype, name="x")
    y = te.compute((count,), lambda i: getattr(tirx, name)(x[i]))
    sch = Schedule(te.create_prim_func([x, y]))
    (block,) = sch.get_child_blocks(sch.get_sblock("root"))
    (loop,) = sch.get_loops(block)
    sch.vectorize(sch.split(loop, [None, lanes])[1])
    return tvm.compile(sch.mod, target=target.tvm_target())


@pytest.mark.parametrize("level", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_within_two_ulp(name: str, level: str) -> None:
    target = runnable(level)
    x = inputs(1 << 18)
    library = built(name, len(x), target)
    source, result = tvm.runtime.tensor(x), tvm.runtime.tensor(np.empty_like(x))
    library["main"](source, result)
    assert_within_two_ulp(name, x, result.numpy())
    assert f"{name}f" not in library.mod.inspect_source("asm"), "a call of the C library for every value"


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_other_precisions(name: str, dtype: str) -> None:
    x = np.linspace(0.1, 8, 64).astype(dtype)
    source, result = tvm.runtime.tensor(x), tvm.runtime.tensor(np.empty_like(x))
    built(name, len(x), get_target("x86"), dtype)["main"](source, result)
    np.testing.assert_allclose(
        result.numpy(), EXACT[name](x.astype(np.float64)), rtol=2 * np.finfo(dtype).eps
    )


@pytest.mark.parametrize("kind", ["Elu", "Softplus", "Celu"])
def test_of_a_number(kind: str, tmp_path: Path) -> None:
    """A difference of a value and itself is one to TVM's simplifier."""
    g = Graph()
    x = g.op("Softmax", g.input("x", 1, 2, 2, 2), axis=1)
    y = g.op(kind, g.op("Sub", x, x))
    model = g.model(g.op("Mul", y, g.op("Clip", y, g.constant(-0.5), g.constant(1.5))), y)
    ofa_tvm.compile(model, get_target("x86"), tmp_path / "m.so", records=KernelTable())
    array = np.random.default_rng(0).standard_normal((1, 2, 2, 2)).astype(np.float32)
    for got, want in zip(ofa_tvm.load(tmp_path / "m.so")(array), reference(model, [array]), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_on_arm(tmp_path: Path) -> None:
    """The same values from AArch64 code, emulated."""
    x = inputs(1 << 14)
    g = Graph()
    node = g.input("x", len(x))
    operators = {name: {"sigmoid": "Sigmoid"}.get(name, name.capitalize()) for name in FUNCTIONS}
    g.finish(*[g.op(operators[name], node) for name in FUNCTIONS])
    ofa_tvm.compile(g.finished(), arm_target(), tmp_path / "m.so", records=KernelTable())
    for name, got in zip(FUNCTIONS, ofa_tvm.load(tmp_path / "m.so")(x), strict=True):
        assert_within_two_ulp(name, x, got)


@pytest.mark.parametrize("exponent", [2, 3, -1])
def test_small_powers_are_products(exponent: int, tmp_path: Path) -> None:
    x = np.concatenate([np.linspace(-3, 3, 61), [np.inf, -np.inf, np.nan]]).astype(np.float32)
    g = Graph()
    g.finish(g.op("Pow", g.input("x", len(x)), g.constant(np.float32(exponent))))
    ofa_tvm.compile(g.finished(), get_target("x86"), tmp_path / "m.so", records=KernelTable())
    with np.errstate(all="ignore"):
        expected = x.astype(np.float64) ** exponent
    np.testing.assert_allclose(ofa_tvm.load(tmp_path / "m.so")(x), expected, rtol=3e-7)


def test_functions_of_functions_are_kernels_of_their_own(tmp_path: Path) -> None:
    """In one kernel, code generation would take time that doubles with every function."""
    g = Graph()
    x = y = g.input("x", 1, 16, 4, 4)
    for kind in ("Sigmoid", "Tanh", "Exp", "Erf", "Sigmoid", "Softplus", "Tanh"):
        y = g.op(kind, y)
    model = g.model(y, g.op("Mul", x, g.op("Tanh", g.op("Softplus", x))))
    compiled = ofa_tvm.compile(model, get_target("x86"), tmp_path / "m.so")
    assert len(compiled.kernels) >= 7
    array = np.random.default_rng(0).standard_normal((1, 16, 4, 4)).astype(np.float32)
    for got, want in zip(ofa_tvm.load(tmp_path / "m.so")(array), reference(model, [array]), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)

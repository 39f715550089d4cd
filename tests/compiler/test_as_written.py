"""What TVM's simplifier takes for granted of whole numbers is not done to floats: NaN, infinity, rounding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx_models import Graph
from tvm import tirx

import ofa_tvm
from ofa_tvm.compiler.objects import code_key
from ofa_tvm.targets import get_target

X = np.array([-np.inf, -3, -0.0, 0, 1, np.inf, np.nan, 1e-45, 2, 7], np.float32)
Z = np.array([1, 2, 3, np.nan, 1, 5, 6, -2, np.nan, 7], np.float32)
Array = np.ndarray
Case = tuple[Callable[[Graph, str, str], str], Callable[[Array, Array], Array]]

CASES: dict[str, Case] = {
    "rounding by a large number": (
        lambda g, x, z: g.op("Sub", g.op("Add", x, k := g.constant(12582912.0)), k),
        lambda x, z: (x + np.float32(12582912)) - np.float32(12582912),
    ),
    "(x + z) - z": (lambda g, x, z: g.op("Sub", g.op("Add", x, z), z), lambda x, z: (x + z) - z),
    "x - (x + z)": (lambda g, x, z: g.op("Sub", x, g.op("Add", x, z)), lambda x, z: x - (x + z)),
    "t - t": (lambda g, x, z: g.op("Sub", t := g.op("Add", x, z), t), lambda x, z: (x + z) - (x + z)),
    "0 x": (lambda g, x, z: g.op("Mul", g.op("Add", x, z), g.constant(0.0)), lambda x, z: (x + z) * 0),
    "0 / x": (lambda g, x, z: g.op("Div", g.constant(0.0), x), lambda x, z: np.float32(0) / x),
    "slope of zero": (
        lambda g, x, z: g.op("LeakyRelu", x, alpha=0.0),
        lambda x, z: np.where(x < 0, x * 0, x),
    ),
    "maximum with NaN": (lambda g, x, z: g.op("Max", x, g.constant(np.nan)), lambda x, z: x * np.nan),
    "sign": (lambda g, x, z: g.op("Sign", x), lambda x, z: np.sign(x)),
    "not <": (lambda g, x, z: g.op("Not", g.op("Less", x, z)), lambda x, z: ~(x < z)),
    "not (< and >)": (
        lambda g, x, z: g.op(
            "Not", g.op("And", g.op("Less", x, z), g.op("Greater", x, g.constant(0.0)))
        ),
        lambda x, z: ~((x < z) & (x > 0)),
    ),
    "< or >=": (
        lambda g, x, z: g.op("Or", g.op("Less", x, z), g.op("GreaterOrEqual", x, z)),
        lambda x, z: (x < z) | (x >= z),
    ),
    "t == t": (lambda g, x, z: g.op("Equal", t := g.op("Add", x, z), t), lambda x, z: ~np.isnan(x + z)),
    "choice in a choice": (
        lambda g, x, z: g.op(
            "Where",
            g.op("LessOrEqual", x, one := g.constant(1.0)),
            x,
            g.op("Where", g.op("Greater", x, one), z, g.constant(9.0)),
        ),
        lambda x, z: np.where(x <= 1, x, np.where(x > 1, z, np.float32(9))),
    ),
}  # fmt: skip


def test_floats_are_computed_as_written(tmp_path: Path) -> None:
    g = Graph()
    x, z = g.input("x", X.size), g.input("z", X.size)
    model = g.model(*(make(g, x, z) for make, _ in CASES.values()))
    ofa_tvm.compile(model, get_target("x86-64-v3"), tmp_path / "n.so")
    with np.errstate(all="ignore"):
        for name, got in zip(CASES, ofa_tvm.load(tmp_path / "n.so")(X, Z), strict=True):
            np.testing.assert_array_equal(got, CASES[name][1](X, Z), err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_positions_are_of_the_first_or_last_extreme_and_of_nan_before_all(dtype: str, tmp_path: Path) -> None:
    rows = np.array([[1, 3, 3, 0], [5, 5, 5, 5], [7, 7, 0, 0]], dtype)
    if dtype == "float32":
        rows = np.concatenate([rows, [[1, np.nan, 9, np.nan], [-np.inf] * 4, [np.inf] * 4]]).astype(dtype)
    else:
        rows = np.concatenate([rows, [[np.iinfo(dtype).min] * 4, [np.iinfo(dtype).max] * 4]]).astype(dtype)
    g = Graph()
    x = g.input("x", *rows.shape, dtype=dtype)
    kinds = [(kind, last) for kind in ("ArgMax", "ArgMin") for last in (0, 1)]
    outputs = [g.op(kind, x, axis=1, keepdims=0, select_last_index=last) for kind, last in kinds]
    ofa_tvm.compile(g.model(*outputs), get_target("x86-64-v3"), tmp_path / "n.so")
    for (kind, last), got in zip(kinds, ofa_tvm.load(tmp_path / "n.so")(rows), strict=True):
        find = np.argmax if kind == "ArgMax" else np.argmin
        wanted = 3 - find(rows[:, ::-1], 1) if last else find(rows, 1)
        np.testing.assert_array_equal(got, wanted, err_msg=f"{kind} {last}")


def test_code_of_other_numbers_has_another_name() -> None:
    """TVM's structural hash is the same for some of these: one network's object became another's."""

    def clipped(low: float, high: float) -> tirx.PrimFunc:
        x, y = (tirx.decl_buffer((8,), "float32", name) for name in "xy")
        i = tirx.Var("i", "int32")
        value = tirx.max(tirx.FloatImm("float32", low), tirx.min(tirx.FloatImm("float32", high), x[i]))
        body = tirx.For(i, 0, 8, tirx.ForKind.SERIAL, tirx.BufferStore(y, value, [i]))
        return tirx.PrimFunc([x, y], body)

    numbers = [0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 6.0, np.inf, -np.inf]
    keys = {code_key(clipped(low, high)) for low in numbers for high in numbers}
    assert len(keys) == len(numbers) ** 2
    assert code_key(clipped(0.0, 6.0)) == code_key(clipped(0.0, 6.0))

"""Operators on single elements, at the values where they are easily got wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from node_models import Array, Case, assert_right, by_reference, merged

import ofa_tvm
from ofa_tvm.targets import get_target

EXTREME = np.array([-np.inf, -1e30, -100, -15, -1, -0.0, 0, 1e-6, 0.5, 3, 90, 1e30, np.inf], np.float32)


def values(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_infinities_by_sign(tmp_path: Path) -> None:
    x = np.array([1, np.inf, -np.inf, np.nan, 0], np.float32)
    assert_right(
        [
            Case("IsInf", [x], attributes={"detect_positive": up, "detect_negative": down})
            for up in (0, 1)
            for down in (0, 1)
        ],
        tmp_path,
        opset=20,
    )


def test_activations_at_extremes(tmp_path: Path) -> None:
    finite = EXTREME[1:-1]
    cases = [Case("Elu", [EXTREME], attributes={"alpha": 1.5}), Case("Selu", [EXTREME])]
    cases += [Case("ThresholdedRelu", [EXTREME], attributes={"alpha": a}) for a in (-2.0, 0.7)]
    cases += [Case("Celu", [finite], attributes={"alpha": 2.0}), Case("Mish", [finite])]
    cases += [Case("Softplus", [finite]), Case("PRelu", [values(2, 3, 4), values(3, 1)])]
    cases += [Case("PRelu", [values(2, 3, 4), values(4)]), Case("PRelu", [values(2, 3, 4), values(1)])]
    assert_right(cases, tmp_path)


def test_softplus_and_mish_are_exact_where_they_are_small(tmp_path: Path) -> None:
    x = np.linspace(-30, -5, 26, dtype=np.float32)
    for case in (Case("Softplus", [x]), Case("Mish", [x])):
        assert_right([case], tmp_path, tolerance=1e-5, scaled=False, reference=_in_double)


def _in_double(case: Case, opset: int) -> list[Array]:
    x = case.fed()[0].astype(np.float64)
    y = np.log1p(np.exp(x))
    return [(y if case.kind == "Softplus" else x * np.tanh(y)).astype(np.float32)]


def test_swish(tmp_path: Path) -> None:
    cases = [Case("Swish", [values(3, 5)], attributes={"alpha": a}) for a in (1.0, 1.7)]
    assert_right(cases, tmp_path, opset=24, reference=by_reference)


def test_remainders(tmp_path: Path) -> None:
    x = np.array([-7, -4, 4, 7, 5, -5, 0, -3], np.int32)
    y = np.array([3, -3, -3, 3, 5, 5, 2, -3], np.int32)
    f = np.array([-4.3, 7.2, 5.0, -4.3, 7.2, 5.0, 2.0, -2.0, -1.5, 1.5], np.float32)
    g = np.array([2.1, -3.4, 8.0, -2.1, 3.4, 5.0, np.inf, -np.inf, np.inf, -np.inf], np.float32)
    assert_right(
        [
            Case("Mod", [x, y]),
            Case("Mod", [x, y], attributes={"fmod": 1}),
            Case("Mod", [f, g], attributes={"fmod": 1}),
        ],
        tmp_path,
    )


def test_powers_of_mixed_types(tmp_path: Path) -> None:
    x = np.array([-2, -1.5, 0, 1, 3], np.float32)
    n = np.array([3, 2, 1, 0, 2])
    assert_right(
        [Case("Pow", [x, n.astype(t)]) for t in (np.float32, np.int32, np.int64)]
        + [Case("Pow", [x, np.array(k, t)], [1]) for k in (1, 2, 3, 4) for t in (np.float32, np.int64)]
        + [Case("Pow", [n, n]), Case("Pow", [n.astype(np.int32), n.astype(np.float32)])],
        tmp_path,
    )


def test_any_number_of_operands(tmp_path: Path) -> None:
    operands = [values(2, 1, 4), values(3, 1, seed=1), values(4, seed=2)]
    integers = [np.array([1, 5, -3]), np.array([[2], [0]])]
    cases = [Case(kind, operands) for kind in ("Max", "Min", "Sum", "Mean")]
    cases += [Case(kind, integers) for kind in ("Max", "Min")] + [Case("Sum", operands[:1])]
    assert_right(cases, tmp_path)


def test_dropout_keeps_everything(tmp_path: Path) -> None:
    assert_right([Case("Dropout", [values(2, 3), np.array(0.3, np.float32)], [1], 2)], tmp_path)


def test_bits_as_another_type(tmp_path: Path) -> None:
    to = {np.int32: 6, np.float32: 1, np.uint16: 4}
    cases = [
        Case("BitCast", [values(2, 3)], attributes={"to": to[np.int32]}),
        Case("BitCast", [values(2, 3).view(np.int32)], attributes={"to": to[np.float32]}),
        Case("BitCast", [np.array([-1, 2, 3], np.int16)], attributes={"to": to[np.uint16]}),
    ]
    assert_right(cases, tmp_path, opset=26, reference=by_reference)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_hyperbolic_functions(dtype: str, tmp_path: Path) -> None:
    """Relative to each value: near zero, where exponentials cancel, and up to where they overflow."""
    small = np.concatenate([np.logspace(-30, -0.0001, 200), [0.0, 0.5, 0.999]])
    large = np.concatenate([np.linspace(0.9, 1.1, 41), np.linspace(1, 89.3, 200), [np.inf]])
    wide = np.concatenate([small, -small, large, -large]).astype(dtype)
    narrow = np.concatenate([small, -small, [1.0, -1.0, 2.0]]).astype(dtype)
    for kind, x in (("Sinh", wide), ("Cosh", wide), ("Atanh", narrow)):
        function = {"Sinh": np.sinh, "Cosh": np.cosh, "Atanh": np.arctanh}[kind]
        ofa_tvm.compile(merged([Case(kind, [x])], 18), get_target("x86"), tmp_path / "m.so")
        with np.errstate(all="ignore"):
            expected = function(x.astype(np.longdouble)).astype(dtype)
        got = ofa_tvm.load(tmp_path / "m.so")(x)
        np.testing.assert_allclose(got, expected, rtol=8 * np.finfo(dtype).eps, err_msg=kind)
        np.testing.assert_array_equal(np.signbit(got[x == 0]), np.signbit(expected[x == 0]))

"""Channels that are padded to whole vectors never reach those of the network, whatever lies in between."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_models import Graph, reference

import ofa_tvm
from ofa_tvm.targets import get_target

WIDTHS = (1, 2, 3, 5, 7, 8, 9, 12, 15, 16, 17, 20, 23, 24, 31, 33, 40)
UNARY = (
    "Sqrt",
    "Log",
    "Exp",
    "Reciprocal",
    "Relu",
    "Sigmoid",
    "Tanh",
    "Neg",
    "Abs",
    "HardSwish",
    "Erf",
    "Floor",
)
BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow")


def convolution_of(g: Graph, x: str, c_in: int, c_out: int, kind: int) -> str:
    """A pointwise, dense, strided, grouped or depthwise convolution."""
    k, options = [(1, {}), (3, {}), (3, {"strides": [2, 2]}), (1, {"strides": [2, 2]})][kind % 4]
    return g.conv(x, c_in, c_out, k, **options)


def tamed(g: Graph, x: str) -> str:
    """Values between 0.5 and 1.5."""
    return str(g.op("Add", g.op("HardSigmoid", x), g.constant(0.5)))


def chain(g: Graph, x: str, width: int, rng: np.random.Generator) -> str:
    """Random elementwise operators on a map of `width` channels; its own channels stay tame."""
    squashed = tamed(g, x)
    first = squashed
    for _ in range(int(rng.integers(2, 6))):
        kind = rng.choice(UNARY + BINARY)
        if kind in UNARY:
            x = g.op(kind, squashed)
        else:
            values = rng.uniform(0.5, 2.0, [(), (1, width, 1, 1), (1, 1, 1, 1)][rng.integers(3)])
            shift = float(rng.choice([0.0, 100.0, -100.0]))
            other = first if rng.random() < 0.3 else g.constant(values)
            if kind in ("Add", "Sub") and shift and other != first:
                # Far away and back again: zero becomes what exp, log and sqrt cannot take.
                x = g.op(kind, g.op("Add", squashed, g.constant(shift)), g.constant(values + shift))
            else:
                pair = [squashed, other] if rng.random() < 0.7 or kind == "Pow" else [other, squashed]
                x = g.op(kind, *pair)
        squashed = tamed(g, x)
    return str(squashed)


def network(seed: int) -> onnx.ModelProto:
    """Pairs of convolutions with chains between them, for every width."""
    rng = np.random.default_rng(seed)
    g = Graph(seed)
    x = g.input("x", 1, 4, 6, 6)
    outputs = []
    for number, width in enumerate(WIDTHS[seed % 4 :: 4]):
        made = convolution_of(g, x, 4, width, int(rng.integers(2)))
        between = chain(g, made, width, rng)
        if rng.random() < 0.3:
            between = g.op("Mul", between, g.op("GlobalAveragePool", between))
        if rng.random() < 0.3:
            between = g.conv(between, width, width, 3, groups=width)
        outputs.append(convolution_of(g, between, width, int(rng.choice(WIDTHS)), number + seed))
    return g.model(*outputs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "name"), [(0, "x86"), (1, "x86"), (2, "x86"), (3, "x86"), (4, "x86-64-v3"), (5, "x86-64-v2")]
)
def test_chains_between_convolutions(seed: int, name: str, tmp_path: Path) -> None:
    model, target = network(seed), get_target(name)
    x = np.random.default_rng(seed).standard_normal((1, 4, 6, 6)).astype(np.float32)
    ofa_tvm.compile(model, target, tmp_path / "m.so")
    for got, expected in zip(ofa_tvm.load(tmp_path / "m.so")(x), reference(model, [x]), strict=True):
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=2e-4)


def shifted(kind: str, bias: float, shift: float) -> onnx.ModelProto:
    """Operators that are undefined or overflow where a padded channel is: zero, shifted."""
    g = Graph()
    x = g.input("x", 1, 8, 6, 6)
    outputs = []
    for width, k in itertools.product((24, 20), (1, 3)):
        weights = [g.weight(width, 8, 1, 1), g.constant(np.full(width, bias))]
        y = g.op("Add", g.op("Conv", x, *weights), g.constant(shift))
        outputs.append(g.conv(g.op(kind, y), width, 5 if k == 1 else 16, k))
    return g.model(*outputs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "bias", "shift"), [("Sqrt", 9, -1), ("Exp", -200, 200), ("Log", 9, -1), ("Reciprocal", 9, 0)]
)
def test_what_zero_becomes_does_not_matter(kind: str, bias: float, shift: float, tmp_path: Path) -> None:
    model = shifted(kind, bias, shift)
    x = 0.1 * np.random.default_rng(0).standard_normal((1, 8, 6, 6)).astype(np.float32)
    ofa_tvm.compile(model, get_target("x86"), tmp_path / "m.so")
    for got, expected in zip(ofa_tvm.load(tmp_path / "m.so")(x), reference(model, [x]), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_division_by_what_has_no_reciprocal(tmp_path: Path) -> None:
    g = Graph()
    x = g.input("x", 1, 8, 4, 4)
    y = g.conv(x, 8, 24)
    divisors = [1e-39, 1e39, 6.0, 0.0, np.inf, np.nan, 3e38]
    by_channel = g.constant(np.resize([6.0, 3.0, 1e-39], (1, 24, 1, 1)))
    model = g.model(
        *(g.op("Div", y, g.constant(value)) for value in divisors),
        *(g.op("Div", x, g.constant(value)) for value in divisors),
        g.op("Div", y, by_channel),
    )
    array = 1e-3 * np.random.default_rng(0).standard_normal((1, 8, 4, 4)).astype(np.float32)
    ofa_tvm.compile(model, get_target("x86"), tmp_path / "m.so")
    for got, expected in zip(ofa_tvm.load(tmp_path / "m.so")(array), reference(model, [array]), strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-5)

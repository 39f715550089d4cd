"""Recurrent layers, unrolled: directions, biases, initial states, peepholes, activations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from node_models import Array, Case, assert_right, merged

import ofa_tvm
from ofa_tvm.errors import UserError

STEPS, BATCH, WIDTH, HIDDEN = 9, 2, 3, 4
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def values(*shape: int, seed: int = 0) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) * 0.5).astype(np.float32)


def layer(
    kind: str, steps: int = STEPS, state: bool = True, peepholes: bool = False, **attributes: Any
) -> Case:
    count, gates = (2 if attributes.get("direction") == "bidirectional" else 1), GATES[kind]
    operands: list[Array | None] = [
        values(steps, BATCH, WIDTH),
        values(count, gates * HIDDEN, WIDTH, seed=1),
        values(count, gates * HIDDEN, HIDDEN, seed=2),
        values(count, 2 * gates * HIDDEN, seed=3) if state else None,
        None,
        values(count, BATCH, HIDDEN, seed=4) if state else None,
    ]
    if kind == "LSTM":
        operands.append(values(count, BATCH, HIDDEN, seed=5) if state else None)
        operands.append(values(count, 3 * HIDDEN, seed=6) if peepholes else None)
    outputs = 3 if kind == "LSTM" else 2
    return Case(kind, operands, [1, 2, 3, 7], outputs, {"hidden_size": HIDDEN, **attributes})


@pytest.mark.slow
def test_directions_and_states(tmp_path: Path) -> None:
    chosen = [("LSTM", "bidirectional"), ("GRU", "reverse"), ("RNN", "bidirectional"), ("LSTM", "forward")]
    cases = [layer(kind, direction=direction) for kind, direction in chosen]
    assert_right([*cases, layer("GRU", 1, state=False)], tmp_path)


@pytest.mark.slow
def test_variants(tmp_path: Path) -> None:
    last_only = layer("LSTM", 3)
    assert_right(
        [
            layer("LSTM", 3, peepholes=True),
            layer("LSTM", 3, activations=["HardSigmoid", "Softsign", "Relu"], activation_alpha=[0.3]),
            layer("GRU", 3, linear_before_reset=1),
            layer("RNN", 3, activations=["Relu"]),
            Case("LSTM", last_only.operands, [1, 2, 3], ["", "h"], last_only.attributes),
        ],
        tmp_path,
    )


def test_too_many_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"GRU \(node 'case0'\).*600 steps"):
        model = merged([layer("GRU", 600)], 18)
        ofa_tvm.compile(model, ofa_tvm.get_target("x86"), tmp_path / "m.so")

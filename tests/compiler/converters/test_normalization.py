"""Normalisations with all their outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from node_models import Array, Case, assert_right, by_reference


def values(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_layer_normalization_with_means_and_deviations(tmp_path: Path) -> None:
    cases = []
    for axis in (-1, 1, 0):
        x = values(2, 3, 4)
        shape = x.shape[axis:]
        cases += [
            Case(
                "LayerNormalization",
                [x, values(*shape, seed=1), values(*shape, seed=2)],
                (),
                n,
                {"axis": axis},
            )
            for n in (1, 2, 3)
        ]
    cases.append(Case("LayerNormalization", [values(2, 5), values(5)], outputs=["y", "", "d"]))
    assert_right(cases, tmp_path, reference=by_reference)


def test_batch_statistics_in_training_mode(tmp_path: Path) -> None:
    channels = [values(3, seed=s) for s in (1, 2, 3)] + [np.abs(values(3, seed=4)) + 1]
    training = {"training_mode": 1, "momentum": 0.7, "epsilon": 1e-3}
    assert_right(
        [
            Case("BatchNormalization", [values(2, 3, 4, 5), *channels], (), 3, training),
            Case("BatchNormalization", [values(2, 3), *channels], (), 1, training),
            Case("BatchNormalization", [values(2, 3, 4), *channels], (1, 2, 3, 4)),
        ],
        tmp_path,
        reference=by_reference,
    )


def test_group_normalization(tmp_path: Path) -> None:
    operands = [values(2, 6, 3, 4), values(6, seed=1), values(6, seed=2)]
    cases = [Case("GroupNormalization", operands, [1, 2], 1, {"num_groups": 2, "epsilon": 1e-2})]
    assert_right(cases, tmp_path, opset=21, reference=by_reference)


def test_others(tmp_path: Path) -> None:
    x = values(2, 7, 3, 4)
    zero = np.zeros((2, 3), np.float32)
    cases = [Case("LpNormalization", [a], attributes={"axis": 1, "p": p}) for a in (x, zero) for p in (1, 2)]
    cases += [Case("LRN", [x], attributes={"size": size, "alpha": 0.1}) for size in (3, 5)]
    cases.append(Case("MeanVarianceNormalization", [x + 100]))
    assert_right(cases, tmp_path, tolerance=1e-4)
    root = [Case("RMSNormalization", [x, values(4)], attributes={"axis": axis}) for axis in (-1, 1)]
    assert_right(root, tmp_path, opset=23, reference=by_reference)

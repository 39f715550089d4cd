"""float16 as a setting: close to float32, with float32 at the network's edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from emulated import arm_target
from onnx_models import Builder, mlp, random_inputs, reference, residual_network, swishes

import ofa_tvm
from ofa_tvm.compiler import templates
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
    assert templates.lanes(get_target("neoverse-n1").tvm_target(), "float16") == 8
    assert templates.lanes(get_target("cortex-a72").tvm_target(), "float16") == 4
    assert not templates.sums_in_half(get_target("cortex-a72").tvm_target())

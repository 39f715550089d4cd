"""float16 as a setting: close to float32, with float32 at the network's edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx_models import Builder, mlp, random_inputs, reference, residual_network, swishes

import ofa_tvm
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

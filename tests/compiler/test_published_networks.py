"""Published specialised networks compile from their net.config and compute what ONNX Runtime computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_models import random_inputs, reference

import ofa_tvm
from ofa_tvm.export import load_net_config, published_resolution, to_onnx


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["1080ti_gpu64-12ms*", "note8_lat-22ms*"])
def test_a_published_network_compiles(pattern: str, shared_data: Path, tmp_path: Path) -> None:
    (folder,) = (shared_data / "ofa_specialized").glob(pattern)
    torch.manual_seed(0)
    model = to_onnx(load_net_config(folder).eval(), published_resolution(folder) or 224)
    ofa_tvm.compile(model, ofa_tvm.get_target("x86"), tmp_path / "m.so")
    (image,) = random_inputs(model)
    (expected,) = reference(model, [image])
    got = ofa_tvm.load(tmp_path / "m.so")(image)
    assert isinstance(got, np.ndarray) and expected.std() > 0
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * float(np.abs(expected).max()))

"""Kernels timed inside the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_module import SmallModule

import ofa_tvm
from ofa_tvm.compiler.build import kernel_calls, lower_onnx
from ofa_tvm.compiler.graph import read_onnx
from ofa_tvm.errors import UserError
from ofa_tvm.measurement import profile
from ofa_tvm.targets import get_target


def test_every_call_has_a_time_and_the_result_stays(small: SmallModule, tmp_path: Path) -> None:
    target, so = get_target("x86"), tmp_path / "profiled.so"
    compiled = ofa_tvm.compile(str(small.onnx), target, so, profile=True)
    calls = profile(so, rounds=5)
    assert len(calls) == len(kernel_calls(lower_onnx(read_onnx(small.onnx), target)))
    assert {call.name for call in calls} == {use.name for use in compiled.kernels}
    assert all(0 < call.median_us < 1e6 and call.mad_us >= 0 for call in calls)
    plain, timed = ofa_tvm.load(small.so), ofa_tvm.load(so)
    x = np.random.default_rng(0).standard_normal(plain.inputs[0].shape).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(plain(x)), np.asarray(timed(x)))


def test_a_module_without_clocks_is_refused(small: SmallModule) -> None:
    with pytest.raises(UserError, match="profile=True"):
        profile(small.so)

"""GPUs of devices behind a tracker: PoCL on this machine over real RPC, and what boards are given."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from emulated import arm_target
from local_device import devices, local_device
from opencl_device import needs_opencl
from small_module import SIZE, write_small_onnx

import ofa_tvm
from ofa_tvm.devices import Place
from ofa_tvm.devices.bundle import write_bundle
from ofa_tvm.devices.native import cxx_of
from ofa_tvm.devices.tracker import TrackerProcess, wait_until
from ofa_tvm.errors import UserError
from ofa_tvm.measurement import Measurer
from ofa_tvm.runtime import elf_arch
from ofa_tvm.targets import Target, get_target

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tuning"))
from test_campaign import kernels

from ofa_tvm.tuning import tune_kernels

pytestmark = needs_opencl


@pytest.fixture
def place() -> Iterator[Place]:
    with TrackerProcess() as tracker:
        yield Place(tracker.host, tracker.port, "gpu")


@pytest.fixture
def target(place: Place) -> Target:
    return get_target("opencl-pocl").on_tracker(f"{place.host}:{place.port}", place.key)


@pytest.mark.slow
def test_a_boards_gpu_runs_is_measured_and_tuned(target: Target, place: Place, tmp_path: Path) -> None:
    onnx = write_small_onnx(tmp_path / "small.onnx")
    ofa_tvm.compile(onnx, target, tmp_path / "small.so")
    with local_device(place, tmp_path, kind="opencl"):
        assert wait_until(lambda: devices(place) == 1, 20)
        x = np.random.default_rng(1).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)
        expected = onnxruntime.InferenceSession(str(onnx)).run(None, {"input": x})[0]
        got = ofa_tvm.load(tmp_path / "small.so", target)(x)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
        with Measurer(target) as measurer:
            result = measurer.measure(tmp_path / "small.so", repeats=5)
        assert result.unit == "ms" and result.median_ms and result.instructions is None
        found = [k for k in kernels(target) if k.name.startswith(("matmul 1x24", "softmax"))]
        tuned = tune_kernels(found, target, tmp_path / "logs", trials=2)
        assert (tuned.tuned, tuned.failed, tuned.workers) == (2, 0, 1)
    assert all(record.times_us for known in tuned.records.records.values() for record in known)


@pytest.mark.slow
def test_a_board_without_its_gpu_is_said(target: Target, place: Place, tmp_path: Path) -> None:
    ofa_tvm.compile(write_small_onnx(tmp_path / "small.onnx"), target, tmp_path / "small.so")
    with local_device(place, tmp_path):
        assert wait_until(lambda: devices(place) == 1, 20)
        with Measurer(target) as measurer, pytest.raises(UserError, match=r"offers no opencl.*--gpu opencl"):
            measurer.measure(tmp_path / "small.so")
        (softmax,) = (k for k in kernels(target) if k.name.startswith("softmax"))
        with pytest.raises(UserError, match="offers no opencl"):
            tune_kernels([softmax], target, tmp_path / "logs", trials=2)
    assert not [line for log in tmp_path.glob("logs/*/*.jsonl") for line in log.read_text().splitlines()[1:]]


@pytest.mark.slow
def test_a_bundle_for_a_board_with_a_gpu(tmp_path: Path) -> None:
    arm_target()  # skips without a cross compiler
    mali = get_target("opencl-mali")
    write_bundle(
        tmp_path / "bundle",
        "aarch64",
        cxx_of(mali.link.find()),
        mali.run.key,
        target=mali.name,
        kind="opencl",
    )
    files = {path.name: path for path in (tmp_path / "bundle").rglob("*.so")}
    assert {"libtvm_runtime.so", "libtvm_runtime_opencl.so"} <= files.keys()
    assert {elf_arch(path) for path in files.values()} == {"aarch64"}
    text = (tmp_path / "bundle/README.txt").read_text()
    assert "--key mali" in text and "vendor's OpenCL driver" in text
    assert "tune --target opencl-mali" in text and "{" not in text and max(map(len, text.splitlines())) < 112

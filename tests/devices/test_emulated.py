"""The emulated ARM device: exact counts, tuning, faults. Real qemu, real RPC, real AArch64 code."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import pytest
from emulated import arm_target
from small_module import SIZE, build_small_module, write_small_onnx

import ofa_tvm
from ofa_tvm.errors import UserError
from ofa_tvm.logs import Record, find_records, log_name
from ofa_tvm.measurement import Measurement, Measurer
from ofa_tvm.runtime import append_checksum, elf_arch
from ofa_tvm.targets import Target

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tuning"))
from test_campaign import kernels

from ofa_tvm.tuning import tune_kernels


@pytest.fixture(scope="module")
def target() -> Target:
    return arm_target()


@pytest.fixture(scope="module")
def module(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arm")
    return build_small_module(write_small_onnx(folder / "small.onnx"), folder / "small.so", target)


def emulators() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.name().startswith("qemu-aarch64")]


@pytest.mark.slow
def test_counts_are_exact_over_devices(module: Path, target: Target) -> None:
    results: list[Measurement] = []
    for _ in range(2):
        with Measurer(target) as measurer:
            results += measurer.measure_many([module, module])
    assert len({result.instructions for result in results}) == 1
    (count,) = {result.instructions for result in results}
    assert count is not None and 1e4 < count < 1e6
    for result in results:
        assert result.median_ms is None and result.mad_ms is None and result.unit == "Minstr"
        assert result.cost == count / 1e6 and not result.noisy and "emulated" in result.machine
    assert Measurement.from_json(results[0].to_json()) == results[0]
    assert not emulators(), "devices end with their context"


def test_a_device_that_dies_is_replaced(module: Path, target: Target) -> None:
    with Measurer(target) as measurer:
        before = measurer.measure(module).instructions
        for device in emulators():
            device.kill()
        assert measurer.measure(module).instructions == before
        assert measurer.notes, "it is told"


def test_what_computes_wrongly_is_not_measured(module: Path, target: Target, tmp_path: Path) -> None:
    other = tmp_path / "small.so"
    other.write_bytes(module.read_bytes())
    write_small_onnx(tmp_path / "small.onnx", scale=2.0)  # what stands beside it is another network
    with Measurer(target) as measurer, pytest.raises(UserError, match=r"differs from ONNX Runtime.*twice"):
        measurer.measure(other)


def test_code_of_another_family_is_emulated_where_it_is_loaded(module: Path) -> None:
    assert elf_arch(module) == "aarch64"
    x = np.random.default_rng(3).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)
    expected = onnxruntime.InferenceSession(str(module.with_suffix(".onnx"))).run(None, {"input": x})[0]
    np.testing.assert_allclose(ofa_tvm.load(module)(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("rest", ["missing", "overwritten"])
def test_a_damaged_module_is_a_plain_error(module: Path, tmp_path: Path, rest: str) -> None:
    content = module.read_bytes()
    whole = content[: len(content) // 2] if rest == "missing" else content[:64]  # 64: the ELF header
    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(whole if rest == "missing" else whole + bytes(len(content) - 64))
    with pytest.raises(UserError, match=r"damaged\.so is (damaged: it is cut short|not a module)"):
        ofa_tvm.load(damaged)
    append_checksum(damaged)  # what the device's own loader dies of
    with pytest.raises(UserError, match=r"damaged\.so cannot be loaded.*compile it again"):
        ofa_tvm.load(damaged)


def test_several_threads_are_not_counted(target: Target) -> None:
    with pytest.raises(UserError, match="counted of one thread"):
        Measurer(target.with_threads(2))


@pytest.mark.slow
def test_tuning_on_counts_survives_a_device(target: Target, tmp_path: Path) -> None:
    found = kernels(target)

    def kill_one() -> None:
        for _ in range(600):
            if any(file.read_text().count("\n") > 2 for file in tmp_path.glob("*/tuning.jsonl")):
                emulators()[0].kill()
                return
            threading.Event().wait(0.1)

    thread = threading.Thread(target=kill_one)
    thread.start()
    result = tune_kernels(found, target, tmp_path, trials=4)
    thread.join()
    assert result.tuned == result.kernels == len(found)
    records = [record for known in result.records.records.values() for record in known]
    assert all(record.instructions and not record.times_us for record in records)
    assert all(Record.from_line(record.to_line()) == record for record in records)
    assert log_name(target) == "cortex-a72-emulated" and (tmp_path / log_name(target)).is_dir()
    again = tune_kernels(found, target, tmp_path, trials=4)
    assert again.trials == 0, "the same call has nothing left to do"
    board = target.on_tracker("127.0.0.1:1", "a72")
    table = find_records(board, [tmp_path])
    assert {kernel.key for kernel in found} <= table.records.keys() & table.foreign, "schedules serve silicon"

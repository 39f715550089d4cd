"""Devices behind a tracker: this machine's CPU over real RPC, with real faults."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from local_device import devices, local_device
from small_module import SmallModule, write_small_onnx

import ofa_tvm
from ofa_tvm.devices import Place, TrackerUnreachable
from ofa_tvm.devices.place import split_address
from ofa_tvm.devices.session import open_session
from ofa_tvm.devices.tracker import TrackerProcess, wait_until
from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.measurement import Measurer
from ofa_tvm.targets import get_target
from ofa_tvm.workflow.tune import START_S, model_kernels, plan_tuning, tune

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tuning"))
from test_campaign import kernels

from ofa_tvm.tuning import crew, tune_kernels


@pytest.fixture
def place() -> Iterator[Place]:
    with TrackerProcess() as tracker:
        yield Place(tracker.host, tracker.port, "here")


def test_a_board_is_measured_in_milliseconds(small: SmallModule, place: Place, tmp_path: Path) -> None:
    target = small.target.on_tracker(f"{place.host}:{place.port}", place.key)
    with pytest.raises(UserError, match="has no device of key here"):
        Measurer(target)
    system = tmp_path / "system"
    for name, text in (
        ("thermal_zone0/type", "cpu-thermal"), ("thermal_zone0/temp", "61000"),
        ("cooling_device0/type", "cpufreq-cpu0"), ("cooling_device0/cur_state", "0"),
    ):  # fmt: skip
        (system / "sys/class/thermal" / name).parent.mkdir(parents=True, exist_ok=True)
        (system / "sys/class/thermal" / name).write_text(text + "\n")
    with local_device(place, tmp_path, options=["--system", str(system)]):
        assert wait_until(lambda: devices(place) == 1, 20)
        state = system / "sys/class/thermal/cooling_device0/cur_state"
        cooled = threading.Thread(target=lambda: (time.sleep(1.5), state.write_text("0\n")))
        with Measurer(target) as measurer:
            measurer.measure(small.so, repeats=5)  # the process is up
            state.write_text("1\n")
            cooled.start()
            remote = measurer.measure(small.so, repeats=5)
        cooled.join()
        with Measurer(small.target) as measurer:
            local = measurer.measure(small.so, repeats=5)
    assert remote.unit == "ms" and remote.instructions is None and remote.median_ms
    assert 0.1 < remote.median_ms / local.cost < 10, "the same CPU"
    assert remote.conditions is not None and remote.conditions.temperature_c == 61
    assert remote.conditions.waited_s > 0 and not remote.conditions.throttled, "it is waited for, and cool"
    assert not list(tmp_path.glob("ofa-tvm-session-*")), "a session leaves no files"


@pytest.mark.usefixtures("all_cpus")
def test_a_module_that_is_let_go_frees_its_device(small: SmallModule, place: Place, tmp_path: Path) -> None:
    target = small.target.on_tracker(f"{place.host}:{place.port}", place.key)
    with local_device(place, tmp_path):
        assert wait_until(lambda: devices(place) == 1, 20)
        gc.disable()  # by itself, not when Python happens to look for cycles
        try:
            for _ in range(2):
                run = ofa_tvm.load(small.so, target)
                assert run(np.zeros(run.inputs[0].shape, np.float32)).shape == run.outputs[0].shape
                del run
        finally:
            gc.enable()
        with open_session(place, wait_s=10) as session:
            assert session.alive
            for threads in (len(os.sched_getaffinity(0)), 1):
                session.set_threads(threads)
                assert session.call("runtime.NumThreads") == threads


def test_a_tracker_that_restarts_gets_its_devices_back(tmp_path: Path) -> None:
    with TrackerProcess() as tracker:
        place = Place(tracker.host, tracker.port, "here")
        with local_device(place, tmp_path):
            assert wait_until(lambda: devices(place) == 1, 20)
            tracker.stop()
            with pytest.raises(TrackerUnreachable, match="no tracker answers"):
                devices(place)
            with TrackerProcess(place.port):
                assert wait_until(lambda: devices(place) == 1, 20)
                with open_session(place) as session:
                    assert session.alive and not session.emulated


def test_a_full_disk_is_said(small: SmallModule, place: Place, tmp_path: Path) -> None:
    with local_device(place, tmp_path, disk_bytes=4096):
        assert wait_until(lambda: devices(place) == 1, 20)
        with open_session(place) as session:
            with pytest.raises(Exception, match=r"the device cannot store .*File too large"):
                session.load(small.so)
            assert session.alive, "the device is still there"


@pytest.mark.slow
def test_a_full_disk_is_the_devices_fault(small: SmallModule, place: Place, tmp_path: Path) -> None:
    """No schedule is blamed for it: another device tunes all, and without one nothing counts as failed."""
    target = small.target.on_tracker(f"{place.host}:{place.port}", place.key)
    found = kernels(get_target("x86"))[1:4]
    with local_device(place, tmp_path, disk_bytes=4096):
        assert wait_until(lambda: devices(place) == 1, 20)
        with Measurer(target) as measurer, pytest.raises(UserError, match="the device cannot store"):
            measurer.measure(small.so, repeats=5)
        with pytest.raises(UserError, match=r"the device cannot store .*the same command goes on"):
            tune_kernels(found, target, tmp_path / "logs", trials=1)
        with local_device(place, tmp_path):
            assert wait_until(lambda: devices(place) == 2, 20)
            result = tune_kernels(found, target, tmp_path / "logs", trials=1)
    assert (result.tuned, result.failed, result.workers) == (len(found), 0, 2)
    assert not result.records.failures


def test_sessions_are_ended_when_their_time_is_up(place: Place, tmp_path: Path) -> None:
    with local_device(place, tmp_path):
        assert wait_until(lambda: devices(place) == 1, 20)
        session = open_session(place, limit_s=1)
        assert wait_until(lambda: not session.alive, 20)
        with open_session(place, wait_s=20) as other:
            assert other.alive


def test_no_device_in_time(place: Place) -> None:
    with pytest.raises(TrackerUnreachable, match=r"no free device of key here for 0\.2 s"):
        open_session(place, wait_s=0.2)


@pytest.mark.parametrize("text", ["board", "board:", ":9190", "board:x", "board:0", "board:70000"])
def test_addresses(text: str) -> None:
    with pytest.raises(UsageError, match="type host:port"):
        split_address(text)


@pytest.mark.slow
def test_a_plan_counts_the_trackers_devices(place: Place, tmp_path: Path) -> None:
    """Not this machine's CPUs: its estimate holds for as many trials at once as there are devices."""
    target = get_target("x86").on_tracker(f"{place.host}:{place.port}", place.key)
    found = model_kernels(write_small_onnx(tmp_path / "small.onnx"), target)
    logs = tmp_path / "logs"
    gone = get_target("x86").on_tracker("127.0.0.1:9", place.key)
    for nobody in (target, gone):
        plan = plan_tuning(found, nobody, logs, trials=2)
        assert plan.workers == 0 and plan.seconds == START_S + plan.trials * plan.trial_s
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(local_device(place, tmp_path))
        assert wait_until(lambda: devices(place) == 3, 20)
        plan = plan_tuning(found, target, logs, trials=2)
        assert plan.workers == 3
        assert plan.seconds == pytest.approx(START_S + plan.trials * plan.trial_s / 3)
        result = tune(found, target, logs, trials=1)
        assert result.tuned == len(found) and result.workers == 3
        (pace,) = logs.glob("*/pace.json")
        at_work = max(0.0, result.seconds - START_S)
        assert json.loads(pace.read_text())["worker_seconds"] == pytest.approx(3 * at_work)
    assert plan_tuning(found, get_target("cortex-a72"), logs, trials=2).workers == len(
        os.sched_getaffinity(0)
    )


@pytest.mark.slow
def test_boards_that_vanish_and_hang_while_tuning(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One device hangs for good, one is killed: the log keeps what was measured, and tuning goes on."""
    monkeypatch.setattr(crew, "TRIAL_LIMIT_S", 8.0)
    monkeypatch.setattr(crew, "DEVICE_WAIT_S", 3.0)
    target = get_target("x86").on_tracker(f"{place.host}:{place.port}", place.key)
    found = kernels(target)
    with local_device(place, tmp_path) as first, local_device(place, tmp_path) as second:
        assert wait_until(lambda: devices(place) == 2, 20)

        def lines() -> int:
            return sum(len(file.read_text().splitlines()) for file in tmp_path.glob("logs/*/*.jsonl"))

        def disturb() -> None:
            wait_until(lambda: lines() > 3, 120)
            first.send_signal(signal.SIGSTOP)
            at = lines()
            wait_until(lambda: lines() > at + 4, 120)
            second.kill()

        thread = threading.Thread(target=disturb)
        thread.start()
        with pytest.raises(UserError, match="the same command goes on"):
            tune_kernels(found, target, tmp_path / "logs", trials=30)
        thread.join()
        made = lines()
        assert made > 5
        first.kill()
    with local_device(place, tmp_path):
        time.sleep(1)
        result = tune_kernels(found, target, tmp_path / "logs", trials=4)
    assert result.tuned == result.kernels
    assert lines() >= made, "nothing that was measured is lost"

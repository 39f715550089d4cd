"""What every runner keeps to: this process's CPU, a GPU, and a device behind a tracker."""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import tvm
from opencl_device import skip_without_opencl
from tvm import te
from tvm.s_tir import Schedule

from ofa_tvm.compiler.templates import templates_of
from ofa_tvm.devices import Place
from ofa_tvm.devices.tracker import TrackerProcess, wait_until
from ofa_tvm.measurement.device_watch import DeviceWatches
from ofa_tvm.targets import get_target
from ofa_tvm.tuning.gpu import GpuRunner
from ofa_tvm.tuning.local import LocalRunner
from ofa_tvm.tuning.messages import (
    DeviceRequest,
    GaveUp,
    Note,
    Report,
    Tried,
    Trying,
    TuningRequest,
    from_event,
    to_event,
)
from ofa_tvm.tuning.rpc import RpcRunner
from ofa_tvm.tuning.runner import SAMPLES, Runner, deviation, is_hopeless, random_arguments
from ofa_tvm.tuning.trials import Trials

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "devices"))
from local_device import devices, local_device


def scaled(n: int, factor: float = 1.0) -> tvm.IRModule:
    """y = factor * x * w, of n values."""
    x, w = te.placeholder((n,), name="x"), te.placeholder((n,), name="w")
    y = te.compute((n,), lambda i: x[i] * w[i] * tvm.tirx.const(factor, "float32"), name="y")
    return tvm.IRModule({"main": te.create_prim_func([x, w, y])})


def schedule(mod: tvm.IRModule, target: tvm.target.Target) -> Schedule:
    return next(templates_of(target).ranked(mod))


Make = Callable[[tvm.IRModule], Runner]


@pytest.fixture(params=["local", "gpu", "rpc"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    with ExitStack() as stack:
        if request.param == "local":
            target = get_target("x86").tvm_target()
            yield lambda mod: LocalRunner(mod, target, 1 << 20)
        elif request.param == "gpu":
            skip_without_opencl()
            pocl = get_target("opencl-pocl").tvm_target()
            yield lambda mod: GpuRunner(mod, pocl)
        else:
            tracker = stack.enter_context(TrackerProcess())
            place, board = Place(tracker.host, tracker.port, "here"), get_target("x86")
            stack.enter_context(local_device(place, tmp_path))
            assert wait_until(lambda: devices(place) == 1, 20)
            wanted = DeviceRequest(str(place), board.link.find(), emulated=False, wait_s=20.0)
            yield lambda mod: RpcRunner(
                mod, board.tvm_target(), wanted, float("inf"), alive=lambda: None, note=print
            )


def test_a_schedule_is_sampled_and_the_best_is_known(make: Make) -> None:
    mod = scaled(4096)
    with make(mod) as runner:
        outcome = runner.run(schedule(mod, runner.target))
        assert len(outcome.seconds) == SAMPLES and all(0 < seconds < 1 for seconds in outcome.seconds)
        assert outcome.program is not None and runner.best_s == statistics.median(outcome.seconds)
        del outcome


def test_a_hopeless_schedule_has_one_sample(make: Make) -> None:
    mod = scaled(1 << 22)
    with make(mod) as runner:
        runner.best_s = 1e-9
        outcome = runner.run(schedule(mod, runner.target))
        assert len(outcome.seconds) == 1 and outcome.program is None and runner.best_s == 1e-9


def test_a_schedule_that_computes_wrongly_is_refused_and_the_next_one_runs(make: Make) -> None:
    mod = scaled(4096)
    reports: list[Report] = []
    with make(mod) as runner:
        right, wrong = (schedule(m, runner.target) for m in (mod, scaled(4096, 1.5)))
        trials = Trials(runner, reports.append, [])
        for sch, works in ((right, True), (wrong, False), (right, True)):
            assert (trials(sch) is not None) == works
        assert not trials.is_new(wrong) and trials.tried == 2
        trials.finals()
    tried = [report for report in reports if isinstance(report, Tried)]
    assert [bool(report.times_us) for report in tried[:3]] == [True, False, True]
    assert "computes wrongly (off by 0.5" in tried[1].error
    # A second timing is none of the trials that were asked for; on a busy machine one may seem hopeless.
    whole = sum(len(report.times_us) == SAMPLES for report in tried[:3])
    again = whole if runner.takes_turns and whole > 1 else 0
    assert [report.counts for report in tried] == [True] * 3 + [False] * again


def test_known_schedules_are_timed_again_and_a_broken_one_is_said(make: Make) -> None:
    mod = scaled(4096)
    reports: list[Report] = []
    with make(mod) as runner:
        right, wrong = (schedule(m, runner.target) for m in (mod, scaled(4096, 1.5)))
        Trials(runner, reports.append, []).again([right, wrong])
    tried = [report for report in reports if isinstance(report, Tried)]
    assert sorted(bool(report.times_us) for report in tried) == [False, True]
    assert all(report.counts for report in tried)


def test_a_device_that_throttles_is_waited_for_and_one_that_stays_hot_is_noted_once(tmp_path: Path) -> None:
    state = tmp_path / "system/sys/class/thermal/cooling_device0/cur_state"
    state.parent.mkdir(parents=True)
    state.with_name("type").write_text("thermal-cpufreq-0\n")
    state.write_text("1\n")
    board, mod = get_target("x86"), scaled(4096)
    notes: list[str] = []
    with TrackerProcess() as tracker:
        place = Place(tracker.host, tracker.port, "here")
        with local_device(place, tmp_path, options=["--system", str(tmp_path / "system")]):
            assert wait_until(lambda: devices(place) == 1, 20)
            wanted = DeviceRequest(str(place), board.link.find(), emulated=False, wait_s=20.0)
            watches = DeviceWatches(wait_s=2.5)
            cooled = threading.Thread(target=lambda: (time.sleep(1.0), state.write_text("0\n")))
            beats: list[float] = []

            def alive() -> None:
                beats.append(time.monotonic())
                if len(beats) == 1:
                    cooled.start()

            with RpcRunner(
                mod, board.tvm_target(), wanted, float("inf"), alive, notes.append, watches
            ) as runner:
                assert len(runner.run(schedule(mod, runner.target)).seconds) == SAMPLES
                cooled.join()
                assert not runner.throttled and not notes and state.read_text() == "0\n" and len(beats) >= 2
                state.write_text("2\n")
                for _ in range(3):
                    assert len(runner.run(schedule(mod, runner.target)).seconds) == SAMPLES
                    assert runner.throttled
                reports: list[Report] = []
                Trials(runner, reports.append, [])(schedule(mod, runner.target))
                assert isinstance(reports[-1], Tried) and reports[-1].throttled
    assert len(notes) == 1 and "stays throttled" in notes[0] and "--retime" in notes[0]


def test_what_goes_to_and_from_workers_survives_json() -> None:
    device = DeviceRequest("127.0.0.1:9190/pi", ("cc", "-v"), emulated=True, wait_s=3.0)
    for where in (None, device):
        request = TuningRequest(
            "{}", {"kind": "llvm"}, 1 << 20, [([1], 2.0)], [], [[1]], 3, None, 0, False, where
        )
        again = TuningRequest.from_json(json.loads(json.dumps(request.to_json())))
        assert json.dumps(again.to_json()) == json.dumps(request.to_json())
    for report in (
        Trying([1]),
        Tried([1], [2.0], counts=False, throttled=True),
        Tried([1], [], "no"),
        Note("n"),
        GaveUp("e", True),
    ):
        assert from_event(json.loads(json.dumps(to_event(report)))) == report
    assert from_event({"event": "done"}) is None and from_event({"event": "alive"}) is None


def test_hopeless_is_much_slower_than_the_best_and_not_short() -> None:
    assert is_hopeless(301e-6, 100e-6) and not is_hopeless(299e-6, 100e-6)
    assert not is_hopeless(49e-6, 1e-6) and not is_hopeless(1.0, float("inf"))


def test_deviation_is_of_the_largest_value_by_number_format() -> None:
    one = np.array([1.0, -100.0], np.float32)
    assert deviation(one + np.float32(0.09), one) == 0 < deviation(one + np.float32(0.2), one)
    half = one.astype(np.float16)
    assert deviation(half + np.float16(1.9), half) == 0 < deviation(half + np.float16(2.2), half)
    assert deviation(one * np.float32("nan"), one) == float("inf")


def test_arguments_are_random_and_valid_indices() -> None:
    x = te.placeholder((8,), dtype="int64", name="x")
    w = te.placeholder((3, 4), name="w")
    function = te.create_prim_func([x, w, te.compute((8,), lambda i: w[x[i], 0], name="y")])
    first, second = random_arguments(function), random_arguments(function)
    assert [(a.shape, str(a.dtype)) for a in first] == [
        ((8,), "int64"),
        ((3, 4), "float32"),
        ((8,), "float32"),
    ]
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert (first[0] == 0).all() and first[1].std() > 0.1

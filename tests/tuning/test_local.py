"""Kernels timed in a network's state of the caches, on a machine that may be busy."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
import tvm
from tvm import te
from tvm.s_tir import Schedule

from ofa_tvm.measurement.pinning import choose_cpus, pinned
from ofa_tvm.measurement.watch import local_watch
from ofa_tvm.targets import get_target
from ofa_tvm.tuning.local import Call, LocalRunner, argument_ring
from ofa_tvm.tuning.runner import SAMPLES


def scaled(n: int) -> tvm.tirx.PrimFunc:
    """y = x * w, of n values."""
    x, w = te.placeholder((n,), name="x"), te.placeholder((n,), name="w")
    return te.create_prim_func([x, w, te.compute((n,), lambda i: x[i] * w[i], name="y")])


def loaded(n: int) -> tuple[LocalRunner, Call]:
    mod, target = tvm.IRModule({"main": scaled(n)}), get_target("x86").tvm_target()
    runner = LocalRunner(mod, target, 1 << 20)
    return runner, runner.load(runner.build(Schedule(mod)))


def test_weights_turn_and_data_stays() -> None:
    ring = argument_ring(scaled(1000), 64 << 10)
    assert len(ring) == -(-2 * (64 << 10) // 4000)
    assert len({id(arguments[0]) for arguments in ring}) == 1
    assert len({id(arguments[1]) for arguments in ring}) == len(ring)
    assert len({id(arguments[2]) for arguments in ring}) == 1
    assert len(argument_ring(scaled(10), 64 << 10)) == 64, "small weights are not copied without end"


@pytest.mark.parametrize("n", [8, 4096, 1 << 20])
def test_times_are_of_the_kernel_also_on_a_busy_cpu(n: int) -> None:
    """Half of the CPU is another's: samples in which it ran do not count, and no time is taken off twice."""

    def median() -> tuple[float, float]:
        runner, call = loaded(n)
        return float(np.median(runner.samples(call, runner.first_call(call), 5))), runner.overhead_s

    with pinned(1):
        quiet, _ = median()
        (cpu,) = choose_cpus(1)
        code = f"import os; os.sched_setaffinity(0, {{{cpu}}}); print(1, flush=True)\nwhile True: pass"
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
            try:
                assert other.stdout is not None
                other.stdout.readline()
                busy, overhead_s = median()
            finally:
                other.kill()
    assert overhead_s <= 1e-6
    assert quiet / 3 < busy + 1e-6
    assert busy < 3 * quiet + 1e-6


def test_slow_and_fast_are_told_apart() -> None:
    runner, call = loaded(4096)

    def slower(*arguments: tvm.runtime.Tensor) -> None:
        for _ in range(4):
            call(*arguments)

    slow, fast = (np.median(samples) for samples in runner.in_turns([slower, call], 5))
    assert slow > 2 * fast


def test_a_hot_machine_is_waited_for_as_a_device_is() -> None:
    state = "sys/class/thermal/cooling_device0"
    files = {f"{state}/type": "Processor", f"{state}/cur_state": "1"}
    watch = local_watch((), lambda: files, wait_s=5.0, pause_s=0.1)
    beats: list[float] = []
    told: list[str] = []

    def alive() -> None:
        beats.append(time.monotonic())
        files[f"{state}/cur_state"] = "0"

    mod, target = tvm.IRModule({"main": scaled(64)}), get_target("x86").tvm_target()
    with LocalRunner(mod, target, 1 << 20, watch=watch, alive=alive, note=told.append) as runner:
        assert len(runner.run(Schedule(mod)).seconds) == SAMPLES
        assert beats and not runner.throttled and not told
    files[f"{state}/cur_state"] = "1"
    watch = local_watch((), lambda: files, wait_s=0.2, pause_s=0.1)
    with LocalRunner(mod, target, 1 << 20, watch=watch, note=told.append) as runner:
        for _ in range(2):
            assert len(runner.run(Schedule(mod)).seconds) == SAMPLES
            assert runner.throttled
    assert len(told) == 1 and told[0].startswith("this machine stays throttled")

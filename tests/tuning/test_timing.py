"""Kernels timed in a network's state of the caches, on a machine that may be busy."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tvm
from tvm import te

from ofa_tvm.measurement.pinning import choose_cpus, pinned
from ofa_tvm.targets import get_target
from ofa_tvm.tuning.timing import Subject, interleaved, make_subject


def scaled(n: int) -> tvm.tirx.PrimFunc:
    """y = x * w, of n values."""
    x, w = te.placeholder((n,), name="x"), te.placeholder((n,), name="w")
    return te.create_prim_func([x, w, te.compute((n,), lambda i: x[i] * w[i], name="y")])


def built(n: int) -> tuple[Subject, tvm.runtime.Executable]:
    function = scaled(n)
    library = tvm.compile(tvm.IRModule({"main": function}), target=get_target("x86").tvm_target())
    return make_subject(function, 1, 1 << 20).calibrated(library), library


def test_weights_turn_and_data_stays() -> None:
    subject = make_subject(scaled(1000), 1, 64 << 10)
    assert len(subject.ring) == -(-2 * (64 << 10) // 4000)
    assert len({id(arguments[0]) for arguments in subject.ring}) == 1
    assert len({id(arguments[1]) for arguments in subject.ring}) == len(subject.ring)
    assert len({id(arguments[2]) for arguments in subject.ring}) == 1
    assert len(make_subject(scaled(10), 1, 64 << 10).ring) == 64, "small weights are not copied without end"


@pytest.mark.parametrize("n", [8, 4096, 1 << 20])
def test_times_are_of_the_kernel_also_on_a_busy_cpu(n: int) -> None:
    """Half of the CPU is another's: samples in which it ran do not count, and no time is taken off twice."""
    with pinned(1):
        subject, library = built(n)
        quiet = float(np.median(subject.samples(library["main"], subject.first_call(library["main"]), 5)))
        (cpu,) = choose_cpus(1)
        code = f"import os; os.sched_setaffinity(0, {{{cpu}}}); print(1, flush=True)\nwhile True: pass"
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
            try:
                assert other.stdout is not None
                other.stdout.readline()
                again, library = built(n)
                busy = float(np.median(again.samples(library["main"], again.first_call(library["main"]), 5)))
            finally:
                other.kill()
    assert again.overhead_s <= 1e-6
    assert quiet / 3 < busy + 1e-6
    assert busy < 3 * quiet + 1e-6


def test_slow_and_fast_are_told_apart() -> None:
    subject, library = built(4096)
    call = library["main"]

    def slower(*arguments: tvm.runtime.Tensor) -> None:
        for _ in range(4):
            call(*arguments)

    slow, fast = (np.median(samples) for samples in interleaved(subject, [slower, call], 5))
    assert slow > 2 * fast

"""Timing kernels in the state in which a network finds the caches.

Repeated on one set of arguments, a kernel finds everything in the core's own caches. In a network its first
input is fresh from the kernel before, but its weights were last read an inference ago. So calls go round a
ring of argument sets that share the first input and the result, and whose other arguments together exceed the
L2 cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm

from ofa_tvm.compiler.kernels import shapes
from ofa_tvm.tuning.gpu_timing import GpuSubject

_SAMPLE_S = 2e-3
_SHORT_SAMPLE_S, _CALIBRATIONS = 1e-4, 20
_OVERHEAD_LIMIT_S = 1e-6
_RING_LIMIT = 64  # sets of arguments; what is so small that more are needed is read in no time
_DISTURBED = 1.03  # wall-clock over CPU time, above which another process had the CPU meanwhile
_ATTEMPTS = 4  # a sample

Call = Callable[..., object]


@dataclass(frozen=True)
class Subject:
    """A kernel's sets of arguments, for all its schedules.

    Parameters
    ----------
    ring
        Sets of arguments.
    threads
        That the kernel uses.
    overhead_s
        What a call from Python takes by itself, see `calibrated`.
    """

    ring: tuple[tuple[tvm.runtime.Tensor, ...], ...]
    threads: int
    overhead_s: float = 0.0

    @property
    def result(self) -> np.ndarray:
        """The result of the last call."""
        return self.ring[0][-1].numpy()

    def prepared(self, library: tvm.runtime.Executable) -> Call:
        """The kernel of a library, ready to be called and timed."""
        call: Call = library["main"]
        return call

    def calibrated(self, library: tvm.runtime.Executable) -> Subject:
        """With the time of a call from Python by itself: more than TVM's own timer says on one set.

        Both are minima over short samples, which hold on a busy machine too. Of a kernel so long that its own
        variation hides the overhead, no more than the limit is taken off.
        """
        plain = replace(self, ring=self.ring[:1], overhead_s=0.0)
        call, arguments = library["main"], self.ring[0]
        number = max(1, round(_SHORT_SAMPLE_S / plain.first_call(call)))
        timer = library.jit().time_evaluator("main", tvm.cpu(), number=number, repeat=_CALIBRATIONS)
        inside = min(timer(*arguments).results)
        outside = float("inf")
        for _ in range(_CALIBRATIONS):
            start = time.perf_counter()
            for _ in range(number):
                call(*arguments)
            outside = min(outside, (time.perf_counter() - start) / number)
        return replace(self, overhead_s=min(max(0.0, outside - inside), _OVERHEAD_LIMIT_S))

    def first_call(self, call: Call) -> float:
        """Seconds of the second call, after one that warms up; a rough figure."""
        call(*self.ring[0])
        start = time.perf_counter()
        call(*self.ring[-1])
        return max(time.perf_counter() - start - self.overhead_s, 1e-8)

    def samples(self, call: Call, once_s: float, count: int) -> list[float]:
        """Seconds a call, `count` samples; those in which another process had the CPU are taken again.

        Parameters
        ----------
        call
            The built kernel.
        once_s
            About how long a call takes.
        count
            Samples. On a machine that is never quiet, the least disturbed ones stand for the missing.
        """
        number = max(1, round(_SAMPLE_S / (once_s + self.overhead_s)))
        calls = [self.ring[i % len(self.ring)] for i in range(number)]
        quiet: list[float] = []
        disturbed: list[float] = []
        for _ in range(_ATTEMPTS * count):
            wall, cpu = time.perf_counter(), time.thread_time()
            for arguments in calls:
                call(*arguments)
            cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
            seconds = max(wall / number - self.overhead_s, 1e-9)
            # The CPU time of other threads is not this one's, so several cannot be judged.
            (quiet if self.threads > 1 or wall <= _DISTURBED * cpu else disturbed).append(seconds)
            if len(quiet) == count:
                return quiet
        return quiet + sorted(disturbed)[: count - len(quiet)]


def make_subject(function: tvm.tirx.PrimFunc, threads: int, l2_bytes: int) -> Subject:
    """Random arguments for a kernel that uses so many threads, on cores with so large an L2 cache."""
    # Values from 0 to 1: integers are valid indices, and no root or logarithm is invalid.
    rng = np.random.default_rng(0)
    arrays = [
        rng.random(shape).astype(str(buffer.dtype))
        for shape, buffer in zip(shapes(function), function.params, strict=True)
    ]
    shared = {0, len(arrays) - 1}
    turned = sum(array.nbytes for i, array in enumerate(arrays) if i not in shared)
    sets = min(_RING_LIMIT, -(-2 * l2_bytes // turned)) if turned else 1
    first = tuple(tvm.runtime.tensor(array) for array in arrays)
    more = (
        tuple(first[i] if i in shared else tvm.runtime.tensor(array) for i, array in enumerate(arrays))
        for _ in range(sets - 1)
    )
    return Subject((first, *more), threads)


def interleaved(subject: Subject | GpuSubject, calls: Sequence[Any], rounds: int) -> list[list[float]]:
    """Samples of several schedules of one kernel taken in turns, so that drift meets all alike."""
    once = [subject.first_call(call) for call in calls]
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for samples, call, seconds in zip(found, calls, once, strict=True):
            samples += subject.samples(call, seconds, 1)
    return found

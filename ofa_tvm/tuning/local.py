"""Timing kernels on this process's CPU, in the state in which a network finds the caches.

Repeated on one set of arguments, a kernel finds everything in the core's own caches. In a network its first
input is fresh from the kernel before, but its weights were last read an inference ago. So calls go round a
ring of argument sets that share the first input and the result, and whose other arguments together exceed the
L2 cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import tvm

from ofa_tvm.measurement.watch import Watch
from ofa_tvm.tuning.runner import SAMPLE_S, Array, Runner, random_arguments, stays_hot

_SHORT_SAMPLE_S, _CALIBRATIONS = 1e-4, 20
_OVERHEAD_LIMIT_S = 1e-6
_RING_LIMIT = 64  # sets of arguments; what is so small that more are needed is read in no time
_DISTURBED = 1.03  # wall-clock over CPU time, above which another process had the CPU meanwhile
_ATTEMPTS = 4  # a sample

Call = Callable[..., object]
Ring = tuple[tuple[tvm.runtime.Tensor, ...], ...]


class LocalRunner(Runner):
    """Times schedules in this process.

    Parameters
    ----------
    mod
        The kernel.
    target
        TVM's target, which says how many threads it uses.
    l2_bytes
        Size of a core's L2 cache.
    best_s
        Of the best schedule known so far.
    watch
        Of this machine: while it is throttled it is waited for. None where it says nothing of that.
    alive, note
        Called while it is waited for; told if that was in vain.

    Attributes
    ----------
    ring
        Sets of arguments.
    overhead_s
        What a call from Python takes by itself; measured when the first library is loaded.
    """

    def __init__(
        self,
        mod: tvm.IRModule,
        target: tvm.target.Target,
        l2_bytes: int,
        best_s: float = float("inf"),
        *,
        watch: Watch | None = None,
        alive: Callable[[], None] = lambda: None,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(target, best_s)
        self._watch, self._alive, self._note = watch, alive, note
        self.ring = argument_ring(mod["main"], l2_bytes)
        self.overhead_s = 0.0
        self._calibrated = False
        self._threads = int(target.attrs.get("num-cores", 1))

    def load(self, library: tvm.runtime.Executable) -> Call:
        """The library's kernel."""
        self.throttled = False
        call: Call = library["main"]
        if not self._calibrated:
            self.overhead_s, self._calibrated = self._overhead(call, library), True
        return call

    def first_call(self, program: Call) -> float:
        """Seconds of the second call, after one that warms up; a rough figure."""
        program(*self.ring[0])
        start = time.perf_counter()
        program(*self.ring[-1])
        return max(time.perf_counter() - start - self.overhead_s, 1e-8)

    def samples(self, program: Call, once_s: float, count: int) -> list[float]:
        """Seconds a call; samples in which another process had the CPU are taken again.

        On a machine that is never quiet, the least disturbed ones stand for the missing.
        """
        if self._watch is None:
            return self._samples(program, once_s, count)
        samples, self.throttled = self._watch.while_cool(
            lambda: self._samples(program, once_s, count),
            self._alive,
            lambda: self._note(stays_hot("this machine")),
        )
        return samples

    def _samples(self, program: Call, once_s: float, count: int) -> list[float]:
        number = max(1, round(SAMPLE_S / (once_s + self.overhead_s)))
        calls = [self.ring[i % len(self.ring)] for i in range(number)]
        quiet: list[float] = []
        disturbed: list[float] = []
        for _ in range(_ATTEMPTS * count):
            wall, cpu = time.perf_counter(), time.thread_time()
            for arguments in calls:
                program(*arguments)
            cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
            seconds = max(wall / number - self.overhead_s, 1e-9)
            # The CPU time of other threads is not this one's, so several cannot be judged.
            (quiet if self._threads > 1 or wall <= _DISTURBED * cpu else disturbed).append(seconds)
            if len(quiet) == count:
                return quiet
        return quiet + sorted(disturbed)[: count - len(quiet)]

    def results(self) -> list[Array]:
        """The result of the last call, whichever set it was made with."""
        return [self.ring[0][-1].numpy()]

    def _overhead(self, call: Call, library: tvm.runtime.Executable) -> float:
        """Seconds of a call from Python by itself: more than TVM's own timer says on one set.

        Both are minima over short samples, which hold on a busy machine too. Of a kernel so long that its own
        variation hides the overhead, no more than the limit is taken off.
        """
        arguments = self.ring[0]
        call(*arguments)
        start = time.perf_counter()
        call(*arguments)
        number = max(1, round(_SHORT_SAMPLE_S / max(time.perf_counter() - start, 1e-8)))
        timer = library.jit().time_evaluator("main", tvm.cpu(), number=number, repeat=_CALIBRATIONS)
        inside = min(timer(*arguments).results)
        outside = float("inf")
        for _ in range(_CALIBRATIONS):
            start = time.perf_counter()
            for _ in range(number):
                call(*arguments)
            outside = min(outside, (time.perf_counter() - start) / number)
        return min(max(0.0, outside - inside), _OVERHEAD_LIMIT_S)


def argument_ring(function: tvm.tirx.PrimFunc, l2_bytes: int) -> Ring:
    """Sets of random arguments for a kernel on cores with so large an L2 cache."""
    arrays = random_arguments(function)
    shared = {0, len(arrays) - 1}
    turned = sum(array.nbytes for i, array in enumerate(arrays) if i not in shared)
    sets = min(_RING_LIMIT, -(-2 * l2_bytes // turned)) if turned else 1
    first = tuple(tvm.runtime.tensor(array) for array in arrays)
    more = (
        tuple(first[i] if i in shared else tvm.runtime.tensor(array) for i, array in enumerate(arrays))
        for _ in range(sets - 1)
    )
    return (first, *more)

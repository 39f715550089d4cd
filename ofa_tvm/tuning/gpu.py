"""Timing kernels on a GPU of this machine, by the device's own clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import tvm
from filelock import FileLock

from ofa_tvm.files import cache_dir
from ofa_tvm.native.opencl import load_opencl
from ofa_tvm.tuning.runner import SAMPLE_S, Array, Runner, random_arguments


@dataclass(frozen=True)
class GpuCall:
    """A built kernel: called like a function, and timed by the runtime's evaluator."""

    main: Any
    evaluate: Any

    def __call__(self, *arguments: tvm.runtime.Tensor) -> None:
        self.main(*arguments)


class GpuRunner(Runner):
    """Times schedules on this machine's first device of the target's kind.

    Parameters
    ----------
    mod
        The kernel.
    target
        TVM's target of a GPU kind.
    best_s
        Of the best schedule known so far.
    """

    def __init__(self, mod: tvm.IRModule, target: tvm.target.Target, best_s: float = float("inf")) -> None:
        super().__init__(target, best_s)
        kind = str(target.kind.name)
        if kind == "opencl":
            load_opencl()
        self._device = tvm.device(kind, 0)
        self._arguments = tuple(
            tvm.runtime.tensor(array, device=self._device) for array in random_arguments(mod["main"])
        )
        # PoCL's devices are the workers' own CPUs; a GPU is shared by all of them, so they take turns.
        self._shared = int(target.attrs.get("thread_warp_size", 32)) > 1

    def load(self, library: tvm.runtime.Executable) -> GpuCall:
        """The library's kernel."""
        return GpuCall(library["main"], library.jit())

    def first_call(self, program: GpuCall) -> float:
        """Seconds of a call, after one that builds and warms up; a rough figure."""
        with self._turn():
            program(*self._arguments)
            self._device.sync()
            once = program.evaluate.time_evaluator("main", self._device, number=1, repeat=1)
            return max(float(once(*self._arguments).mean), 1e-8)

    def samples(self, program: GpuCall, once_s: float, count: int) -> list[float]:
        """Seconds a call; the host's overhead is no part of them."""
        number = max(1, round(SAMPLE_S / once_s))
        with self._turn():
            evaluator = program.evaluate.time_evaluator("main", self._device, number=number, repeat=count)
            return [max(float(seconds), 1e-9) for seconds in evaluator(*self._arguments).results]

    def results(self) -> list[Array]:
        """The result of the last call."""
        return [self._arguments[-1].numpy()]

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with FileLock(cache_dir() / "device.lock") if self._shared else nullcontext():
            yield

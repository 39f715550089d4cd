"""Timing kernels on a GPU-kind device, by the device's own clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from filelock import FileLock

from ofa_tvm.compiler.kernels import shapes
from ofa_tvm.files import cache_dir
from ofa_tvm.native.opencl import load_opencl

_SAMPLE_S = 2e-3


@dataclass(frozen=True)
class GpuCall:
    """A built kernel: called like a function, and timed by the runtime's evaluator."""

    main: Any
    evaluate: Any

    def __call__(self, *arguments: tvm.runtime.Tensor) -> None:
        self.main(*arguments)


@dataclass(frozen=True)
class GpuSubject:
    """A kernel's arguments on the device; takes the place of `timing.Subject`.

    Parameters
    ----------
    arguments
        On the device.
    device
        Where they live.
    alone
        Whether workers take turns, because their devices are one and the same.
    """

    arguments: tuple[tvm.runtime.Tensor, ...]
    device: Any
    alone: bool

    @property
    def result(self) -> np.ndarray:
        """The result of the last call."""
        return self.arguments[-1].numpy()

    def prepared(self, library: tvm.runtime.Executable) -> GpuCall:
        """The kernel of a library, ready to be called and timed."""
        return GpuCall(library["main"], library.jit())

    def calibrated(self, _library: tvm.runtime.Executable) -> GpuSubject:
        """Itself: the device's clock leaves the host's overhead out."""
        return self

    def first_call(self, call: GpuCall) -> float:
        """Seconds of a call, after one that builds and warms up; a rough figure."""
        with self._turn():
            call(*self.arguments)
            self.device.sync()
            once = call.evaluate.time_evaluator("main", self.device, number=1, repeat=1)
            return max(float(once(*self.arguments).mean), 1e-8)

    def samples(self, call: GpuCall, once_s: float, count: int) -> list[float]:
        """Seconds a call, `count` samples that each fill about two milliseconds."""
        number = max(1, round(_SAMPLE_S / once_s))
        with self._turn():
            evaluator = call.evaluate.time_evaluator("main", self.device, number=number, repeat=count)
            return [max(float(seconds), 1e-9) for seconds in evaluator(*self.arguments).results]

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with FileLock(cache_dir() / "device.lock") if self.alone else nullcontext():
            yield


def make_gpu_subject(function: tvm.tirx.PrimFunc, target: tvm.target.Target) -> GpuSubject:
    """Random arguments for a kernel on this machine's first device of the target's kind."""
    kind = str(target.kind.name)
    if kind == "opencl":
        load_opencl()
    device = tvm.device(kind, 0)
    # Values from 0 to 1: integers are valid indices, and no root or logarithm is invalid.
    rng = np.random.default_rng(0)
    arguments = tuple(
        tvm.runtime.tensor(rng.random(shape).astype(str(buffer.dtype)), device=device)
        for shape, buffer in zip(shapes(function), function.params, strict=True)
    )
    # PoCL's devices are the workers' own CPUs; a GPU is shared by all of them.
    return GpuSubject(arguments, device, alone=int(target.attrs.get("thread_warp_size", 32)) > 1)

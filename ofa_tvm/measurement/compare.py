"""Other runtimes under the same protocol, so that a comparison is fair."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ofa_tvm.measurement.measurer import measure
from ofa_tvm.measurement.pinning import pinned
from ofa_tvm.measurement.protocol import interleave
from ofa_tvm.measurement.result import Measurement
from ofa_tvm.targets import Target, detect_machine

if TYPE_CHECKING:
    import torch


def measure_onnxruntime(
    path: str | os.PathLike[str], target: Target, *, repeats: int | None = None, seconds: float = 5.0
) -> Measurement:
    """Time an ONNX file by ONNX Runtime's CPU provider with `target`'s threads, in a process of its own.

    For a ratio give the `.so` and the `.onnx` to one `measure_many`.
    """
    return measure(path, target, repeats=repeats, seconds=seconds)


def torch_subject(module: torch.nn.Module, x: npt.NDArray[np.float32]) -> Callable[[], Any]:
    """Eager forward pass of `module` on `x` (n, 3, h, w), ready for `measure_callables`."""
    import torch

    module = module.eval()
    tensor = torch.from_numpy(x)

    def call() -> Any:
        with torch.inference_mode():
            return module(tensor)

    return call


def measure_callables(
    subjects: Mapping[str, Callable[[], object]],
    target: Target,
    *,
    repeats: int | None = None,
    seconds: float = 5.0,
) -> dict[str, Measurement]:
    """Time callables of this process in interleaved rounds, pinned to as many CPUs as `target` has threads.

    torch is held to that thread count if it is loaded. The callables see to their own.
    """
    import sys

    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else 0
    if torch is not None:
        torch.set_num_threads(target.threads)
    try:
        with pinned(target.threads) as cpus:
            timings = interleave(
                subjects,
                repeats=target.measure.repeats if repeats is None else repeats,
                sample_ms=target.measure.sample_ms,
                seconds=seconds,
            )
    finally:
        if torch is not None:
            torch.set_num_threads(before)
    machine = detect_machine().model
    return {
        name: Measurement.of(timing, target.name, target.threads, cpus, machine)
        for name, timing in timings.items()
    }

"""Which kernels get how many trials, and in which order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ofa_tvm.compiler.kernels import Kernel
from ofa_tvm.compiler.templates import templates_of
from ofa_tvm.logs import KernelTable
from ofa_tvm.targets import Target

Weights = Mapping[str, float]
"""Mean calls of each kernel in the networks that matter, by its key."""


def allot(kernels: Sequence[Kernel], trials: int, weights: Weights | None = None) -> dict[str, int]:
    """Trials of each kernel, by key: more where more of the networks' operations are.

    They grow with the square root of a kernel's share (the gain of another trial falls with their number),
    between half of `trials` and twice as many.
    """
    work = np.array([_work(kernel, weights) for kernel in kernels])
    mean = work.mean() if len(work) and work.any() else 1.0
    several = np.clip(np.ceil(trials * np.sqrt(work / mean)), math.ceil(trials / 2), 2 * trials)
    return {kernel.key: int(count) for kernel, count in zip(kernels, several, strict=True)}


def trials_left(kernel: Kernel, table: KernelTable, target: Target, trials: int) -> int:
    """Trials that a campaign of `trials` a kernel still has to make: no more than there are schedules."""
    made = table.trials(kernel.key)
    if made >= trials:
        return 0
    in_all = templates_of(target.tvm_target()).count(kernel.mod)
    return trials - made if in_all is None else max(0, min(trials, in_all) - made)


def by_weight(kernels: Sequence[Kernel], weights: Weights | None) -> list[Kernel]:
    """Those first that take most of the networks' operations."""
    return sorted(kernels, key=lambda kernel: -_work(kernel, weights))


def by_time(kernels: Sequence[Kernel], records: KernelTable, weights: Weights | None) -> list[Kernel]:
    """Those first that take most of the networks' time by their best records; all have one."""
    return sorted(kernels, key=lambda kernel: -_calls(kernel, weights) * records.records[kernel.key][0].cost)


def _work(kernel: Kernel, weights: Weights | None) -> float:
    return _calls(kernel, weights) * kernel.flops


def _calls(kernel: Kernel, weights: Weights | None) -> float:
    return kernel.calls if weights is None else weights.get(kernel.key, 0.0)

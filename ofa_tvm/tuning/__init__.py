"""Tuning: the kernel union of a space, and campaigns that fill a target's log.

Names are loaded on first use, because the worker is a module of this package and has to keep torch out
before tvm is imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ofa_tvm.tuning.allotment import allot, trials_left
    from ofa_tvm.tuning.campaign import TuningResult, time_again, timing_device, tune_kernels
    from ofa_tvm.tuning.union import KernelUnion, kernel_union, subnets_to_lower

__all__ = [
    "KernelUnion",
    "TuningResult",
    "allot",
    "kernel_union",
    "subnets_to_lower",
    "time_again",
    "timing_device",
    "trials_left",
    "tune_kernels",
]
_MODULES = {
    "KernelUnion": "union",
    "kernel_union": "union",
    "subnets_to_lower": "union",
    "allot": "allotment",
    "trials_left": "allotment",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'campaign')}"), name)

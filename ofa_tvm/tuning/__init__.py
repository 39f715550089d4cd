"""Tuning: the kernel union of a space, and campaigns that fill a target's log."""

from ofa_tvm.tuning.campaign import TuningResult, trials_left, tune_kernels
from ofa_tvm.tuning.union import KernelUnion, kernel_union

__all__ = ["KernelUnion", "TuningResult", "kernel_union", "trials_left", "tune_kernels"]

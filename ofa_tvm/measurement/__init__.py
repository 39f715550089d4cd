"""The timing protocol: warm-up, interleaved rounds, pinned threads, noise detection, isolation."""

from __future__ import annotations

from ofa_tvm.measurement.calls import CallTimes
from ofa_tvm.measurement.compare import measure_callables, measure_onnxruntime, torch_subject
from ofa_tvm.measurement.measure_calls import measure_calls
from ofa_tvm.measurement.measurer import Measurer, measure, measure_many
from ofa_tvm.measurement.profile import KernelTime, profile
from ofa_tvm.measurement.protocol import Timing, interleave, ratio
from ofa_tvm.measurement.result import Measurement

__all__ = [
    "CallTimes",
    "KernelTime",
    "Measurement",
    "Measurer",
    "Timing",
    "interleave",
    "measure",
    "measure_callables",
    "measure_calls",
    "measure_many",
    "measure_onnxruntime",
    "profile",
    "ratio",
    "torch_subject",
]

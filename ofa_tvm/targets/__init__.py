"""Target descriptors: what to compile for, how to link, where to run, how to measure, the hardware."""

from __future__ import annotations

from ofa_tvm.number_formats import DType
from ofa_tvm.targets.load import get_target, list_targets, load_target, target_names
from ofa_tvm.targets.machine import Machine, detect_machine
from ofa_tvm.targets.target import Hardware, Link, MeasureSettings, Run, Target
from ofa_tvm.targets.variant import Variant

__all__ = [
    "DType",
    "Hardware",
    "Link",
    "Machine",
    "MeasureSettings",
    "Run",
    "Target",
    "Variant",
    "detect_machine",
    "get_target",
    "list_targets",
    "load_target",
    "target_names",
]

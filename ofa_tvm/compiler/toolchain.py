"""TVM made quick to start: no intrinsics of GPUs where a CPU is the target."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path


def load_cpu_intrinsics() -> None:
    """Register the tensor intrinsics of CPUs, and only these.

    MetaSchedule imports `tvm.s_tir.tensor_intrin`, whose package parses every intrinsic of CUDA, ROCm and
    Hexagon (20 s, in each process). A stand-in package leads to the same modules without running that.
    """
    name = "tvm.s_tir.tensor_intrin"
    if name in sys.modules:
        return
    import tvm.s_tir

    package = types.ModuleType(name)
    package.__path__ = [str(Path(tvm.s_tir.__file__).parent / "tensor_intrin")]
    sys.modules[name] = package
    tvm.s_tir.tensor_intrin = package
    for module in ("dot_product_common", "x86", "arm_cpu"):
        importlib.import_module(f"{name}.{module}")

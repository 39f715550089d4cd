"""What TVM makes of a target: host code or not; and TVM made quick to start where a CPU is the target."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tvm


def on_cpu(target: tvm.target.Target) -> bool:
    """Whether kernels become host code, and not code for a device that the host launches."""
    return str(target.kind.name) == "llvm"


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

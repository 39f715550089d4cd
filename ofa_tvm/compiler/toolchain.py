"""TVM made quick to start: no torch, no GPU tensor intrinsics, no quiet work on first import."""

from __future__ import annotations

import importlib
import os
import sys
import types
from pathlib import Path


def without_torch() -> None:
    """Keep this process from importing torch, which `import tvm` otherwise does (2 s, 200 MB).

    For processes that never need torch: workers and the runtime verbs. Call it before tvm is imported.
    """
    os.environ["TVM_FFI_DISABLE_TORCH_C_DLPACK"] = "1"
    if "torch" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment]


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

"""Compiling: ONNX -> Relax -> fused channels-last kernels -> a shared library.

Names are loaded on first use: tuning workers need the schedules of this package but neither ONNX nor torch,
and have to keep torch out before tvm is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ofa_tvm.compiler.build import CompiledModule, compile
    from ofa_tvm.compiler.network import KernelUse

__all__ = ["CompiledModule", "KernelUse", "compile"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ofa_tvm.compiler import build

    return getattr(build, name)

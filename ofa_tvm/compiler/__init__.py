"""Compiling: ONNX -> Relax -> fused channels-last kernels -> a shared library."""

from ofa_tvm.compiler.build import CompiledModule, KernelUse, compile

__all__ = ["CompiledModule", "KernelUse", "compile"]

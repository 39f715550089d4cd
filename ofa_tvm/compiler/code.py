"""Code of scheduled kernels: TVM's lowering, with the accumulators of CPU kernels on the stack."""

from __future__ import annotations

import math
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.tirx import compilation_pipeline

from ofa_tvm.compiler import byte_tables, dots, pairs, rounding
from ofa_tvm.compiler.toolchain import on_cpu
from ofa_tvm.targets.tvm_target import cpu_features

# Of what is done here, a part of cached objects' names.
REVISION = f"stack-4 {dots.REVISION} {byte_tables.REVISION} {rounding.REVISION} {pairs.REVISION}"
_PIPELINE = "ofa_tvm_cpu"
_KEPT = {"disable_lower_builtin": tirx.const(1, "bool")}
_LARGEST_BYTES = 8 << 10  # of an accumulator on the stack


def kernel_code(mod: tvm.IRModule, target: tvm.target.Target) -> tvm.runtime.Executable:
    """Compile kernels in their final form.

    CPU kernels do not look at what they are called on: networks, which are checked at their inputs, and the
    tuner call them on tensors of their own. TVM's checks are more than half of a kernel's object and a third
    of the time that it takes to make.

    Parameters
    ----------
    mod
        PrimFuncs (`final.final_form`).
    target
        What code is made for.
    """
    if not on_cpu(target):
        return tvm.compile(mod, target=target)
    settings = {"tirx.disable_assert": True}
    with tvm.transform.PassContext(config=settings, disabled_pass=["tirx.UnrollLoop"]):  # see `_unrolled`
        return tvm.compile(mod, target=target, tir_pipeline=_PIPELINE)


def _cpu_pipeline() -> tuple[Any, Any, Any]:
    lower, _, finish_device = compilation_pipeline.get_tir_pipeline("s_tir")

    def finish_host() -> tvm.transform.Pass:
        passes = [
            _on_stack,
            _unrolled_for_words,
            _with_instructions,
            tirx.transform.LowerTVMBuiltin(),
            tirx.transform.LowerIntrin(),
            _unrolled,
        ]
        return tvm.transform.Sequential(passes)

    return lower, finish_host, finish_device


@tirx.transform.prim_func_pass(opt_level=0, name="ofa_tvm.OnStack")
def _on_stack(function: tirx.PrimFunc, _mod: tvm.IRModule, _context: Any) -> tirx.PrimFunc:
    """Keep small local buffers where LLVM can make registers of them.

    TVM asks its allocator for each of them in every tile, and what was allocated has to be stored.
    """

    def kept(stmt: tirx.AllocBuffer) -> tirx.AllocBuffer:
        buffer = stmt.buffer
        if buffer.scope() != "local" or not all(isinstance(v, tirx.IntImm) for v in buffer.shape):
            return stmt
        dtype = tvm.DataType(buffer.dtype)
        size = math.prod(int(v) for v in buffer.shape) * dtype.bits * dtype.lanes // 8
        return tirx.AllocBuffer(buffer, _KEPT) if size <= _LARGEST_BYTES else stmt

    return function.with_body(tvm_ffi.structural_map(function.body, (tirx.AllocBuffer, kept)))


@tirx.transform.prim_func_pass(opt_level=0, name="ofa_tvm.Instructions")
def _with_instructions(function: tirx.PrimFunc, _mod: tvm.IRModule, _context: Any) -> tirx.PrimFunc:
    """Instructions for sums of products of bytes, for tables of them, for what becomes one; for bfloat16."""
    target = function.attrs["target"]
    for rewritten in (
        dots.with_dots,
        byte_tables.with_lookups,
        rounding.with_saturation,
        pairs.with_pairs,
    ):
        function = rewritten(function, target)
    return function


@tvm.transform.module_pass(opt_level=0, name="ofa_tvm.UnrolledForWords")
def _unrolled_for_words(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
    """Unrolled loops for ARM, whose instructions take words of vectors by numbers."""
    neon = any("neon" in cpu_features(function.attrs["target"]) for function in mod.functions.values())
    return _unrolled(mod) if neon else mod


@tvm.transform.module_pass(opt_level=0, name="ofa_tvm.Unrolled")
def _unrolled(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
    """Unrolled loops, as late as can be: all passes go over every copy, for a quarter of a compilation."""
    return tirx.transform.StmtSimplify()(tirx.transform.UnrollLoop()(mod))


compilation_pipeline.PIPELINE_MAP[_PIPELINE] = _cpu_pipeline

"""The final form of scheduled kernels: what code is made of.

Kernels are rewritten only here, behind scheduling, so that their identity, by which tuning logs know them,
and their schedules are those of the network.
"""

from __future__ import annotations

import math

import tvm
import tvm_ffi
from tvm import tirx

from ofa_tvm.compiler.as_written import as_written
from ofa_tvm.compiler.nan import keeping_nan
from ofa_tvm.compiler.pairs import folded
from ofa_tvm.compiler.toolchain import on_cpu
from ofa_tvm.compiler.vectors import BYTES


def final_form(mod: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """Kernels as code is to be made of them: NaN is kept, on GPUs true is one, on CPUs indices are short.

    Parameters
    ----------
    mod
        Scheduled kernels.
    target
        What code will be made for.
    """
    functions = {}
    for var, function in mod.functions.items():
        body = as_written(function.body)
        if on_cpu(target):
            body = folded(keeping_nan(body, target))
            functions[var] = _with_short_indices(function.with_body(body))
        else:
            functions[var] = function.with_body(keeping_nan(_with_true_as_one(body), target))
    return tvm.IRModule(functions)


def _with_short_indices(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Indices of kernels of bytes or of bfloat16 as int32, where none is larger.

    TVM's own pass for this comes after the loops' hints have become statements, which then name loops that
    are no more: such loops are not taken apart. The pass that is used here takes data for indices as well, so
    kernels with int64 in them stay as they are.
    """
    of_dots = any(str(v.dtype) in (*BYTES, "bfloat16") for v in function.params[:1])
    large = any(math.prod(map(int, v.shape)) >= 1 << 31 for v in function.params)
    if not of_dots or large or _has_int64(function):
        return function
    return tirx.transform.ForceNarrowIndexToInt32()(tvm.IRModule({"main": function}))["main"]


def _has_int64(function: tirx.PrimFunc) -> bool:
    """Whether a kernel reads or writes int64."""
    dtypes = [str(parameter.dtype) for parameter in function.params]
    tvm_ffi.structural_walk(
        function.body, (tirx.BufferStore, lambda store: dtypes.append(str(store.buffer.dtype)))
    )
    return "int64" in dtypes


def _with_true_as_one(body: tirx.Stmt) -> tirx.Stmt:
    """Conversions of truth values as choices between one and zero.

    OpenCL's comparisons of vectors give -1 where they hold (OpenCL C 1.2, section 6.3.d), which TVM converts.
    """

    def chosen(cast: tirx.Cast) -> tvm.ir.Expr:
        if str(cast.value.ty.dtype) != "bool" or str(cast.ty.dtype) == "bool":
            return cast
        dtype = cast.ty.dtype
        return tirx.Select(cast.value, tirx.const(1, dtype), tirx.const(0, dtype))

    return tvm_ffi.structural_map(body, (tirx.Cast, chosen))

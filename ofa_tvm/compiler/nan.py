"""Maxima and minima that keep NaN and -inf, as ONNX Runtime's: a bad pixel must not become a confident class.

TVM's `max(x, 0)` is 0 where x is NaN, so a rectifier would hide what went wrong.

- On x86 `max(0, x)` is one instruction, as `max(x, 0)` is, and gives its second operand where one is NaN
  (Intel's manual, MAXPS): constants go first. Two values that may both be NaN take a comparison more.
- On ARM `FMAX` keeps NaN where `FMAXNM`, which LLVM makes of `max`, does not; both are one instruction.
- GPUs get a comparison and a choice. Maxima over a reduction stay as they are there, since TVM has to know
  them by their form to divide them among threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tvm
import tvm_ffi
from tvm import tirx

from ofa_tvm.compiler.toolchain import on_cpu

_EXTREMA = (tirx.Max, tirx.Min)
_INTRINSICS = {tirx.Max: "llvm.maximum", tirx.Min: "llvm.minimum"}
_SIMPLE = (
    tvm.ir.Var,
    tvm.ir.TensorLoad,
    tirx.FloatImm,
)  # LLVM loads these once, however often they are named


def keeping_nan(body: tirx.Stmt, target: tvm.target.Target) -> tirx.Stmt:
    """The same code with NaN passed on by every floating-point maximum and minimum.

    Parameters
    ----------
    body
        Of a scheduled kernel.
    target
        What code will be made for.
    """
    host_code = on_cpu(target)
    accumulators = _accumulators(body)

    def extremum(node: tirx.Max | tirx.Min) -> tvm.ir.Expr:
        if "float" not in str(node.ty.dtype):
            return node
        unknown = [o for o in (node.a, node.b) if isinstance(o, tirx.FloatImm) and math.isnan(o.value)]
        if unknown:
            return unknown[0]
        if not host_code:
            return node if _accumulates(node, accumulators) else _chosen(node)
        return _intrinsic(node) if _is_arm(target) else _ordered(node)

    def start(store: tirx.BufferStore) -> tirx.Stmt:
        if not host_code or not any(store.buffer.same_as(buffer) for buffer in accumulators):
            return store
        return _from_infinity(store)

    return tvm_ffi.structural_map(body, [(_EXTREMA, extremum), (tirx.BufferStore, start)])


def _from_infinity(store: tirx.BufferStore) -> tirx.BufferStore:
    """TVM starts a maximum at the lowest finite value, which is above that of nothing but -inf."""
    value, dtype = store.value, str(store.value.ty.dtype)
    if not isinstance(value, tirx.FloatImm) or abs(value.value) != tvm.tirx.max_value(dtype).value:
        return store
    infinite = tirx.FloatImm(dtype, math.copysign(math.inf, value.value))
    return tirx.BufferStore(store.buffer, infinite, store.indices)


def _is_arm(target: tvm.target.Target) -> bool:
    triple = target.attrs.get("mtriple") or tvm.target.codegen.llvm_get_system_triple()
    return str(triple).startswith(("aarch64", "arm"))


def _accumulators(body: tirx.Stmt) -> list[tirx.Buffer]:
    """Buffers that a maximum or minimum updates."""
    found: list[tirx.Buffer] = []

    def visit(store: tirx.BufferStore) -> None:
        if isinstance(store.value, _EXTREMA) and _accumulates(store.value, [store.buffer]):
            found.append(store.buffer)

    tvm_ffi.structural_walk(body, (tirx.BufferStore, visit))
    return found


def _accumulates(node: tirx.Max | tirx.Min, buffers: list[tirx.Buffer]) -> bool:
    """Whether two values are compared of which one is an accumulator."""
    loads = [operand for operand in (node.a, node.b) if isinstance(operand, tvm.ir.TensorLoad)]
    variable = not any(isinstance(operand, tirx.FloatImm) for operand in (node.a, node.b))
    return variable and any(load.source.same_as(buffer) for load in loads for buffer in buffers)


def _intrinsic(node: tirx.Max | tirx.Min) -> tvm.ir.Expr:
    return tirx.call_llvm_pure_intrin(node.ty.dtype, _INTRINSICS[type(node)], node.a, node.b)


def _ordered(node: tirx.Max | tirx.Min) -> tvm.ir.Expr:
    """`a > b ? a : b` is b where one of them is NaN, so the one that may be NaN has to be b."""
    if isinstance(node.b, tirx.FloatImm):
        return type(node)(node.b, node.a)
    if isinstance(node.a, tirx.FloatImm):
        return node
    if isinstance(node.b, _SIMPLE):
        return _or_itself(node.b, lambda value: type(node)(value, node.a))
    return _or_itself(node.a, lambda value: type(node)(value, node.b))


def _chosen(node: tirx.Max | tirx.Min) -> tvm.ir.Expr:
    """By an explicit comparison, whose meaning no GPU's compiler changes."""
    beats = tirx.GT if isinstance(node, tirx.Max) else tirx.LT
    first, second = (node.a, node.b) if isinstance(node.a, tirx.FloatImm) else (node.b, node.a)
    if isinstance(first, tirx.FloatImm):
        return _once(second, lambda value: tirx.Select(beats(first, value), first, value))
    return _or_itself(first, lambda a: _once(second, lambda b: tirx.Select(beats(a, b), a, b)))


def _or_itself(expr: tvm.ir.Expr, otherwise: Callable[[tvm.ir.Expr], tvm.ir.Expr]) -> tvm.ir.Expr:
    """`expr` where it is NaN, else what is made of it.

    TVM takes `value == value` for true, and does not vectorise `isnan`.
    """
    infinite = tirx.FloatImm(expr.ty.dtype, math.inf)
    return _once(expr, lambda value: tirx.Select(tirx.LE(value, infinite), otherwise(value), value))


def _once(expr: tvm.ir.Expr, use: Callable[[tvm.ir.Expr], tvm.ir.Expr]) -> tvm.ir.Expr:
    """`use` of a value that is computed once."""
    if isinstance(expr, _SIMPLE):
        return use(expr)
    variable = tirx.Var("value", expr.ty.dtype)
    return tirx.Let(variable, expr, use(variable))

"""Where along an axis the largest or smallest value lies: the first of equal ones, and NaN before all.

TVM's own definition passes NaN over, and answers -1 where no value is above the lowest that its type has: of
zeros in uint8, or of -inf alone.
"""

from __future__ import annotations

import math

import numpy as np
import tvm
from tvm import relax, te, tirx

from ofa_tvm.compiler.dataflow import static_shape
from ofa_tvm.compiler.te_calls import call_te


def legal_arg_extremum(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """For `LegalizeOps`, on CPUs: `relax.argmax` and `relax.argmin` along an axis."""
    largest = call.op.name == "relax.argmax"
    if call.attrs.axis is None or static_shape(call.args[0]) is None:
        legalize = relax.transform.legalize_ops.search
        te_function = legalize.topi.argmax if largest else legalize.topi.argmin
        return legalize._argmax_argmin(te_function)(bb, call)
    axis, keepdims = int(call.attrs.axis), bool(call.attrs.keepdims)
    name = "argmax" if largest else "argmin"
    return call_te(bb, _position, call.args[0], axis, keepdims, largest, name=name)


def _position(data: te.Tensor, axis: int, keepdims: bool, largest: bool) -> te.Tensor:
    """Positions as int64."""
    axis %= len(data.shape)
    reducer = te.comm_reducer(_better(largest), _start(str(data.dtype), largest), name="position")
    k = te.reduce_axis((0, data.shape[axis]), name="k")
    kept = [1 if i == axis else n for i, n in enumerate(data.shape) if i != axis or keepdims]

    def found(*at: tirx.Var) -> tuple[te.Tensor, ...]:
        others = at[:axis], at[axis + 1 :] if keepdims else at[axis:]
        return reducer((tirx.Cast("int64", k.var), data[(*others[0], k.var, *others[1])]), axis=k)

    index, _ = te.compute(kept, found, name="found")
    return te.compute(kept, lambda *at: index(*at), name="position")


def _start(dtype: str, largest: bool):  # type: ignore[no-untyped-def]
    if "float" in dtype:
        worst = tirx.FloatImm(dtype, -math.inf if largest else math.inf)
    else:
        limits = np.iinfo(dtype)
        worst = tirx.const(limits.min if largest else limits.max, dtype)
    return lambda index_dtype, _: (tirx.const(0, index_dtype), worst)


def _better(largest: bool):  # type: ignore[no-untyped-def]
    def combined(
        one: tuple[tvm.ir.Expr, tvm.ir.Expr], other: tuple[tvm.ir.Expr, tvm.ir.Expr]
    ) -> tuple[tvm.ir.Expr, tvm.ir.Expr]:
        stays = tirx.GE(one[1], other[1]) if largest else tirx.LE(one[1], other[1])
        if "float" in str(one[1].ty.dtype):
            number = tirx.LE(one[1], tirx.FloatImm(one[1].ty.dtype, math.inf))
            stays = tirx.Or(stays, tirx.Not(number))
        return tuple(tirx.Select(stays, a, b) for a, b in zip(one, other, strict=True))

    return combined

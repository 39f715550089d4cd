"""Reductions along rows, softmax and normalisations, defined so that they vectorise and keep their digits.

A float sum may not be reordered by a compiler, so a row that lies along the vectors would be added up one
value at a time. Here each row has as many partial results as fill a few vectors, and these are reduced at the
end. Sums are in float32 whatever the tensor's type. The variance is that of the differences from the mean,
in two passes: E[x^2] - E[x]^2 loses all digits where the mean is large.

Reductions over axes that are not the last need no such care: their vectors lie across them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import tvm
from tvm import relax, te, tirx
from tvm.ir import Expr

from ofa_tvm.compiler.dataflow import static_shape
from ofa_tvm.compiler.te_calls import call_te

_ACCUMULATORS = 4  # vectors of partial results: enough to hide an addition's latency

Legalizer = Callable[[relax.BlockBuilder, relax.Call], relax.Expr]
Index = Sequence[tirx.Var]
_Value = Callable[..., Expr]
_Own = Callable[[relax.BlockBuilder, relax.Call, int], relax.Expr | None]
"""With the float32 values in a vector register; None for what is left to TVM."""


class _Combiner:
    """How two partial results become one."""

    def __init__(self, reduce: Callable[..., Expr], combine: Callable[[Expr, Expr], Expr]) -> None:
        self.reduce, self.combine = reduce, combine


_SUM = _Combiner(te.sum, lambda a, b: a + b)
_MAX = _Combiner(te.max, tirx.max)
_MIN = _Combiner(te.min, tirx.min)


def _reduced(
    value: _Value, lead: Sequence[int], length: int, lanes: int, how: _Combiner, name: str
) -> te.Tensor:
    """Of `value(*row, i)`, i < length: one result for each row of `lead`."""
    width = lanes * _ACCUMULATORS if length >= 2 * lanes * _ACCUMULATORS else lanes
    chunks = length // width
    if not chunks:
        i = te.reduce_axis((0, length), "i")
        return te.compute(lead, lambda *row: how.reduce(value(*row, i), axis=i), name=name)
    chunk = te.reduce_axis((0, chunks), "chunk")
    partial = te.compute(
        (*lead, width),
        lambda *at: how.reduce(value(*at[:-1], chunk * width + at[-1]), axis=chunk),
        name=f"{name}_partial",
    )
    rest = length - chunks * width
    whole = _folded(partial, how, name)
    if not rest:
        return whole
    tail = _reduced(
        lambda *at: value(*at[:-1], at[-1] + chunks * width), lead, rest, lanes, how, f"{name}_tail"
    )
    return te.compute(lead, lambda *row: how.combine(whole(*row), tail(*row)), name=name)


def _folded(partial: te.Tensor, how: _Combiner, name: str) -> te.Tensor:
    """The last axis reduced by quarters, which vectors can do, and what remains value by value."""
    *lead, width = (int(extent) for extent in partial.shape)
    if width > 4:
        part = width // 4

        def folded(*at: Expr) -> Expr:
            first, second, third, fourth = (partial(*at[:-1], at[-1] + n * part) for n in range(4))
            return how.combine(how.combine(first, second), how.combine(third, fourth))

        return _folded(te.compute((*lead, part), folded, name=f"{name}_{part}"), how, name)
    lane = te.reduce_axis((0, width), "lane")
    return te.compute(lead, lambda *row: how.reduce(partial(*row, lane), axis=lane), name=name)


def _wide(x: Expr) -> Expr:
    return x.astype("float32")


def _moments(x: te.Tensor, lanes: int) -> tuple[te.Tensor, te.Tensor]:
    """Mean and sum of squared differences from it, along the last axis."""
    *lead, length = (int(extent) for extent in x.shape)
    total = _reduced(lambda *at: _wide(x(*at)), lead, length, lanes, _SUM, "total")
    mean = te.compute(lead, lambda *row: total(*row) / tirx.const(length, "float32"), name="mean")

    def squared(*at: Expr) -> Expr:
        difference = _wide(x(*at)) - mean(*at[:-1])
        return difference * difference

    return mean, _reduced(squared, lead, length, lanes, _SUM, "squares")


def _scale(squares: te.Tensor, length: int, epsilon: float) -> te.Tensor:
    """What each row is multiplied by, from its sum of squares."""
    return te.compute(
        squares.shape,
        lambda *row: (
            tirx.const(1, "float32")
            / tirx.sqrt(squares(*row) / tirx.const(length, "float32") + tirx.const(epsilon, "float32"))
        ),
        name="scale",
    )


def _layer_norm(x: te.Tensor, gamma: te.Tensor, beta: te.Tensor, epsilon: float, lanes: int) -> te.Tensor:
    mean, squares = _moments(x, lanes)
    scale = _scale(squares, int(x.shape[-1]), epsilon)
    return te.compute(
        x.shape,
        lambda *at: (
            (_wide(x(*at)) - mean(*at[:-1])) * scale(*at[:-1]) * _wide(gamma(at[-1])) + _wide(beta(at[-1]))
        ).astype(x.dtype),
        name="layer_norm",
    )


def _rms_norm(x: te.Tensor, gamma: te.Tensor, epsilon: float, lanes: int) -> te.Tensor:
    *lead, length = (int(extent) for extent in x.shape)
    squares = _reduced(lambda *at: _wide(x(*at)) * _wide(x(*at)), lead, length, lanes, _SUM, "squares")
    scale = _scale(squares, length, epsilon)
    return te.compute(
        x.shape,
        lambda *at: (_wide(x(*at)) * scale(*at[:-1]) * _wide(gamma(at[-1]))).astype(x.dtype),
        name="rms_norm",
    )


def _softmax(x: te.Tensor, lanes: int) -> te.Tensor:
    *lead, length = (int(extent) for extent in x.shape)
    largest = _reduced(lambda *at: _wide(x(*at)), lead, length, lanes, _MAX, "largest")
    powers = te.compute(x.shape, lambda *at: tirx.exp(_wide(x(*at)) - largest(*at[:-1])), name="powers")
    total = _reduced(lambda *at: powers(*at), lead, length, lanes, _SUM, "total")
    scale = te.compute(lead, lambda *row: tirx.const(1, "float32") / total(*row), name="scale")
    return te.compute(x.shape, lambda *at: (powers(*at) * scale(*at[:-1])).astype(x.dtype), name="softmax")


def _log_softmax(x: te.Tensor, lanes: int) -> te.Tensor:
    *lead, length = (int(extent) for extent in x.shape)
    largest = _reduced(lambda *at: _wide(x(*at)), lead, length, lanes, _MAX, "largest")
    powers = te.compute(x.shape, lambda *at: tirx.exp(_wide(x(*at)) - largest(*at[:-1])), name="powers")
    total = _reduced(lambda *at: powers(*at), lead, length, lanes, _SUM, "total")
    shift = te.compute(lead, lambda *row: tirx.log(total(*row)), name="shift")
    return te.compute(
        x.shape,
        lambda *at: (_wide(x(*at)) - largest(*at[:-1]) - shift(*at[:-1])).astype(x.dtype),
        name="log_softmax",
    )


def _statistic(x: te.Tensor, kind: str, lanes: int) -> te.Tensor:
    """mean, sum, variance, std, max or min along the last axis."""
    *lead, length = (int(extent) for extent in x.shape)
    count = tirx.const(length, "float32")
    if kind in ("variance", "std"):
        _, squares = _moments(x, lanes)
        root: Callable[[Expr], Expr] = tirx.sqrt if kind == "std" else (lambda v: v)
        return te.compute(lead, lambda *row: root(squares(*row) / count).astype(x.dtype), name=kind)
    if kind in ("max", "min"):
        return _reduced(x, lead, length, lanes, _MAX if kind == "max" else _MIN, kind)
    total = _reduced(lambda *at: _wide(x(*at)), lead, length, lanes, _SUM, "total")
    return te.compute(
        lead,
        lambda *row: (total(*row) / count if kind == "mean" else total(*row)).astype(x.dtype),
        name=kind,
    )


def _across(x: te.Tensor, axes: Sequence[int], kind: str) -> te.Tensor:
    """Variance or standard deviation over axes of which none is the last; these stay, with extent 1."""
    shape = [int(extent) for extent in x.shape]
    kept = [1 if d in axes else extent for d, extent in enumerate(shape)]
    count = tirx.const(math.prod(shape[d] for d in axes), "float32")

    def summed(value: _Value, name: str) -> te.Tensor:
        loops = {d: te.reduce_axis((0, shape[d]), f"r{d}") for d in axes}
        return te.compute(
            kept,
            lambda *at: te.sum(
                value(*(loops.get(d, index) for d, index in enumerate(at))), axis=list(loops.values())
            ),
            name=name,
        )

    total = summed(lambda *at: _wide(x(*at)), "total")
    mean = te.compute(kept, lambda *at: total(*at) / count, name="mean")

    def squared(*at: Expr) -> Expr:
        difference = _wide(x(*at)) - mean(*(0 if d in axes else index for d, index in enumerate(at)))
        return difference * difference

    squares = summed(squared, "squares")
    root: Callable[[Expr], Expr] = tirx.sqrt if kind == "std" else (lambda v: v)
    return te.compute(kept, lambda *at: root(squares(*at) / count).astype(x.dtype), name=kind)


# From Relax.


def _is_float(expr: relax.Expr) -> bool:
    return str(expr.ty.dtype) in ("float32", "float16")


def _reshaped(bb: relax.BlockBuilder, expr: relax.Expr, shape: Sequence[int]) -> relax.Expr:
    if static_shape(expr) == tuple(shape):
        return expr
    if isinstance(expr, tvm.ir.GenericConst):
        return relax.const(expr.value.numpy().reshape(shape))
    return bb.emit(relax.op.reshape(expr, shape))


def _trailing(axes: Sequence[int], rank: int) -> bool:
    return sorted(axes) == list(range(rank - len(axes), rank))


def _axes(values: object, rank: int) -> list[int]:
    return sorted(int(v) % rank for v in values)  # type: ignore[attr-defined]


def _of_rows(
    bb: relax.BlockBuilder, call: relax.Call, axes: Sequence[int], emit: Callable[[relax.Expr], relax.Call]
) -> relax.Expr:
    """`emit` on the first argument with its last axes merged to one; the result has its shape again."""
    x = call.args[0]
    shape = static_shape(x) or ()
    lead = shape[: len(shape) - len(axes)]
    rows = _reshaped(bb, x, (*lead, math.prod(shape[len(lead) :])))
    result = emit(rows)
    return result if rows is x else relax.op.reshape(bb.emit(result), shape)


def _legal_layer_norm(bb: relax.BlockBuilder, call: relax.Call, lanes: int) -> relax.Expr | None:
    x, gamma, beta = call.args[:3]
    axes = _axes(call.attrs.axes, len(static_shape(x) or ()))
    flat = [_reshaped(bb, v, (math.prod(static_shape(v) or ()),)) for v in (gamma, beta)]
    epsilon = float(call.attrs.epsilon)
    if not _trailing(axes, len(static_shape(x) or ())):
        return None
    return _of_rows(
        bb,
        call,
        axes,
        lambda x: call_te(bb, _layer_norm, x, *flat, epsilon, lanes, name="layer_norm"),
    )


def _legal_rms_norm(bb: relax.BlockBuilder, call: relax.Call, lanes: int) -> relax.Expr | None:
    x, gamma = call.args[:2]
    axes = _axes(call.attrs.axes, len(static_shape(x) or ()))
    if not _trailing(axes, len(static_shape(x) or ())):
        return None
    flat = _reshaped(bb, gamma, (math.prod(static_shape(gamma) or ()),))
    epsilon = float(call.attrs.epsilon)
    return _of_rows(
        bb,
        call,
        axes,
        lambda x: call_te(bb, _rms_norm, x, flat, epsilon, lanes, name="rms_norm"),
    )


def _legal_softmax(bb: relax.BlockBuilder, call: relax.Call, lanes: int) -> relax.Expr | None:
    x = call.args[0]
    rank = len(static_shape(x) or ())
    if rank == 0 or int(call.attrs.axis) % rank != rank - 1:
        return None
    function = _softmax if call.op.name == "relax.nn.softmax" else _log_softmax
    return call_te(bb, function, x, lanes, name=function.__name__.strip("_"))


def _legal_statistic(bb: relax.BlockBuilder, call: relax.Call, lanes: int) -> relax.Expr | None:
    x = call.args[0]
    shape, result = static_shape(x) or (), static_shape(call)
    kind = call.op.name.removeprefix("relax.")
    axes = list(range(len(shape))) if call.attrs.axis is None else _axes(call.attrs.axis, len(shape))
    if not axes or result is None:
        return None
    if _trailing(axes, len(shape)):
        lead = shape[: len(shape) - len(axes)]
        rows = _reshaped(bb, x, (*(lead or (1,)), math.prod(shape[len(lead) :])))
        made = call_te(bb, _statistic, rows, kind, lanes, name=kind)
        return made if (lead or (1,)) == result else relax.op.reshape(bb.emit(made), result)
    if kind in ("variance", "std") and len(shape) - 1 not in axes:
        made = call_te(bb, _across, x, axes, kind, name=kind)
        return made if call.attrs.keepdims else relax.op.reshape(bb.emit(made), result)
    return None


_OWN: dict[str, _Own] = {
    "relax.nn.layer_norm": _legal_layer_norm,
    "relax.nn.rms_norm": _legal_rms_norm,
    "relax.nn.softmax": _legal_softmax,
    "relax.nn.log_softmax": _legal_softmax,
    **dict.fromkeys(
        (f"relax.{kind}" for kind in ("mean", "sum", "max", "min", "variance", "std")), _legal_statistic
    ),
}


def legalizers(lanes: int) -> dict[str, Legalizer]:
    """For `LegalizeOps`, by operator; what these do not cover is left to TVM's own.

    Parameters
    ----------
    lanes
        float32 values in a vector register of the CPU.
    """
    return {name: _or_default(name, function, lanes) for name, function in _OWN.items()}


def _or_default(name: str, own: _Own, lanes: int) -> Legalizer:
    def legalize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        if _is_float(call.args[0]) and static_shape(call.args[0]) is not None:
            made = own(bb, call, lanes)
            if made is not None:
                return made
        default: Legalizer = tvm.ir.Op.get(name).get_attr("FLegalize")
        return default(bb, call)

    return legalize

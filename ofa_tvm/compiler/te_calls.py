"""Calls of kernels that TE functions define; one of a form is made once, whatever network calls it.

The subnets of a space share nearly all of their operators' shapes, and tracing a TE function takes a third of
the time that lowering a network takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import tvm
from tvm import relax, te, tirx, topi

from ofa_tvm.compiler.dataflow import Shape, static_shape

_KEPT = 4096  # kernels, of a few kilobytes
_ELEMENTWISE = {
    **{
        f"relax.{name}": getattr(topi, name)
        for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum", "power", "clip")
    },
    "relax.nn.relu": topi.nn.relu,
}


@dataclass(frozen=True)
class _Tensor:
    shape: Shape
    dtype: str


@dataclass(frozen=True)
class _Number:
    """A constant in a kernel. As text: 0.0 equals -0.0, and NaN nothing."""

    value: str
    dtype: str


@dataclass(frozen=True)
class _Plain:
    """A Python value, beside its type: True equals 1 equals 1.0."""

    value: Any
    kind: type


@dataclass(frozen=True)
class _Kernel:
    function: tirx.PrimFunc
    result: relax.TensorType


def call_te(
    bb: relax.BlockBuilder,
    function: Callable[..., te.Tensor],
    *args: Any,
    name: str = "",
    attributes: Mapping[str, Any] | None = None,
) -> relax.Call:
    """A call of the kernel that a TE function defines, as by the builder's own `call_te`.

    Parameters
    ----------
    bb
        Takes the kernel up.
    function
        Of a module, not made anew for each call; what it gives follows from its arguments alone.
    args
        Its arguments, where tensors are given by expressions.
    name, attributes
        Of the kernel; by default the function's name, and none.
    """
    described = _described(args)
    stated = tuple(sorted((attributes or {}).items()))
    name = name or function.__name__
    if described is None:
        keywords = {"primfunc_attrs": dict(stated)} if stated else {}
        return bb.call_te(function, *args, primfunc_name_hint=name, **keywords)
    made = _made(function, described, stated)
    tensors = [arg for arg, known in zip(args, described, strict=True) if isinstance(known, _Tensor)]
    return relax.call_tir(bb.add_func(made.function, name), tensors, made.result)


def elementwise_legalizers() -> dict[str, Callable[[relax.BlockBuilder, relax.Call], relax.Expr]]:
    """For `LegalizeOps`: the frequent elementwise operators, as TVM defines them, by `call_te`."""

    def legal(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        function, args = _ELEMENTWISE[call.op.name], list(call.args)
        if len(args) == 2:  # one of them may be a constant of the kernel
            numbers = [_as_number(arg) for arg in args]
            which = 1 if isinstance(numbers[1], tirx.FloatImm | tirx.IntImm) else 0
            if not (function in (topi.multiply, topi.divide) and _is_zero(numbers[which])):
                args[which] = numbers[which]
        return call_te(bb, function, *args)

    return dict.fromkeys(_ELEMENTWISE, legal)


def _as_number(expr: relax.Expr) -> relax.Expr | tirx.FloatImm | tirx.IntImm:
    """The value of a constant of rank 0; anything else as it is."""
    if not isinstance(expr, tvm.ir.GenericConst) or static_shape(expr) != ():
        return expr
    value, dtype = expr.value.numpy()[()].item(), str(expr.ty.dtype)
    return tirx.FloatImm(dtype, value) if isinstance(value, float) else tirx.IntImm(dtype, int(value))


def _is_zero(number: object) -> bool:
    """Of floats: TVM takes 0 x and 0 / x for 0, whatever x is, NaN and infinity too."""
    return isinstance(number, tirx.FloatImm) and number.value == 0


def _described(args: tuple[Any, ...]) -> tuple[_Tensor | _Number | _Plain, ...] | None:
    """What a kernel depends on of its arguments; None if that is not known before it runs."""
    found: list[_Tensor | _Number | _Plain] = []
    for arg in args:
        if isinstance(arg, tirx.FloatImm | tirx.IntImm):
            found.append(_Number(repr(arg.value), str(arg.ty.dtype)))
        elif isinstance(arg, relax.Expr):
            shape = static_shape(arg)
            if shape is None or not isinstance(arg.ty, relax.TensorType):
                return None
            found.append(_Tensor(shape, str(arg.ty.dtype)))
        else:
            found.append(_Plain(tuple(arg) if isinstance(arg, list) else arg, type(arg)))
    return tuple(found)


@lru_cache(maxsize=_KEPT)
def _made(
    function: Callable[..., te.Tensor],
    described: tuple[_Tensor | _Number | _Plain, ...],
    attributes: tuple[tuple[str, Any], ...],
) -> _Kernel:
    tensors: list[te.Tensor] = []
    args: list[Any] = []
    for number, known in enumerate(described):
        if isinstance(known, _Tensor):
            shape = [tirx.IntImm("int64", extent) for extent in known.shape]
            tensors.append(te.placeholder(shape, known.dtype, name=f"in{number}"))
            args.append(tensors[-1])
        elif isinstance(known, _Number):
            whole = "float" not in known.dtype
            value = int(known.value) if whole else float(known.value)
            args.append((tirx.IntImm if whole else tirx.FloatImm)(known.dtype, value))
        else:
            args.append(list(known.value) if known.kind is list else known.value)
    result = function(*args)
    kernel = te.create_prim_func([*tensors, result], "int64").without_attr("global_symbol")
    if attributes:
        kernel = kernel.with_attrs(dict(attributes))
    return _Kernel(kernel, relax.TensorType([int(extent) for extent in result.shape], str(result.dtype)))

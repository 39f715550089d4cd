"""Reading Relax functions: their bindings, and the shapes that are fixed."""

from __future__ import annotations

import tvm
from tvm import relax

Shape = tuple[int, ...]


def bindings(function: relax.Function) -> list[relax.Binding]:
    """All bindings of a function without control flow, in order."""
    return [binding for block in function.body.blocks for binding in block.bindings]


def is_straight(function: relax.Function) -> bool:
    """Whether a function is a straight line of calls, tuples and constants."""
    plain = (relax.Call, relax.Var, relax.Tuple, relax.TupleGetItem, relax.ShapeExpr, tvm.ir.GenericConst)
    return all(isinstance(binding.value, plain) for binding in bindings(function))


def static_shape(expr: relax.Expr) -> Shape | None:
    """Shape of a tensor expression, None if it is not static."""
    return static_shape_of(expr.ty)


def static_shape_of(ty: tvm.ir.Type) -> Shape | None:
    """Shape of a tensor type, None if it is not static."""
    shape = getattr(ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr):
        return None
    values = [getattr(dim, "value", None) for dim in shape.values[:]]  # TVM checks each index of an iteration
    known = tuple(int(v) for v in values if v is not None)
    return known if len(known) == len(values) else None

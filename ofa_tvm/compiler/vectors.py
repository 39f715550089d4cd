"""Vectors in TVM's expressions, and operators of our own, which are lowered behind vectorization."""

from __future__ import annotations

import tvm
from tvm import tirx
from tvm.ir import Expr

BYTES = ("uint8", "int8")
"""Types of 8 bits."""

NEON_WORDS = 4
"""Values of 32 bits in a register of ARM's NEON."""


def pure_operator(name: str) -> tvm.ir.Op:
    """Register an operator without side effects that may be vectorized; scripts print it as its last word."""
    tvm.ir.register_op_attr(name, "TVectorizable", True)
    tvm.ir.register_op_attr(name, "TCallEffectKind", 1)  # tirx.CallEffectKind.Pure
    tvm.ir.register_op_attr(name, "TScriptPrinterName", name.rpartition("_")[2])
    return tvm.ir.Op.get(name)


def lanes_of(value: Expr) -> int:
    """How many values an expression has."""
    return int(tvm.DataType(str(value.ty.dtype)).lanes)


def element_of(value: Expr) -> str:
    """The type of one of them."""
    return str(value.ty.dtype).partition("x")[0]


def vector_of(dtype: str, lanes: int) -> str:
    """The type of so many of a type."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def splat(value: Expr, lanes: int) -> Expr:
    """A value so many times; a vector of so many stays as it is."""
    return value if lanes_of(value) == lanes else tirx.Broadcast(value, lanes)

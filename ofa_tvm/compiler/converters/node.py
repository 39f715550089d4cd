"""An ONNX node as a converter sees it: static shapes, decoded attributes, constants as arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import tvm
from tvm import relax

from ofa_tvm.compiler.dataflow import Shape, static_shape
from ofa_tvm.errors import UserError


class Emitter:
    """A module of Relax's operators whose calls are emitted, so that each has a type and is computed once."""

    def __init__(self, builder: relax.BlockBuilder, module: ModuleType) -> None:
        self._builder = builder
        self._module = module

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._module, name)
        if isinstance(member, ModuleType):
            return Emitter(self._builder, member)
        return lambda *arguments, **named: self._builder.emit(member(*arguments, **named))


Converter = Callable[["Node"], relax.Expr | Sequence[relax.Expr]]
"""What a node computes: one expression, or one for each output (those that nobody reads may be left out)."""


@dataclass(frozen=True)
class Node:
    """A node of the default ONNX domain with its operands as Relax expressions.

    Parameters
    ----------
    kind
        The operator, "Resize".
    name
        The node's name, or its first output's if it has none.
    inputs
        Operands in ONNX's order; None where an optional one is left out.
    attributes
        Those that the node gives: numbers, text, lists of numbers, arrays.
    outputs
        For each output whether it has a name.
    opset
        Version of ONNX's default operator set.
    builder
        Where expressions are emitted.
    """

    kind: str
    name: str
    inputs: tuple[relax.Expr | None, ...]
    attributes: Mapping[str, Any]
    outputs: tuple[bool, ...]
    opset: int
    builder: relax.BlockBuilder

    def refusal(self, reason: str) -> UserError:
        """The error for what has no converter: operator, node, and why."""
        return UserError(f"operator {self.kind} (node {self.name!r}) is not supported: {reason}")

    def has(self, index: int) -> bool:
        """Whether an operand is given."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def __getitem__(self, index: int) -> relax.Expr:
        """An operand that the operator cannot do without."""
        if not self.has(index):
            raise self.refusal(f"its input {index} is missing")
        return self.inputs[index]

    def attribute(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    def wants(self, output: int) -> bool:
        """Whether an output has a name, so that somebody may read it."""
        return output < len(self.outputs) and self.outputs[output]

    def shape(self, index: int = 0) -> Shape:
        """Static shape of an operand.

        Raises
        ------
        UserError
            If it depends on values that are known only when the network runs.
        """
        return self.shape_of(self[index])

    def shape_of(self, expr: relax.Expr) -> Shape:
        shape = static_shape(expr)
        if shape is None:
            raise self.refusal("the shape of its input depends on values computed by the network")
        return shape

    def dtype(self, index: int = 0) -> str:
        return dtype_of(self[index])

    def value(self, index: int) -> np.ndarray | None:
        """Value of an operand if it is given and constant."""
        if not self.has(index):
            return None
        operand = self.inputs[index]
        return operand.value.numpy() if isinstance(operand, tvm.ir.GenericConst) else None

    def constant(self, index: int, what: str) -> np.ndarray | None:
        """Value of an optional operand that has to be constant, None if it is left out.

        Raises
        ------
        UserError
            If it is computed by the network.
        """
        value = self.value(index)
        if value is None and self.has(index):
            raise self.refusal(f"its {what} must be constant; here the network computes it")
        return value

    def integers(self, index: int, what: str) -> list[int] | None:
        """`constant` as a list of integers."""
        value = self.constant(index, what)
        return None if value is None else [int(v) for v in value.reshape(-1)]

    def axis(self, default: int, rank: int | None = None) -> int:
        """The attribute `axis`, counted from the front."""
        rank = len(self.shape()) if rank is None else rank
        return self.normal_axis(int(self.attribute("axis", default)), rank)

    def normal_axis(self, axis: int, rank: int) -> int:
        """An axis counted from the front.

        Raises
        ------
        UserError
            If a tensor of that rank has no such axis.
        """
        if not -rank <= axis < rank:
            raise self.refusal(f"axis {axis} does not exist in a tensor of {rank} dimensions")
        return axis % rank

    @property
    def op(self) -> Emitter:
        """Relax's operators, emitted as they are called."""
        return Emitter(self.builder, relax.op)

    def te(self, function: Callable[..., Any], *tensors: Any, **settings: Any) -> relax.Expr:
        """Emit a computation given as a function of `te` tensors, and of settings that are no tensors."""

        def computed(*given: Any) -> Any:
            return function(*given, **settings)

        return self.builder.emit_te(computed, *tensors, primfunc_name_hint=function.__name__.strip("_"))


def dtype_of(expr: relax.Expr) -> str:
    """Element type of a tensor expression."""
    return str(expr.ty.dtype)

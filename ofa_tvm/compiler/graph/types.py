"""Types of values: tensors of numbers, and how everything else is refused."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from ofa_tvm.compiler.graph.folding import default_opset
from ofa_tvm.errors import UserError

_NUMBERS = frozenset(
    getattr(onnx.TensorProto, name)
    for name in ["FLOAT", "FLOAT16", "DOUBLE", "BOOL"]
    + [f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)]
)

_QUANTIZED_SHORTS = 21  # operator set since which integers of 16 bits may be quantised ones
_NO_KERNELS = ", which kernels are not made for; leave that part out of the model, or use float32"


def check_types(model: onnx.ModelProto) -> None:
    """Refuse what kernels are not made for.

    Parameters
    ----------
    model
        A model whose values have known types.

    Raises
    ------
    UserError
        If an input, an output or what a node computes is text, of an eight or four bit floating point type or
        the like, if an input or output is no tensor, or if an output is always empty; the sentence
        names the operator and its node.
    """
    graph = model.graph
    for value, what in [(v, "input") for v in graph.input] + [(v, "output") for v in graph.output]:
        kind = value.type.WhichOneof("value") or "tensor_type"
        if kind != "tensor_type":
            raise UserError(
                f"{what} {value.name!r} is of type {kind.removesuffix('_type')}, but a compiled network "
                f"takes and gives tensors; make each of its tensors an {what} of its own"
            )
        elem_type = value.type.tensor_type.elem_type
        if what == "input" and elem_type not in _NUMBERS:
            raise UserError(f"input {value.name!r} holds {_name(elem_type)}{_NO_KERNELS}")
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    given = types | {value.name: value.type.tensor_type.elem_type for value in graph.input}
    for node in graph.node:
        for name in [*node.input, *node.output]:
            elem_type = types.get(name, 0)
            if elem_type and elem_type not in _NUMBERS:
                raise UserError(
                    f"operator {node.op_type} (node {node.name or node.output[0]!r}) is not supported: "
                    f"{name!r} holds {_name(elem_type)}{_NO_KERNELS}"
                )
        if problem := _misfit(node, default_opset(model), given):
            raise UserError(
                f"operator {node.op_type} (node {node.name or node.output[0]!r}) does not fit its inputs: "
                f"{problem}; the model is no valid ONNX, export it again"
            )
    for value in graph.output:
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.HasField("dim_value")]
        if 0 in sizes[1:] and sizes[0]:  # TVM could write such a constant, but not read it
            shape = "x".join(map(str, sizes))
            raise UserError(f"output {value.name!r} holds nothing (its shape is {shape}); leave it out")
        elem_type = types.get(value.name, 0)
        if elem_type and elem_type not in _NUMBERS:
            raise UserError(f"output {value.name!r} holds {_name(elem_type)}{_NO_KERNELS}")


def _misfit(node: onnx.NodeProto, opset: int, types: Mapping[str, int]) -> str:
    """What is wrong with the types of an operator's inputs, which onnx's checker does not look at."""
    if node.op_type in ("DequantizeLinear", "QuantizeLinear"):
        opset = max(opset, _QUANTIZED_SHORTS)  # earlier, ONNX Runtime had operators of its own for them
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return ""
    allowed = {
        constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints
    }
    bound: dict[str, int] = {}
    for index, name in enumerate(node.input):
        formal = schema.inputs[min(index, len(schema.inputs) - 1)]
        elem_type, parameter = types.get(name, 0), formal.type_str
        if not name or elem_type not in _NUMBERS:
            continue
        if f"tensor({_short(elem_type)})" not in allowed.get(parameter, [parameter]):
            return f"its input {name!r} holds {_name(elem_type)}"
        if (
            parameter in allowed
            and formal.is_homogeneous
            and bound.setdefault(parameter, elem_type) != elem_type
        ):
            return f"its inputs hold {_name(bound[parameter])} and {_name(elem_type)}"
    return ""


def _name(elem_type: int) -> str:
    name = _short(elem_type)
    return "text" if name == "string" else f"numbers of type {name}"


def _short(elem_type: int) -> str:
    try:
        return onnx.TensorProto.DataType.Name(elem_type).lower()
    except ValueError:
        return f"{elem_type}, which is none of ONNX's"

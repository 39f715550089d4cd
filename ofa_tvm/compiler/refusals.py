"""Which node of a model is to blame when TVM fails on the whole: each is tried by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
from onnx import helper

from ofa_tvm.compiler.graph import reads
from ofa_tvm.errors import UserError

_LONGEST = 160  # characters of what TVM says


def refusal(model: onnx.ModelProto, attempt: Callable[[onnx.ModelProto], object], error: Exception) -> str:
    """What to say when `attempt` failed on a model.

    Parameters
    ----------
    model
        A model with the types of its values (`graph.normalized`).
    attempt
        What failed; tried again on every node by itself.
    error
        How it failed on the whole.

    Returns
    -------
    str
        A sentence that names the operator and its node if one alone fails as well.
    """
    if isinstance(error, UserError):
        return str(error)
    for node, alone in _single_nodes(model):
        try:
            attempt(alone)
        except UserError as own:
            return str(own)
        except Exception as own:
            return str(refuse(node, reason(own)))
    kinds = ", ".join(sorted({node.op_type for node in model.graph.node})[:12])
    return f"it cannot be compiled ({reason(error)}), though every operator by itself can: {kinds}"


def refuse(node: onnx.NodeProto, why: str) -> UserError:
    """The error for a node that cannot be compiled."""
    domain = "" if node.domain in ("", "ai.onnx") else f" of domain {node.domain!r}"
    name = node.name or next((name for name in node.output if name), "")
    because = f": {why}" if why else ""
    return UserError(
        f"operator {node.op_type}{domain} (node {name!r}) is not supported{because}; rewrite that part of "
        "the model, or leave it out"
    )


def reason(error: Exception) -> str:
    """The first line of what TVM says, without its tables."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" -")]
    line = lines[0] if lines else type(error).__name__
    return line.removesuffix(".") if len(line) <= _LONGEST else line[:_LONGEST] + "..."


def _single_nodes(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, onnx.ModelProto]]:
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    types = {value.name: value.type for value in (*graph.value_info, *graph.input, *graph.output)}
    seen = set()
    for node in graph.node:
        read = sorted(reads(node))
        if any(name not in tensors and name not in types for name in read):
            continue
        inputs = [onnx.ValueInfoProto(name=n, type=types[n]) for n in read if n not in tensors]
        anonymous = onnx.NodeProto()
        anonymous.CopyFrom(node)
        anonymous.ClearField("name")
        del anonymous.output[:]
        key = (anonymous.SerializeToString(), *(v.type.SerializeToString() for v in inputs))
        if key in seen:
            continue
        seen.add(key)
        outputs = [onnx.ValueInfoProto(name=n, type=types.get(n)) for n in node.output if n]
        alone = helper.make_graph([node], "node", inputs, outputs, [tensors[n] for n in read if n in tensors])
        yield (
            node,
            helper.make_model(alone, opset_imports=model.opset_import, ir_version=model.ir_version),
        )

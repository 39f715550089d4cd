"""ONNX graphs made ready for import: sizes fixed, functions inlined, constants folded, one form of QDQ."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ofa_tvm.compiler.graph.files import check, read_onnx, write_fixed
from ofa_tvm.compiler.graph.folding import fold_constants, reads
from ofa_tvm.compiler.graph.inputs import Shapes, fix_inputs, graph_inputs, input_shapes
from ofa_tvm.compiler.graph.quantized import canonical, check_quantization, without_qoperators
from ofa_tvm.compiler.graph.standard import inline_functions, upgrade
from ofa_tvm.compiler.graph.types import check_types

__all__ = [
    "Shapes",
    "check",
    "folded",
    "graph_inputs",
    "input_shapes",
    "normalized",
    "prepare",
    "read_onnx",
    "reads",
    "write_fixed",
]


def normalized(model: onnx.ModelProto, sizes: Shapes, known: Collection[str]) -> onnx.ModelProto:
    """The model for inputs of these sizes, in the operators that the importer knows, as far as they reach.

    Parameters
    ----------
    model
        A valid model.
    sizes
        Static shape of every input.
    known
        Operators of ONNX's own domain that can be imported.

    Raises
    ------
    UserError
        If a value is of a type that kernels are not made for, such as text or a sequence, or quantised in a
        way that they do not follow.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    fix_inputs(result, sizes)
    result = upgrade(without_qoperators(inline_functions(result, None)))
    fold_constants(result)
    if any(node.domain in ("", "ai.onnx") and node.op_type not in known for node in result.graph.node):
        result = inline_functions(result, known)
        fold_constants(result)
    check_quantization(result)
    check_types(result)
    return result


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with functions inlined, and constants and batch norms folded; its sizes stay open.

    Parameters
    ----------
    model
        A valid model.
    """
    result = onnx.ModelProto()
    result.CopyFrom(inline_functions(model, None))
    fold_constants(result)
    _fold_batch_norms(result.graph)
    _drop_unused_initializers(result.graph)
    return result


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy of `model` with batch norms folded into convolutions, and some operators in an importable form.

    Raises
    ------
    UserError
        If the scales of a quantised weight do not belong to its output channels.
    """
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    canonical(prepared)
    _fold_batch_norms(prepared.graph)
    _rewrite_extractors(prepared.graph)
    _drop_unused_initializers(prepared.graph)
    return prepared


def _replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _drop_unused_initializers(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    if len(kept) < len(graph.initializer):
        copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
        del graph.initializer[:]
        graph.initializer.extend(copies)


def _fold_batch_norms(graph: onnx.GraphProto) -> None:
    """Scale a convolution's weights by the batch norm that alone consumes its output."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    producer = {name: node for node in graph.node for name in node.output}
    readers: dict[str, int] = {}
    for name in [n for node in graph.node for n in node.input] + [value.name for value in graph.output]:
        readers[name] = readers.get(name, 0) + 1
    dropped: list[onnx.NodeProto] = []
    for norm in graph.node:
        if norm.op_type != "BatchNormalization" or any(name not in tensors for name in norm.input[1:]):
            continue
        conv = producer.get(norm.input[0])
        foldable = (
            conv is not None
            and conv.op_type == "Conv"
            and readers[conv.output[0]] == 1
            and all(name in tensors for name in conv.input[1:])
        )
        if conv is None or not foldable:
            continue
        epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
        gamma, beta, mean, var = (
            numpy_helper.to_array(tensors[name]).astype(np.float64) for name in norm.input[1:]
        )
        factor = gamma / np.sqrt(var + epsilon)
        weight = numpy_helper.to_array(tensors[conv.input[1]])
        bias = numpy_helper.to_array(tensors[conv.input[2]]) if len(conv.input) > 2 else np.zeros(len(factor))
        folded = {
            f"{norm.output[0]}__weight": weight * factor.reshape(-1, *[1] * (weight.ndim - 1)),
            f"{norm.output[0]}__bias": (bias - mean) * factor + beta,
        }
        for name, value in folded.items():
            graph.initializer.append(numpy_helper.from_array(value.astype(weight.dtype), name))
        del conv.input[1:]
        conv.input.extend(folded)
        conv.output[0] = norm.output[0]
        dropped.append(norm)
    gone = {id(node) for node in dropped}
    _replace_nodes(graph, [node for node in graph.node if id(node) not in gone])


def _rewrite_extractors(graph: onnx.GraphProto) -> None:
    """ai.onnx.ml's `ArrayFeatureExtractor`, by which scikit-learn's classifiers name labels, as `Gather`."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "ArrayFeatureExtractor":
            nodes.append(node)
            continue
        out = node.output[0]
        flat, shape = f"{out}__indices", f"{out}__shape"
        graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), shape))
        nodes.append(helper.make_node("Reshape", [node.input[1], shape], [flat]))
        nodes.append(helper.make_node("Gather", [node.input[0], flat], [out], name=node.name, axis=-1))
    _replace_nodes(graph, nodes)

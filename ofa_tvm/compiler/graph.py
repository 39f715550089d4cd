"""ONNX graphs made ready for import: checked, shapes fixed, batch norm folded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ofa_tvm.errors import UsageError, UserError

Shapes = Mapping[str, Sequence[int]]


def read_onnx(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Read and check an ONNX file.

    Raises
    ------
    UsageError
        If there is no such file.
    UserError
        If it cannot be read or is not a valid ONNX model.
    """
    source = Path(path)
    if not source.is_file():
        raise UsageError(f"there is no ONNX file {source}")
    try:
        model = onnx.load(source)
        onnx.checker.check_model(model)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{source} is not a valid ONNX model: {reason[0]}") from error
    return model


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Inputs a caller has to give: those that no initializer provides."""
    given = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in given]


def input_shapes(model: onnx.ModelProto, shapes: Shapes | None = None) -> dict[str, tuple[int, ...]]:
    """Static shape of every input, from the model or from `shapes`.

    Raises
    ------
    UsageError
        If a dimension is dynamic and `shapes` does not give it, if the two disagree, or if `shapes`
        names an input that the model does not have.
    """
    shapes = dict(shapes or {})
    result: dict[str, tuple[int, ...]] = {}
    for value in graph_inputs(model):
        dims = value.type.tensor_type.shape.dim
        declared = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in dims]
        given = shapes.pop(value.name, None)
        if given is None:
            if None in declared:
                shown = ", ".join("?" if d is None else str(d) for d in declared)
                raise UsageError(
                    f"input {value.name!r} has the dynamic shape ({shown}); give its size, for example "
                    f'--shape {value.name}=1x3x224x224, in Python shape={{"{value.name}": (1, 3, 224, 224)}}'
                )
            result[value.name] = tuple(d for d in declared if d is not None)
            continue
        fits = len(given) == len(declared) and all(
            int(g) > 0 and (d is None or d == int(g)) for d, g in zip(declared, given, strict=True)
        )
        if not fits:
            shown = ", ".join("?" if d is None else str(d) for d in declared)
            raise UsageError(f"shape {tuple(given)} does not fit input {value.name!r} of shape ({shown})")
        result[value.name] = tuple(int(g) for g in given)
    if shapes:
        known = ", ".join(repr(name) for name in result)
        raise UsageError(f"the model has no input {next(iter(shapes))!r}; its inputs are {known}")
    return result


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy of `model` with batch norms folded into convolutions, and some operators in an importable form."""
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    _constants_to_initializers(prepared.graph)
    _fold_batch_norms(prepared.graph)
    _rewrite_extractors(prepared.graph)
    _drop_unused_initializers(prepared.graph)
    return prepared


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    kept = []
    for node in graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            tensor = graph.initializer.add()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
        else:
            kept.append(node)
    _replace_nodes(graph, kept)


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

"""One form of ONNX: functions inlined, old operator sets converted to a newer one."""

from __future__ import annotations

from collections.abc import Callable, Collection

import onnx
import onnx.inliner
import onnx.version_converter
from onnx import helper

from ofa_tvm.compiler.graph.folding import default_opset, subgraphs

_OPSET = 17  # what older operator sets are converted to
_RESIZE_WITH_MODES = 11  # operator set whose Resize says how coordinates are transformed
_SMALL = 1 << 10  # elements; larger weights stay out of what onnx's C++ code is handed
_FOREIGN = frozenset({"Attention"})  # TVM's importer knows another operator of that name (com.microsoft's)


def inline_functions(model: onnx.ModelProto, known: Collection[str] | None) -> onnx.ModelProto:
    """The model with its local functions inlined.

    Parameters
    ----------
    known
        Operators that can be imported; any other that the standard defines by a function of simpler ones is
        written out as well.
    """
    if known is None:
        if not model.functions:
            return model
        return _without_weights(model, onnx.inliner.inline_local_functions)
    unknown = {node.op_type for node in _nodes(model.graph) if node.domain in ("", "ai.onnx")} - (
        set(known) - _FOREIGN
    )
    names = [("", kind) for kind in sorted(unknown)]
    if not names:
        return model

    def written_out(light: onnx.ModelProto) -> onnx.ModelProto:
        for node in _nodes(light.graph):
            if node.op_type in unknown:
                _spell_defaults(node, default_opset(light))
        return onnx.inliner.inline_selected_functions(light, names, inline_schema_functions=True)

    try:
        return _without_weights(model, written_out)
    except Exception:  # a function that depends on types which onnx cannot infer; the importer names it
        return model


def _spell_defaults(node: onnx.NodeProto, opset: int) -> None:
    """Write attributes that were left out, which the inliner would leave out of the function, too."""
    try:
        attributes = onnx.defs.get_schema(node.op_type, opset, "").attributes
    except onnx.defs.SchemaError:
        return
    given = {attribute.name for attribute in node.attribute}
    node.attribute.extend(
        attribute.default_value
        for name, attribute in attributes.items()
        if name not in given and attribute.default_value.name
    )


def upgrade(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in a newer operator set, if its own is an old one and onnx can convert it."""
    if default_opset(model) >= _OPSET or any(
        entry.domain not in ("", "ai.onnx") and entry.domain for entry in model.opset_import
    ):
        return model
    old = default_opset(model)
    try:
        new = _without_weights(model, lambda light: onnx.version_converter.convert_version(light, _OPSET))
    except Exception:  # an operator without a rule; the importer knows most old forms as well
        return model
    if old < _RESIZE_WITH_MODES:
        for node in _nodes(new.graph):
            if node.op_type == "Resize":
                _as_before_modes(node)
    return new


def _as_before_modes(node: onnx.NodeProto) -> None:
    """What Upsample, and Resize of operator set 10, mean; onnx's converter leaves the newer defaults."""
    kept = [a for a in node.attribute if a.name not in ("coordinate_transformation_mode", "nearest_mode")]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
    node.attribute.append(helper.make_attribute("nearest_mode", "floor"))


def _nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Nodes of a graph and its subgraphs."""
    found = []
    for node in graph.node:
        found.append(node)
        for inner in subgraphs(node):
            found += _nodes(inner)
    return found


def _without_weights(
    model: onnx.ModelProto, convert: Callable[[onnx.ModelProto], onnx.ModelProto]
) -> onnx.ModelProto:
    """Convert a model whose large weights are left out meanwhile; onnx's C++ code takes 2 GB at most."""
    light = onnx.ModelProto()
    light.CopyFrom(model)
    small = [t for t in model.graph.initializer if _elements(t) <= _SMALL]
    large = [t for t in model.graph.initializer if _elements(t) > _SMALL]
    del light.graph.initializer[:]
    light.graph.initializer.extend(small)
    light.graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in large)
    result = convert(light)
    result.graph.initializer.extend(large)
    names = {t.name for t in large}
    inputs = [v for v in result.graph.input if v.name not in names]
    copies = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in inputs]
    del result.graph.input[:]
    result.graph.input.extend(copies)
    return result


def _elements(tensor: onnx.TensorProto) -> int:
    count = 1
    for dim in tensor.dims:
        count *= dim
    return count

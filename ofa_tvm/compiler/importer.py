"""ONNX to Relax: TVM's importer, with converters of our own before TVM's."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import onnx
import tvm
from onnx import numpy_helper
from tvm import relax
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter, _get_convert_map

from ofa_tvm.compiler.converters import CONVERTERS, Node
from ofa_tvm.compiler.dataflow import static_shape_of
from ofa_tvm.compiler.refusals import reason, refuse
from ofa_tvm.errors import UserError

# TVM converts these as other domains define them; ONNX's own are inlined.
_OTHERS = {"Attention", "Optional", "OptionalGetElement", "OptionalHasElement"}

_WHY = {
    "If": "its condition is computed, and its branches make tensors of other or unknown shapes",
    "Loop": "how often it runs is not known before; export the network unrolled",
    "Scan": "its steps are not unrolled; export the network unrolled",
}


def import_onnx(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> tvm.IRModule:
    """The model as a Relax module, weights included as constants.

    Parameters
    ----------
    model
        A model whose shapes follow from those of its inputs.
    shapes
        Static shape of every input.

    Raises
    ------
    UserError
        If an operator cannot be imported; the sentence names the operator and its node.
    """
    if not model.graph.output:
        raise UserError("it has no outputs, so it cannot be imported")
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    importer = _Importer({name: list(shape) for name, shape in shapes.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of renamed values and the like
        try:
            return importer.from_onnx(model.graph, opset)
        except Exception:
            with contextlib.suppress(Exception):
                while True:  # blocks left open would be reported on stderr
                    importer.bb._end_block()
            raise


def known_operators() -> set[str]:
    """Operators of ONNX's own domain that can be imported."""
    return {*CONVERTERS, *_get_convert_map()} - _OTHERS


class _Importer(ONNXGraphImporter):
    """TVM's importer, which asks us first and fails in sentences."""

    def __init__(self, shapes: dict[str, list[int]]) -> None:
        super().__init__(shapes, "float32", sanitize=False)
        self.node = onnx.NodeProto()  # what is being converted

    def _check_for_unsupported_ops(self, graph: onnx.GraphProto) -> None:
        known = known_operators()
        for node in graph.node:
            if node.domain not in ("", "ai.onnx") or node.op_type not in known:
                raise refuse(node, _WHY.get(node.op_type, ""))

    def _construct_nodes(self, graph: onnx.GraphProto) -> None:
        for node in graph.node:
            self.node = node
            try:
                with contextlib.redirect_stdout(io.StringIO()):  # where TVM's importer reports failures
                    super()._construct_nodes(SimpleNamespace(node=[node]))
            except UserError:
                raise
            except Exception as error:
                raise refuse(node, f"TVM cannot import it: {reason(error)}") from error
            for name in node.output:
                ty = getattr(self._nodes.get(name), "ty", None)
                if isinstance(ty, relax.TensorType) and static_shape_of(ty) is None:
                    raise refuse(
                        node, "the shape of what it makes depends on values that the network computes"
                    )

    def _convert_operator(
        self, op_name: str, inputs: list[relax.Expr | None], attrs: dict[str, Any], opset: int
    ) -> relax.Expr:
        converter = CONVERTERS.get(op_name)
        if converter is None:
            return super()._convert_operator(op_name, inputs, attrs, opset)
        node = Node(
            op_name,
            _name(self.node),
            tuple(inputs),
            {name: _decoded(value) for name, value in attrs.items() if name != "tvm_custom"},
            tuple(bool(name) for name in self.node.output),
            opset,
            self.bb,
        )
        result = converter(node)
        if isinstance(result, relax.Expr):
            return self.bb.normalize(result)
        fields = [self.bb.normalize(field) for field in result]
        return fields[0] if len(fields) == 1 else relax.Tuple(fields)


def _name(node: onnx.NodeProto) -> str:
    return node.name or next((name for name in node.output if name), "")


def _decoded(value: Any) -> Any:
    """An attribute's value: bytes as text, tensors as arrays."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, tuple) and value and isinstance(value[0], bytes):
        return tuple(v.decode() for v in value)
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value

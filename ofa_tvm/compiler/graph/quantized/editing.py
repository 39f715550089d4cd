"""An ONNX graph that rules can change: nodes in order, constants as arrays, who makes and reads what."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ofa_tvm.compiler.graph.folding import default_opset, reads
from ofa_tvm.errors import UserError

Array = np.ndarray[Any, Any]

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
BYTES = (np.dtype(np.uint8), np.dtype(np.int8))


@dataclass(frozen=True)
class Scheme:
    """How a whole tensor is quantised: real = scale x (integer - zero)."""

    scale: np.float32
    zero: int
    dtype: np.dtype[Any]

    @property
    def shifted(self) -> Scheme:
        """The same values, whose integers are 128 more and unsigned."""
        return Scheme(self.scale, self.zero + 128, np.dtype(np.uint8))

    def quantized(self, values: Array) -> Array:
        """Integers of real values, as ONNX's `QuantizeLinear`, kept in float32 while they are compared."""
        return integers(values, np.asarray(self.scale), np.asarray(self.zero), self.dtype)

    def real(self, integer: Array) -> Array:
        return (integer.astype(np.float32) - np.float32(self.zero)) * self.scale

    @property
    def codes(self) -> Array:
        """All its integers."""
        limits = np.iinfo(self.dtype)
        return np.arange(limits.min, limits.max + 1)


def integers(values: Array, scale: Array, zero: Array, dtype: np.dtype[Any]) -> Array:
    """ONNX's `QuantizeLinear`: divided, rounded half to even, moved, saturated; NaN is the lowest integer."""
    limits = np.iinfo(dtype)
    with np.errstate(all="ignore"):
        moved = np.rint(values.astype(np.float32) / scale.astype(np.float32)).astype(np.float64) + zero
    moved = np.where(np.isnan(moved), limits.min, moved)
    return np.clip(moved, limits.min, limits.max).astype(dtype)


class Graph:
    """The graph of a model, changed in place; `write` puts it back."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.opset = default_opset(model)
        self.nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.outputs = {value.name for value in model.graph.output}
        values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
        self.types = {value.name: value.type.tensor_type for value in values}
        self._used = {
            *self.tensors,
            *self.types,
            *(name for node in self.nodes for name in (*node.input, *node.output)),
        }
        self.index()

    def index(self) -> None:
        """Look anew who makes and who reads each value, after nodes have changed."""
        self.maker = {name: node for node in self.nodes for name in node.output if name}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in reads(node):
                self.readers[name].append(node)

    def value(self, name: str) -> Array | None:
        """A constant's value."""
        tensor = self.tensors.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def dtype(self, name: str) -> np.dtype[Any] | None:
        """Element type of a value, if it is known."""
        kind = self.tensors[name].data_type if name in self.tensors else 0
        kind = kind or (self.types[name].elem_type if name in self.types else 0)
        return np.dtype(helper.tensor_dtype_to_np_dtype(kind)) if kind else None

    def fresh(self, base: str) -> str:
        """A name that nothing has, which begins like another."""
        name, number = base, 0
        while name in self._used:
            number += 1
            name = f"{base}__{number}"
        self._used.add(name)
        return name

    def constant(self, base: str, value: Array) -> str:
        """A new constant's name."""
        name = self.fresh(base)
        self.tensors[name] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
        return name

    def made_by(self, name: str, *kinds: str) -> onnx.NodeProto | None:
        """The node that makes a value, if it is of one of these operators of ONNX's own."""
        node = self.maker.get(name)
        return node if node is not None and is_a(node, *kinds) else None

    def alone(self, name: str) -> onnx.NodeProto | None:
        """The only node that reads a value."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def scheme(self, node: onnx.NodeProto | None, *dtypes: np.dtype[Any]) -> Scheme | None:
        """How a node quantises, if it does so with constants, to one of these types, for the whole tensor."""
        if node is None or not is_a(node, QUANTIZE, DEQUANTIZE):
            return None
        scale = self.value(node.input[1])
        zero = self.value(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1, np.uint8)
        if scale is None or zero is None or scale.size != 1 or scale.dtype != np.float32:
            return None
        dtype = self.integer_type(node)
        if dtype not in (dtypes or BYTES):
            return None
        return Scheme(np.float32(scale.reshape(())), int(zero.reshape(-1)[0]), np.dtype(dtype))

    def integer_type(self, node: onnx.NodeProto) -> np.dtype[Any] | None:
        """Type of the integers of a node that quantises or dequantises; None if nothing says."""
        if len(node.input) > 2 and node.input[2]:
            return self.dtype(node.input[2])
        if node.op_type == DEQUANTIZE:
            return self.dtype(node.input[0])
        kind = attribute(node, "output_dtype", 0)
        return np.dtype(helper.tensor_dtype_to_np_dtype(kind)) if kind else np.dtype(np.uint8)

    def quantizer(self, kind: str, source: str, scheme: Scheme, target: str, name: str) -> onnx.NodeProto:
        """A new node that quantises or dequantises a whole tensor."""
        scale = self.constant(f"{target}__scale", np.asarray(scheme.scale))
        zero = self.constant(f"{target}__zero_point", np.asarray(scheme.zero, scheme.dtype))
        return helper.make_node(kind, [source, scale, zero], [target], name=name)

    def replace(self, old: str, new: str) -> list[onnx.NodeProto]:
        """Let all readers of a value read another; returns the node that a network's output needs for it."""
        for node in self.readers.get(old, []):
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new
        return [helper.make_node("Identity", [new], [old])] if old in self.outputs else []

    def without(self, dropped: Iterable[onnx.NodeProto]) -> None:
        """Leave nodes out."""
        gone = {id(node) for node in dropped}
        self.nodes = [node for node in self.nodes if id(node) not in gone]

    def name_nodes(self) -> None:
        """Give each node a name of its own; the first of several keeps it."""
        seen = set()
        for node in self.nodes:
            if node.name in seen:
                node.name = f"{node.name} ({node.output[0]})"
            seen.add(node.name)

    def write(self) -> None:
        """Put what is still read back into the model, whose values have unknown types from then on."""
        needed, kept = set(self.outputs), []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                kept.append(node)
                needed |= reads(node)
        graph = self.model.graph
        del graph.node[:]
        graph.node.extend(reversed(kept))
        tensors = [
            onnx.TensorProto.FromString(tensor.SerializeToString())
            for name, tensor in self.tensors.items()
            if name in needed
        ]
        del graph.initializer[:]
        graph.initializer.extend(tensors)
        del graph.value_info[:]


def is_a(node: onnx.NodeProto, *kinds: str) -> bool:
    """Whether a node is one of these operators of ONNX's own."""
    return node.op_type in kinds and node.domain in ("", "ai.onnx")


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def set_attributes(node: onnx.NodeProto, **values: Any) -> None:
    """Give a node these attributes; None leaves one out."""
    kept = [
        onnx.AttributeProto.FromString(a.SerializeToString()) for a in node.attribute if a.name not in values
    ]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.extend(helper.make_attribute(k, v) for k, v in values.items() if v is not None)


def set_inputs(node: onnx.NodeProto, names: Sequence[str]) -> None:
    del node.input[:]
    node.input.extend(names)


def bad(node: onnx.NodeProto, problem: str) -> UserError:
    """The error for a node whose quantisation cannot be followed."""
    name = node.name or next((name for name in node.output if name), "")
    return UserError(
        f"operator {node.op_type} (node {name!r}) is quantised in a way that is not supported: {problem}"
    )

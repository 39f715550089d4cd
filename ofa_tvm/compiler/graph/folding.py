"""Constant folding with the sizes of the inputs known: in one walk, shape arithmetic becomes constants.

Exporters write `x.view(x.shape[0], -1)` as a dozen operators on integers, weights as expressions of other
weights, and branches on what is known once the input's size is. Node by node, in order: ONNX's own shape
inference gives the types of its outputs; a node of constants is computed by ONNX's reference implementation;
what is quantised stays so (`ofa_tvm.compiler.graph.quantized` says which of it becomes floats);
`Shape`, `Size` and `EyeLike` of what has a static shape are constants; an `If` on a constant is the branch
that it takes, and one on a computed value both branches and a choice; what has no elements needs no operator.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

_DATA = 1 << 12  # elements of a constant that shape inference may look at
_BY_SHAPE = frozenset({"EyeLike", "Shape", "Size"})  # which need not know their input's values
_QUANTIZERS = frozenset({"DequantizeLinear", "QuantizeLinear"})
_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


def fold_constants(model: onnx.ModelProto) -> None:
    """Fold what is constant, drop what nobody reads, and write down the type of every value.

    Parameters
    ----------
    model
        A valid model with static input shapes; changed in place.
    """
    folder = _Folder(model)
    for node in model.graph.node:
        folder.take(node)
    folder.finish()


class _Folder:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.opset = default_opset(model)
        self.imports = list(model.opset_import)
        self.ir_version = model.ir_version
        self.types: dict[str, onnx.TypeProto] = {value.name: value.type for value in model.graph.input}
        self.tensors: dict[str, onnx.TensorProto] = {}
        self.aliases: dict[str, str] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.branches = 0
        for tensor in model.graph.initializer:
            self._constant(tensor.name, tensor)
        for sparse in model.graph.sparse_initializer:
            self._constant(sparse.values.name, _dense(sparse))

    def take(self, original: onnx.NodeProto) -> None:
        """Fold a node, or keep it."""
        node = onnx.NodeProto()
        node.CopyFrom(original)
        rename(node, self.aliases)
        if node.domain not in ("", "ai.onnx"):
            self.nodes.append(node)
            return
        if node.op_type == "Identity":
            self.aliases[node.output[0]] = node.input[0]
            return
        if node.op_type == "If" and node.input[0] in self.tensors:
            self._branch(node)
            return
        if node.op_type == "If" and self._both_branches(node):
            return
        self._infer(node)
        if not self._computed(node) and not self._empty(node):
            self.nodes.append(node)

    def finish(self) -> None:
        """Write the graph anew."""
        graph = self.graph
        made = {name for node in self.nodes for name in node.output} | {v.name for v in graph.input}
        for value in graph.output:
            source = self.aliases.get(value.name)
            if source in self.tensors and source is not None:
                self._constant(value.name, self.tensors[source])
            elif source is not None and value.name not in made:
                self.nodes.append(helper.make_node("Identity", [source], [value.name]))
        needed = {value.name for value in graph.output}
        kept: list[onnx.NodeProto] = []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                kept.append(node)
                needed |= reads(node)
        kept.reverse()
        del graph.node[:]
        graph.node.extend(kept)
        tensors = [tensor for name, tensor in self.tensors.items() if name in needed]
        copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in tensors]
        del graph.initializer[:]
        del graph.sparse_initializer[:]
        graph.initializer.extend(copies)
        del graph.value_info[:]
        outer = {value.name for value in (*graph.input, *graph.output)} | self.tensors.keys()
        for name in dict.fromkeys(name for node in kept for name in node.output):
            if name in self.types and name not in outer:
                graph.value_info.append(onnx.ValueInfoProto(name=name, type=self.types[name]))
        for value in graph.output:
            if value.name in self.types:
                value.type.CopyFrom(self.types[value.name])

    def _constant(self, name: str, tensor: onnx.TensorProto) -> None:
        if tensor.name != name:
            renamed = onnx.TensorProto()
            renamed.CopyFrom(tensor)
            renamed.name = name
            tensor = renamed
        self.tensors[name] = tensor
        self.types[name] = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))

    def _shape(self, name: str) -> tuple[int, ...] | None:
        """Static shape of a value, if it has one."""
        known = self.types.get(name)
        if known is None or not known.HasField("tensor_type") or not known.tensor_type.HasField("shape"):
            return None
        dims = known.tensor_type.shape.dim
        return tuple(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else None

    def _computed(self, node: onnx.NodeProto) -> bool:
        """Whether a node is a constant, which is then known."""
        names = [name for name in node.input if name]
        shape = self._shape(names[0]) if names else None
        if node.op_type in _BY_SHAPE and shape is not None:
            dtype = helper.tensor_dtype_to_np_dtype(self.types[names[0]].tensor_type.elem_type)
            feeds = {names[0]: np.broadcast_to(np.zeros((), dtype), shape)}
        elif (
            node.op_type in _RANDOM | _QUANTIZERS
            or any(subgraphs(node))
            or any(name not in self.tensors for name in names)
        ):
            return False
        else:
            feeds = {name: numpy_helper.to_array(self.tensors[name]) for name in names}
        values = _evaluate(node, feeds, self.opset)
        if values is None:
            return False
        tensors = {name: numpy_helper.from_array(value, name) for name, value in values.items()}
        for name, tensor in tensors.items():
            if name in self.types and self.types[name].tensor_type.elem_type != tensor.data_type:
                return False
        for name, tensor in tensors.items():
            self._constant(name, tensor)
        return True

    def _infer(self, node: onnx.NodeProto) -> None:
        """Types of a node's outputs."""
        names = [name for name in reads(node) if name]
        if any(name not in self.types for name in names):
            return
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opset, "")
            small = {
                name: self.tensors[name]
                for name in names
                if name in self.tensors and np.prod(self.tensors[name].dims, dtype=np.int64) <= _DATA
            }
            inferred = onnx.shape_inference.infer_node_outputs(
                schema,
                node,
                {name: self.types[name] for name in names},
                small,
                opset_imports=self.imports,
                ir_version=self.ir_version,
            )
        except Exception:  # no shapes then; what is wrong with the node, the importer says in words
            return
        self.types.update(inferred)

    def _empty(self, node: onnx.NodeProto) -> bool:
        """Whether a node makes tensors without elements only; of `Concat`, such operands are dropped."""
        outputs = [name for name in node.output if name]
        shapes = [self._shape(name) for name in outputs]
        if outputs and all(shape is not None and 0 in shape for shape in shapes):
            for name, shape in zip(outputs, shapes, strict=True):
                elem_type = self.types[name].tensor_type.elem_type
                dtype = helper.tensor_dtype_to_np_dtype(elem_type)
                self._constant(name, numpy_helper.from_array(np.zeros(shape or (), dtype), name))
            return True
        if node.op_type == "Concat":
            operands = [name for name in node.input if 0 not in (self._shape(name) or (1,))]
            del node.input[:]
            node.input.extend(operands)
        return False

    def _branch(self, node: onnx.NodeProto) -> None:
        """Put the branch that an `If` on a constant takes in its place."""
        taken = "then_branch" if numpy_helper.to_array(self.tensors[node.input[0]]).item() else "else_branch"
        self.aliases.update(zip(node.output, self._inlined(node, taken), strict=True))

    def _both_branches(self, node: onnx.NodeProto) -> bool:
        """Compute both branches of an `If` and choose, where they make tensors of the same static types."""
        if any(value is None for value in map(self._shape, reads(node))):
            return False
        start = len(self.nodes)
        then, otherwise = (self._inlined(node, name) for name in ("then_branch", "else_branch"))
        for left, right in zip(then, otherwise, strict=True):
            shape = self._shape(left)
            if shape is None or self.types.get(left) != self.types.get(right):
                del self.nodes[start:]
                return False
        scalar = f"{node.output[0]}__scalar"
        self._constant(scalar, numpy_helper.from_array(np.zeros(0, np.int64), scalar))
        condition = f"{node.output[0]}__condition"
        self.take(helper.make_node("Reshape", [node.input[0], scalar], [condition], name=node.name))
        for outer, left, right in zip(node.output, then, otherwise, strict=True):
            self.take(helper.make_node("Where", [condition, left, right], [outer], name=node.name))
        return True

    def _inlined(self, node: onnx.NodeProto, branch: str) -> list[str]:
        """Take a branch's nodes as the graph's own; returns the names of its outputs."""
        graph = next(attribute.g for attribute in node.attribute if attribute.name == branch)
        prefix = f"branch{self.branches}_"  # two branches may use the same names
        self.branches += 1
        own = {t.name for t in graph.initializer} | {n for inner in graph.node for n in inner.output if n}
        names = {name: prefix + name for name in own}
        for tensor in graph.initializer:
            self._constant(names[tensor.name], tensor)
        for inner in graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(inner)
            rename(copy, names, outputs=True)
            self.take(copy)
        outputs = [names.get(value.name, value.name) for value in graph.output]
        return [self.aliases.get(name, name) for name in outputs]


def default_opset(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operator set that a model uses."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)


def reads(node: onnx.NodeProto) -> set[str]:
    """Values that a node reads, those that its subgraphs take from outside included."""
    names = {name for name in node.input if name}
    for graph in subgraphs(node):
        made = {t.name for t in graph.initializer} | {value.name for value in graph.input}
        for inner in graph.node:
            names |= reads(inner) - made
            made |= set(inner.output)
        names |= {value.name for value in graph.output} - made
    return names


def subgraphs(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def rename(node: onnx.NodeProto, names: Mapping[str, str], *, outputs: bool = False) -> None:
    """Read other values under the given names, also in subgraphs; with `outputs`, make them as well."""
    for index, name in enumerate(node.input):
        node.input[index] = names.get(name, name)
    if outputs:
        for index, name in enumerate(node.output):
            node.output[index] = names.get(name, name)
    for graph in subgraphs(node):
        own = {t.name for t in graph.initializer} | {value.name for value in graph.input}
        own |= {name for inner in graph.node for name in inner.output}
        free = {name: new for name, new in names.items() if name not in own}
        for inner in graph.node:
            rename(inner, free)
        for value in graph.output:
            value.name = free.get(value.name, value.name)


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    dense[tuple(indices.T) if indices.ndim == 2 else np.unravel_index(indices, dense.shape)] = values
    return numpy_helper.from_array(dense, sparse.values.name)


def _evaluate(
    node: onnx.NodeProto, feeds: Mapping[str, np.ndarray], opset: int
) -> dict[str, np.ndarray] | None:
    """What a node makes of constants, None if the reference implementation cannot say."""
    from onnx.reference import ReferenceEvaluator

    if node.op_type == "Constant" and [a.name for a in node.attribute] == ["sparse_value"]:
        return {node.output[0]: numpy_helper.to_array(_dense(node.attribute[0].sparse_tensor))}
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(node, opsets={"": opset}).run(None, dict(feeds))
    except Exception:
        return None
    named = {name: value for name, value in zip(node.output, results, strict=False) if name}
    if not all(isinstance(value, np.ndarray | np.generic) for value in named.values()):
        return None
    return {name: np.asarray(value) for name, value in named.items()}

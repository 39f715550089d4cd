"""float16 as a setting: weights and maps in half precision, the network's edges and delicate sums in float32.

- `widened`: a model that is itself in float16 (transformers are often exported so) becomes one in float32;
  what it is computed in is the target's business, not the exporter's.
- `to_float16`: what is heavy and harmless runs in half precision (`_IN_HALF`), all else in float32:
  reductions, normalisations, softmax, powers, what is quantised, and the arithmetic that only feeds such or
  is only fed by such. The squares of a layer normalisation spelled out would overflow at 256.
- `with_float32_sums`: products and convolutions of half-precision values add up in float32.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import onnx
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

_ANCHORS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Neg", "Abs", "Max", "Min"})
_ACTIVATIONS = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "Clip", "HardSigmoid", "HardSwish", "Sigmoid", "Tanh"}
)
_MOVES = frozenset(
    {"Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice"}
    | {"SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where", "MaxPool"}
)
_IN_HALF = _ANCHORS | _ARITHMETIC | _ACTIVATIONS | _MOVES
_DIVISORS = (2.0**-8, 2.0**8)  # constants by which half-precision values may be divided
_SUMS = ("relax.nn.conv1d", "relax.nn.conv2d", "relax.nn.conv3d", "relax.matmul")


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in half precision, whose inputs and outputs keep their types.

    Weights beyond float16's range are cut to it, as ONNX Runtime's converter does.

    Parameters
    ----------
    model
        In float32, nodes in order of execution, constants as initializers.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # the converter works in place
    for number, node in enumerate(copy.graph.node):
        node.name = f"{number} {node.name}"  # the converter tells nodes by their names
    names = [node.name for node, keeps in zip(copy.graph.node, _in_float32(copy.graph), strict=True) if keeps]
    converted = OnnxModel(
        convert_float_to_float16(copy, keep_io_types=True, op_block_list=[], node_block_list=names)
    )
    converted.topological_sort()  # the casts at the inputs are appended behind their readers
    _join(converted.model.graph)
    for node in converted.model.graph.node:
        node.name = node.name.split(" ", 1)[-1]
    return converted.model


def _join(graph: onnx.GraphProto) -> None:
    """Let float32 pass between nodes that are both computed in it: casts there and back are left out.

    No other node casts to float16, since `widened` leaves none, and the converter's may have any names.
    """
    narrowed = {n.output[0]: n.input[0] for n in graph.node if _casts(n, TensorProto.FLOAT16)}
    wide: dict[str, str] = {}
    results = {value.name for value in graph.output}
    kept: dict[str, onnx.NodeProto] = {}  # by its first output: the converter may cast a value twice
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = wide.get(name, name)
        if _casts(node, TensorProto.FLOAT) and node.input[0] in narrowed:
            source = narrowed[node.input[0]]
            source = wide.get(source, source)  # of two casts in a row, the first is gone already
            if node.output[0] not in results:
                wide[node.output[0]] = source
                continue
            node.op_type, node.input[0] = "Identity", source
            del node.attribute[:]
        kept[node.output[0]] = node
    read = {name for node in kept.values() for name in node.input} | results
    copies = [
        onnx.NodeProto.FromString(node.SerializeToString())
        for name, node in kept.items()
        if name in read or name not in narrowed
    ]
    del graph.node[:]
    graph.node.extend(copies)


def _casts(node: onnx.NodeProto, dtype: int) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i == dtype for a in node.attribute)


def _in_float32(graph: onnx.GraphProto) -> list[bool]:
    """Which nodes stay in float32."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    keeps = [node.op_type not in _IN_HALF or not _divides_gently(node, constants) for node in graph.node]
    makers = {name: number for number, node in enumerate(graph.node) for name in node.output}
    readers: dict[int, list[int]] = defaultdict(list)
    for number, node in enumerate(graph.node):
        for name in node.input:
            if name in makers:
                readers[makers[name]].append(number)
    outputs = {makers[value.name] for value in graph.output if value.name in makers}
    for number in reversed(range(len(keeps))):  # what only feeds float32
        if graph.node[number].op_type in _ARITHMETIC and readers[number] and number not in outputs:
            keeps[number] |= all(keeps[reader] for reader in readers[number])
    for number, node in enumerate(graph.node):  # what is only fed by it
        made_of = [graph.node[makers[name]].op_type for name in node.input if name in makers]
        if node.op_type not in _ANCHORS or set(made_of) == {"DequantizeLinear"}:  # products in integers
            fed = [keeps[makers[name]] for name in node.input if name in makers]
            from_outside = any(name and name not in makers and name not in constants for name in node.input)
            keeps[number] |= bool(fed) and all(fed) and not from_outside
    return keeps


def _divides_gently(node: onnx.NodeProto, constants: dict[str, TensorProto]) -> bool:
    if node.op_type != "Div":
        return True
    if node.input[1] not in constants:
        return False
    sizes = np.abs(numpy_helper.to_array(constants[node.input[1]]))
    return bool(sizes.size) and bool(((sizes >= _DIVISORS[0]) & (sizes <= _DIVISORS[1])).all())


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with float32 in place of float16; inputs, outputs and explicit casts keep theirs.

    Parameters
    ----------
    model
        Any model with inferred types; returned as it is if it has no float16.
    """
    half, single = TensorProto.FLOAT16, TensorProto.FLOAT
    graph = model.graph
    typed = [*graph.input, *graph.output, *graph.value_info]
    if not any(value.type.tensor_type.elem_type == half for value in typed) and not any(
        tensor.data_type == half for tensor in graph.initializer
    ):
        return model
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    graph = wide.graph
    outside = {v.name for v in graph.output if v.type.tensor_type.elem_type == half}
    for tensor in graph.initializer:
        _widen(tensor)
        tensor.name += "__wide" if tensor.name in outside else ""
    nodes: list[onnx.NodeProto] = []
    inside = {v.name: f"{v.name}__wide" for v in graph.input if v.type.tensor_type.elem_type == half}
    nodes += [helper.make_node("Cast", [name], [new], to=single) for name, new in inside.items()]
    made = {name for node in graph.node for name in node.output} | {
        tensor.name for tensor in model.graph.initializer
    }
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = inside.get(name, f"{name}__wide" if name in outside & made else name)
        for i, name in enumerate(node.output):
            node.output[i] = f"{name}__wide" if name in outside else name
        nodes += _widened(node)
    for name in sorted(outside):
        source = f"{name}__wide" if name in made else name
        nodes.append(helper.make_node("Cast", [inside.get(name, source)], [name], to=half))
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    del graph.value_info[:]
    return onnx.shape_inference.infer_shapes(wide)


def _widened(node: onnx.NodeProto) -> Iterable[onnx.NodeProto]:
    """The node without float16 in its attributes; a cast to float16 still rounds to it."""
    if node.op_type == "Cast" and any(a.name == "to" and a.i == TensorProto.FLOAT16 for a in node.attribute):
        out = node.output[0]
        node.output[0] = f"{out}__half"
        return [node, helper.make_node("Cast", [node.output[0]], [out], to=TensorProto.FLOAT)]
    for attribute in node.attribute:
        if attribute.name in ("dtype", "output_dtype") and attribute.i == TensorProto.FLOAT16:
            attribute.i = TensorProto.FLOAT
        if attribute.HasField("t"):
            _widen(attribute.t)
    return [node]


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        tensor.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
        )


def _is_depthwise(call: relax.Call) -> bool:
    weight = call.args[1].ty.shape.values
    inner = int(weight[str(call.attrs.kernel_layout).index("I")])
    return int(call.attrs.groups) > 1 and inner == 1


@relax.expr_functor.mutator
class _Float32Sums(relax.PyExprMutator):
    def __init__(self, mod: tvm.IRModule, windows: bool) -> None:
        super().__init__(mod)
        self.windows = windows

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if not isinstance(call.op, tvm.ir.Op) or call.op.name not in _SUMS:
            return call
        left, right = call.args[0], call.args[1]
        if str(left.ty.dtype) != "float16" or str(call.attrs.out_dtype or "float16") != "float16":
            return call
        attributes = call.attrs
        if call.op.name == "relax.matmul":
            summed = relax.op.matmul(left, right, out_dtype="float32")
        elif not self.windows and _is_depthwise(call):
            return call
        else:
            summed = getattr(relax.op.nn, call.op.name.removeprefix("relax.nn."))(
                left,
                right,
                strides=[int(v) for v in attributes.strides],
                padding=[int(v) for v in attributes.padding],
                dilation=[int(v) for v in attributes.dilation],
                groups=int(attributes.groups),
                data_layout=attributes.data_layout,
                kernel_layout=attributes.kernel_layout,
                out_layout=attributes.out_layout,
                out_dtype="float32",
            )
        return relax.op.astype(self.builder_.emit(summed), "float16")


def with_float32_sums(mod: tvm.IRModule, *, windows: bool = True) -> tvm.IRModule:
    """Let convolutions and products of half-precision tensors add up in float32.

    A sum over a thousand channels would lose three decimal digits in float16, and costs nothing more in
    float32 where loads are what takes the time.

    Parameters
    ----------
    mod
        Before legalization.
    windows
        Also those that add up over a window only (depthwise ones).
    """
    mutator = _Float32Sums(mod, windows)
    mod = tvm.IRModule(dict(mod.functions.items()))
    mod["main"] = mutator.visit_expr(mod["main"])
    return mod

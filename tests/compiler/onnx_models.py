"""Small ONNX models of every kind that users bring, built with onnx.helper."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Builder = Callable[[], onnx.ModelProto]

_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "float64": TensorProto.DOUBLE}


class Graph:
    """Nodes and random weights, collected in order."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, *shape: int | str, dtype: str = "float32") -> str:
        self.inputs.append(helper.make_tensor_value_info(name, _TYPES[dtype], shape))
        return name

    def constant(self, value: Any, dtype: str = "float32") -> str:
        name = f"constant{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, *shape: int, scale: float | None = None) -> str:
        fan_in = max(1, int(np.prod(shape[1:])))
        scale = fan_in**-0.5 if scale is None else scale
        return self.constant(self.rng.standard_normal(shape) * scale)

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        number = len(self.nodes)
        names = [f"{kind.lower()}{number}" + (f"_{i}" if outputs > 1 else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=f"node{number}", **attributes))
        return names[0] if outputs == 1 else names

    def conv(
        self, x: str, c_in: int, c_out: int, k: int = 3, groups: int = 1, bias: bool = True, **kw: Any
    ) -> str:
        weights = [self.weight(c_out, c_in // groups, k, k)]
        if bias:
            weights.append(self.weight(c_out, scale=0.1))
        kw.setdefault("pads", [k // 2] * 4)
        return str(self.op("Conv", x, *weights, group=groups, **kw))

    def batch_norm(self, x: str, channels: int) -> str:
        gamma, beta, mean = (self.constant(self.rng.uniform(0.5, 1.5, channels)) for _ in range(3))
        var = self.constant(self.rng.uniform(0.5, 2.0, channels))
        return str(self.op("BatchNormalization", x, gamma, beta, mean, var, epsilon=1e-3))

    def finish(self, *outputs: str) -> None:
        """Say what the outputs are."""
        self.outputs = outputs

    def finished(self) -> onnx.ModelProto:
        return self.model(*self.outputs)

    def model(self, *outputs: str, opset: int = 18) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "test",
            self.inputs,
            [onnx.ValueInfoProto(name=name) for name in outputs],
            self.initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        inferred = onnx.shape_inference.infer_shapes(model)
        known = {value.name: value for value in [*inferred.graph.value_info, *inferred.graph.output]}
        del inferred.graph.output[:]
        inferred.graph.output.extend(known[name] for name in outputs)
        return inferred


def mlp(batch: int = 1) -> onnx.ModelProto:
    """Gemm (both orientations), ReLU, MatMul + Add, softmax."""
    g = Graph()
    x = g.input("x", batch, 10)
    x = g.op("Relu", g.op("Gemm", x, g.weight(17, 10), g.weight(17), transB=1))
    x = g.op("Tanh", g.op("Gemm", x, g.weight(17, 32), g.weight(32), alpha=0.5))
    x = g.op("Add", g.op("MatMul", x, g.weight(32, 3)), g.weight(3))
    return g.model(g.op("Softmax", x, axis=-1))


def residual_network(size: int = 17, batch: int = 1) -> onnx.ModelProto:
    """Standard convolutions with separate batch norms, residuals, max pooling, a strided projection."""
    g = Graph()
    x = g.input("image", batch, 3, size, size)
    x = g.op("Relu", g.batch_norm(g.conv(x, 3, 16, 7, bias=False, strides=[2, 2]), 16))
    x = g.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    y = g.op("Relu", g.batch_norm(g.conv(x, 16, 16, bias=False), 16))
    y = g.batch_norm(g.conv(y, 16, 16, bias=False), 16)
    x = g.op("Relu", g.op("Add", x, y))
    y = g.op("Relu", g.batch_norm(g.conv(x, 16, 24, strides=[2, 2]), 24))
    y = g.batch_norm(g.conv(y, 24, 24), 24)
    x = g.op("Relu", g.op("Add", g.batch_norm(g.conv(x, 16, 24, 1, pads=[0] * 4, strides=[2, 2]), 24), y))
    x = g.op("Flatten", g.op("GlobalAveragePool", x))
    return g.model(g.op("Gemm", x, g.weight(5, 24), g.weight(5), transB=1))


def loose_batch_norms() -> onnx.ModelProto:
    """Batch norms that no convolution can take: at the input, after a fork, after pooling."""
    g = Graph()
    x = g.batch_norm(g.input("x", 2, 6, 9, 7), 6)
    y = g.conv(x, 6, 8)
    a, b = g.op("Relu", y), g.op("Sigmoid", g.batch_norm(y, 8))
    x = g.batch_norm(g.op("AveragePool", g.op("Add", a, b), kernel_shape=[2, 2], strides=[1, 1]), 8)
    return g.model(g.op("LeakyRelu", x, alpha=0.1))


def pools() -> onnx.ModelProto:
    """All kinds of pooling, on a map that is not square."""
    g = Graph()
    x = g.conv(g.input("x", 1, 3, 13, 10), 3, 10)
    a = g.op("MaxPool", x, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1])
    b = g.op("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=0)
    c = g.op("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1)
    d = g.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    return g.model(a, b, c, d, g.op("GlobalMaxPool", x), g.op("GlobalAveragePool", x))


def concatenations() -> onnx.ModelProto:
    """Inception-like branches, concatenated over channels; slices and splits of maps."""
    g = Graph()
    x = g.op("Relu", g.conv(g.input("x", 1, 3, 8, 8), 3, 12))
    y = g.op("Concat", g.conv(x, 12, 8, 1, pads=[0] * 4), g.conv(x, 12, 5, 3), g.conv(x, 12, 7, 5), axis=1)
    a, b = g.op("Split", y, g.constant([8, 12], "int64"), axis=1, outputs=2)
    z = g.conv(g.op("Mul", g.op("Relu", b), g.op("Sigmoid", b)), 12, 8)
    return g.model(g.op("Add", a, z))


def clips() -> onnx.ModelProto:
    """Clip with both, one or no bound, with negative bounds and after other operators."""
    g = Graph()
    x = g.conv(g.input("x", 1, 3, 6, 6), 3, 8)
    bounds = [g.constant(v) for v in (0.0, 0.5, -0.25, 0.75)]
    y = g.op("Add", g.op("Clip", x, bounds[0], bounds[1]), g.op("Clip", x, bounds[2], bounds[3]))
    y = g.conv(y, 8, 8, groups=8)
    y = g.op("Add", g.op("Clip", y, bounds[2]), g.op("Clip", y, "", bounds[3]))
    return g.model(g.op("Add", y, g.op("Clip", x)), g.op("Clip", x, bounds[3], bounds[0]))


def swishes() -> onnx.ModelProto:
    """Swish in its written-out form, hard swish in both forms, PReLU."""
    g = Graph()
    x = g.conv(g.input("x", 1, 3, 7, 9), 3, 16)
    x = g.op("Mul", x, g.op("Sigmoid", x))
    x = g.conv(x, 16, 16, 5, groups=16)
    gate = g.op("Clip", g.op("Add", x, g.constant(3.0)), g.constant(0.0), g.constant(6.0))
    x = g.op("Div", g.op("Mul", x, gate), g.constant(6.0))
    x = g.op("HardSwish", g.conv(x, 16, 8, 1, pads=[0] * 4))
    return g.model(g.op("PRelu", x, g.constant(np.linspace(-0.5, 0.5, 8).reshape(8, 1, 1))))


def reshapes() -> onnx.ModelProto:
    """Reshapes and transposes of maps: channel shuffle, pixel shuffle, flattening of a wide map."""
    g = Graph()
    x = g.op("Relu", g.conv(g.input("x", 1, 3, 8, 6), 3, 12))
    y = g.op("Reshape", x, g.constant([1, 3, 4, 8, 6], "int64"))
    y = g.op("Reshape", g.op("Transpose", y, perm=[0, 2, 1, 3, 4]), g.constant([1, 12, 8, 6], "int64"))
    y = g.op("DepthToSpace", g.conv(y, 12, 12, 1, pads=[0] * 4), blocksize=2)
    z = g.op("Transpose", x, perm=[0, 2, 3, 1])
    z = g.op("Add", z, g.constant(g.rng.standard_normal(12)))
    flat = g.op("Flatten", y)
    return g.model(g.op("MatMul", flat, g.weight(3 * 16 * 12, 4)), z)


def channels_last_graph() -> onnx.ModelProto:
    """A model whose input is NHWC, as converters from TensorFlow write it."""
    g = Graph()
    x = g.op("Transpose", g.input("x", 1, 9, 9, 3), perm=[0, 3, 1, 2])
    x = g.op("Relu", g.conv(x, 3, 8, strides=[2, 2]))
    x = g.op("Pad", x, g.constant([0, 0, 1, 0, 0, 0, 0, 1], "int64"))
    x = g.op("Relu", g.conv(x, 8, 8, pads=[0, 0, 1, 1]))
    return g.model(
        g.op("Transpose", x, perm=[0, 2, 3, 1]),
        g.op("ReduceMean", x, g.constant([2, 3], "int64"), keepdims=0),
    )


def groups() -> onnx.ModelProto:
    """Grouped, dilated, asymmetric and multiplied depthwise convolutions."""
    g = Graph()
    x = g.op("Relu", g.conv(g.input("x", 1, 6, 10, 11), 6, 12, groups=3))
    x = g.conv(x, 12, 12, groups=12, dilations=[2, 2], pads=[2, 2, 2, 2])
    x = g.op("Relu", g.conv(x, 12, 24, groups=12))  # depth multiplier 2
    x = g.conv(x, 24, 10, 2, pads=[0, 1, 1, 0], strides=[1, 2])
    weight = g.weight(10, 1, 1, 7)
    return g.model(g.op("Conv", x, weight, group=10, pads=[0, 3, 0, 3]))


def transposed_convolution() -> onnx.ModelProto:
    g = Graph()
    x = g.op("Relu", g.conv(g.input("x", 1, 3, 6, 6), 3, 8))
    x = g.op("ConvTranspose", x, g.weight(8, 5, 2, 2), strides=[2, 2])
    return g.model(
        g.op(
            "Resize",
            x,
            "",
            g.constant([1, 1, 2, 2]),
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
    )


def several_inputs_and_outputs() -> onnx.ModelProto:
    """An image, a vector that gates it, an input that is itself an output's operand."""
    g = Graph()
    image, gate, bias = g.input("image", 2, 4, 5, 5), g.input("gate", 2, 4), g.input("bias", 1, 4, 1, 1)
    shape = g.constant([2, 4, 1, 1], "int64")
    x = g.op("Mul", image, g.op("Reshape", g.op("Sigmoid", gate), shape))
    x = g.conv(g.op("Add", x, bias), 4, 6)
    return g.model(x, g.op("ReduceMax", x, g.constant([2, 3], "int64"), keepdims=0), g.op("Neg", gate))


def embedding() -> onnx.ModelProto:
    """Integer inputs: a table look-up, then a mean over the sequence."""
    g = Graph()
    tokens = g.input("tokens", 2, 7, dtype="int64")
    x = g.op("Gather", g.weight(50, 12), tokens)
    x = g.op("LayerNormalization", x, g.constant(np.ones(12)), g.constant(np.zeros(12)), axis=-1)
    x = g.op("ReduceMean", x, g.constant([1], "int64"), keepdims=0)
    logits = g.op("Gemm", x, g.weight(9, 12), g.weight(9), transB=1)
    return g.model(logits, g.op("ArgMax", logits, axis=1, keepdims=0))


def attention() -> onnx.ModelProto:
    """Scaled dot-product attention over (heads, tokens, width): batched products without weights."""
    g = Graph()
    x = g.input("x", 1, 6, 16)
    q, k, v = (
        g.op("Reshape", g.op("MatMul", x, g.weight(16, 16)), g.constant([1, 6, 2, 8], "int64"))
        for _ in range(3)
    )
    q, v = (g.op("Transpose", t, perm=[0, 2, 1, 3]) for t in (q, v))
    k = g.op("Transpose", k, perm=[0, 2, 3, 1])
    weights = g.op("Softmax", g.op("Mul", g.op("MatMul", q, k), g.constant(8**-0.5)), axis=-1)
    y = g.op("Transpose", g.op("MatMul", weights, v), perm=[0, 2, 1, 3])
    return g.model(g.op("Add", x, g.op("Reshape", y, g.constant([1, 6, 16], "int64"))))


def one_dimensional() -> onnx.ModelProto:
    """1-D convolutions and normalisation, as in audio and sensor models."""
    g = Graph()
    x = g.op("Relu", g.op("Conv", g.input("x", 1, 4, 33), g.weight(8, 4, 5), g.weight(8), pads=[2, 2]))
    x = g.op("MaxPool", x, kernel_shape=[2], strides=[2])
    x = g.op("InstanceNormalization", x, g.constant(np.ones(8)), g.constant(np.zeros(8)))
    return g.model(g.op("GlobalAveragePool", g.op("Relu", x)), x)


def sorting() -> onnx.ModelProto:
    """TopK and CumSum: TVM writes these as plain loops and calls of its library."""
    g = Graph()
    x = g.op("Relu", g.op("MatMul", g.input("x", 3, 8), g.weight(8, 10)))
    values, indices = g.op("TopK", x, g.constant([4], "int64"), outputs=2)
    return g.model(values, indices, g.op("CumSum", x, g.constant(1, "int64")))


def splits() -> onnx.ModelProto:
    """Kernels with several outputs."""
    g = Graph()
    x = g.op("MatMul", g.input("x", 5, 16), g.weight(16, 12))
    a, b = g.op("Split", x, g.constant([4, 8], "int64"), axis=1, outputs=2)
    c, d = g.op("Split", g.op("Tanh", b), g.constant([3, 5], "int64"), axis=1, outputs=2)
    return g.model(a, d, g.op("Exp", c))


def reductions() -> onnx.ModelProto:
    """Reductions over other axes than those of a map, down to a single number."""
    g = Graph()
    x = g.conv(g.input("x", 2, 3, 5, 4), 3, 10)
    norm = g.op("ReduceL2", x, g.constant([1], "int64"), keepdims=1)
    y = g.op("Div", x, g.op("Add", norm, g.constant(1e-3)))
    per_column = g.op("ReduceMean", x, g.constant([0, 1, 2], "int64"), keepdims=0)
    return g.model(
        g.op("Add", y, per_column),
        g.op("ReduceMean", y, keepdims=0),
        g.op("ReduceMin", x, g.constant([3], "int64")),
    )


def constant_shapes() -> onnx.ModelProto:
    """Reshape to a shape computed in the graph (`Shape`, `Gather`, `Concat`), as PyTorch exports `view`."""
    g = Graph()
    x = g.op("Relu", g.conv(g.input("x", 2, 3, 4, 4), 3, 8))
    n = g.op(
        "Unsqueeze",
        g.op("Gather", g.op("Shape", x), g.constant(0, "int64"), axis=0),
        g.constant([0], "int64"),
    )
    flat = g.op("Reshape", x, g.op("Concat", n, g.constant([-1], "int64"), axis=0))
    return g.model(g.op("Gemm", flat, g.weight(4, 128), transB=1))


def inputs_straight_out() -> onnx.ModelProto:
    """Nothing to compute for one output, only a view for the other."""
    g = Graph()
    x = g.input("x", 1, 3, 4, 4)
    return g.model(g.op("Identity", x), g.op("Flatten", x))


MODELS: Sequence[Builder] = (
    mlp,
    residual_network,
    loose_batch_norms,
    pools,
    concatenations,
    clips,
    swishes,
    reshapes,
    channels_last_graph,
    groups,
    transposed_convolution,
    several_inputs_and_outputs,
    embedding,
    attention,
    one_dimensional,
    sorting,
    splits,
    reductions,
    constant_shapes,
    inputs_straight_out,
)


def random_inputs(
    model: onnx.ModelProto, seed: int = 0, shapes: Mapping[str, Sequence[int]] | None = None
) -> list[np.ndarray]:
    """Values for every input: normal for floats, 0..8 for integers."""
    rng = np.random.default_rng(seed)
    given = {tensor.name for tensor in model.graph.initializer}
    result = []
    for value in model.graph.input:
        if value.name in given:
            continue
        shape = (shapes or {}).get(value.name) or [d.dim_value for d in value.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        array = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 9, shape)
        result.append(array.astype(dtype))
    return result


def reference(model: onnx.ModelProto, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """ONNX Runtime's outputs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]
    return [np.asarray(y) for y in session.run(None, dict(zip(names, arrays, strict=True)))]

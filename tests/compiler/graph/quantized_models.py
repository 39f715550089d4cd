"""Small quantised networks in the forms that the tools of others write, made by hand or by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ofa_tvm.targets import get_target

Array = np.ndarray[Any, Any]
_SIZE = 12


@dataclass
class Builder:
    """A network of quantised operators, collected in order; scales and zero points are constants."""

    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"constant{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def op(self, kind: str, *inputs: str, out: str = "", domain: str = "", **attributes: Any) -> str:
        number = len(self.nodes)
        out = out or f"v{number}"
        self.nodes.append(
            helper.make_node(kind, list(inputs), [out], name=f"{kind}{number}", domain=domain, **attributes)
        )
        return out

    def scheme(self, scale: Any, zero: Any, dtype: Any = np.uint8) -> tuple[str, str]:
        return self.constant(scale), self.constant(zero, dtype)

    def quantize(self, x: str, scale: Any, zero: Any, dtype: Any = np.uint8, **attributes: Any) -> str:
        return self.op("QuantizeLinear", x, *self.scheme(scale, zero, dtype), **attributes)

    def real(self, x: str, scale: Any, zero: Any, dtype: Any = np.uint8, **attributes: Any) -> str:
        return self.op("DequantizeLinear", x, *self.scheme(scale, zero, dtype), **attributes)

    def pair(self, x: str, scale: float, zero: int, dtype: Any = np.uint8) -> str:
        return self.real(self.quantize(x, scale, zero, dtype), scale, zero, dtype)

    def integers(self, *shape: int, dtype: Any = np.int8) -> Array:
        limits = np.iinfo(dtype)
        return self.rng.integers(limits.min, limits.max + 1, shape).astype(dtype)

    def weights(self, *shape: int) -> Array:
        """Of QOperators: int8, or of 7 bits where ONNX Runtime's sums saturate."""
        return self.integers(*shape) // (2 if saturates() else 1)

    def model(
        self,
        outputs: Mapping[str, int] | Sequence[str],
        opset: int = 17,
        inputs: Mapping[str, Any] | None = None,
    ) -> onnx.ModelProto:
        """The network; `inputs` are (type, shape) by name, by default one picture of three channels."""
        given = inputs or {"x": (TensorProto.FLOAT, (1, 3, _SIZE, _SIZE))}
        kinds = outputs if isinstance(outputs, Mapping) else dict.fromkeys(outputs, TensorProto.FLOAT)
        graph = helper.make_graph(
            self.nodes,
            "quantised",
            [helper.make_tensor_value_info(name, *given[name]) for name in given],
            [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()],
            self.tensors,
        )
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8 if opset < 21 else 10)


def by_pytorch() -> onnx.ModelProto:
    """As PyTorch exports: weights in float behind a pair, int8 maps, a product of a transposed weight."""
    b = Builder()
    x = b.pair("x", 0.03, 3, np.int8)
    w = b.constant(b.rng.normal(0, 0.2, (16, 3, 3, 3)))
    scales = np.abs(b.rng.normal(0.004, 0.001, 16))
    q = b.quantize(w, scales, np.zeros(16), np.int8, axis=0)
    w = b.real(q, scales, np.zeros(16), np.int8, axis=0)
    bias = b.constant(b.rng.normal(0, 0.3, 16))
    y = b.op("Relu", b.op("Conv", x, w, bias, pads=[1, 1, 1, 1], strides=[2, 2]))
    y = b.op("MaxPool", b.pair(y, 0.02, -128, np.int8), kernel_shape=[2, 2], strides=[2, 2])
    y = b.op("Flatten", b.pair(y, 0.02, -128, np.int8))
    rows = b.constant(b.rng.normal(0, 0.05, (10, 144)))
    scale = 0.0017
    rows = b.real(b.quantize(rows, scale, 0, np.int8), scale, 0, np.int8)
    y = b.op("MatMul", b.pair(y, 0.02, -128, np.int8), b.op("Transpose", rows, perm=[1, 0]))
    y = b.op("Add", y, b.constant(b.rng.normal(0, 0.1, 10)))
    y = b.pair(y, 0.05, 5, np.int8)
    return b.model([y])


def by_nncf() -> onnx.ModelProto:
    """As NNCF writes: weights in float behind a pair; scales a channel before depthwise convolutions."""
    b = Builder()

    def conv(x: str, c_in: int, c_out: int, k: int, groups: int = 1) -> str:
        w = b.rng.normal(0, (k * k * c_in / groups) ** -0.5, (c_out, c_in // groups, k, k))
        scales = np.abs(w).max((1, 2, 3)) / 127
        q = b.quantize(b.constant(w), scales, np.zeros(c_out), np.int8, axis=0)
        w_real = b.real(q, scales, np.zeros(c_out), np.int8, axis=0)
        bias = b.constant(b.rng.normal(0, 0.1, c_out))
        return b.op("Conv", x, w_real, bias, pads=[k // 2] * 4, group=groups)

    def each(x: str, dtype: Any) -> str:
        scales, zeros = b.rng.uniform(0.01, 0.02, 16), np.zeros(16)
        return b.real(b.quantize(x, scales, zeros, dtype, axis=1), scales, zeros, dtype, axis=1)

    x = b.pair(conv(b.pair("x", 0.03, 128), 3, 16, 1), 0.04, 128)
    y = conv(each(b.op("Relu", conv(x, 16, 16, 1)), np.uint8), 16, 16, 3, 16)
    y = conv(each(b.op("HardSwish", y), np.int8), 16, 16, 5, 16)
    y = b.pair(b.op("HardSwish", y), 0.03, 12)
    z = b.pair(conv(y, 16, 16, 1), 0.03, 120)
    y = b.pair(b.op("Add", z, x), 0.05, 125)
    y = b.op("GlobalAveragePool", y)
    return b.model([b.op("Reshape", b.pair(y, 0.02, 128), b.constant([1, 16], np.int64))])


def by_tflite() -> onnx.ModelProto:
    """As converters write TFLite networks: uint8 throughout, weights around a zero point, idle clamps."""
    b = Builder()
    x = b.real("x", 0.0078125, 128)
    for c_in, c_out, k, groups in ((3, 16, 3, 1), (16, 16, 3, 16), (16, 24, 1, 1)):
        shape = (c_out, c_in // groups, k, k)
        w = b.real(b.constant(b.integers(*shape, dtype=np.uint8), np.uint8), 0.004, 121)
        scale = 0.0078125 if c_in == 3 else 0.0235294
        bias = b.real(b.constant(b.rng.integers(-900, 900, c_out), np.int32), scale * 0.004, 0, np.int32)
        y = b.op("Conv", x, w, bias, pads=[k // 2] * 4, group=groups)
        y = b.op("Clip", y, b.constant(0.0), b.constant(6.0))
        q = b.quantize(y, 0.0235294, 0)
        x = b.real(q, 0.0235294, 0)
    inputs = {"x": (TensorProto.UINT8, (1, 3, _SIZE, _SIZE))}
    return b.model({q: TensorProto.UINT8}, opset=13, inputs=inputs)


def with_gates() -> onnx.ModelProto:
    """Hard-swish spelled in two operators and a squeezed gate, quantised between each and the next."""
    b = Builder()
    w = b.real(b.constant(b.integers(16, 3, 3, 3), np.int8), 0.004, 0, np.int8)
    x = b.op("Conv", b.pair("x", 0.03, 128), w, pads=[1, 1, 1, 1])
    x = b.pair(x, 0.05, 120)
    gate = b.pair(b.op("HardSigmoid", x, alpha=1 / 6, beta=0.5), 1 / 255, 0)
    x = b.pair(b.op("Mul", x, gate), 0.04, 9)
    y = b.pair(b.op("GlobalAveragePool", x), 0.02, 20)
    w = b.real(b.constant(b.integers(16, 16, 1, 1), np.int8), 0.006, 0, np.int8)
    y = b.pair(b.op("Conv", y, w), 0.04, 128)
    gate = b.pair(b.op("HardSigmoid", y, alpha=1 / 6, beta=0.5), 1 / 255, 0)
    return b.model([b.pair(b.op("Mul", x, gate), 0.03, 8)])


def with_integer_products() -> onnx.ModelProto:
    """As dynamic quantisers write products: scale and zero point of what comes in are computed."""
    b = Builder()
    b.nodes.append(helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"], name="dynamic"))
    w = b.constant(b.weights(8, 3, 3, 3), np.int8)
    total = b.op("ConvInteger", "q", w, "zero", pads=[1, 1, 1, 1])
    real = b.op("Cast", total, to=TensorProto.FLOAT)
    y = b.op("Mul", real, b.op("Mul", "scale", b.constant(0.004)))
    flat = b.op("Flatten", y)
    b.nodes.append(
        helper.make_node("DynamicQuantizeLinear", [flat], ["q1", "scale1", "zero1"], name="dynamic1")
    )
    w = b.constant(b.weights(8 * _SIZE**2, 5), np.int8)
    zeros = b.constant(b.integers(5), np.int8)
    total = b.op("MatMulInteger", "q1", w, "zero1", zeros)
    real = b.op("Cast", total, to=TensorProto.FLOAT)
    return b.model([b.op("Mul", real, b.op("Mul", "scale1", b.constant(0.002)))])


def of_onnx_runtime() -> onnx.ModelProto:
    """Every operator of ONNX Runtime's QOperator format that is known, side by side on the same picture."""
    b = Builder()
    a, c, gate, wide = (b.scheme(*s) for s in ((0.03, 128), (0.02, 100), (1 / 256, 0), (0.06, 120)))
    x, y = b.quantize("x", 0.03, 128), b.quantize("x", 0.02, 100)

    def of_microsoft(kind: str, *inputs: str, **attributes: Any) -> str:
        return b.op(kind, *inputs, domain="com.microsoft", **attributes)

    w = b.constant(b.weights(8, 3, 3, 3), np.int8)
    each = b.scheme(b.rng.uniform(0.002, 0.006, 8), np.zeros(8), np.int8)
    bias = b.constant(b.rng.integers(-3000, 3000, 8), np.int32)
    mask = b.constant(np.arange(3).reshape(1, 3, 1, 1) % 2, bool)
    rows = b.op("Reshape", of_microsoft("QLinearGlobalAveragePool", x, *a, *a), b.constant([1, 3], np.int64))
    matrix, tall = (
        b.constant(b.weights(8, 3), np.int8),
        b.constant(b.integers(3, 7, dtype=np.uint8), np.uint8),
    )
    window = {"kernel_shape": [2, 2], "strides": [1, 1]}
    made = [
        (b.op("QLinearConv", x, *a, w, *each, *wide, bias, pads=[1, 1, 1, 1]), wide),
        (of_microsoft("QLinearLeakyRelu", x, *a, *c, alpha=0.1), c),
        (of_microsoft("QLinearSigmoid", x, *a, *gate), gate),
        (of_microsoft("QLinearMul", x, *a, y, *c, *wide), wide),
        (of_microsoft("QLinearAdd", x, *a, y, *c, *wide), wide),
        (of_microsoft("QLinearConcat", *a, x, *a, y, *c, axis=1), a),
        (b.op("MaxPool", x, **window), a),
        (of_microsoft("QLinearAveragePool", x, *a, *c, **window), c),
        (of_microsoft("QLinearWhere", mask, x, *a, y, *c, *wide), wide),
        (of_microsoft("QGemm", rows, *a, matrix, *each, bias, *c, transB=1), c),
        (b.op("QLinearMatMul", rows, *a, tall, *b.scheme(0.005, 130), *c), c),
        (of_microsoft("QLinearSoftmax", rows, *a, *gate, axis=-1, opset=13), gate),
    ]
    return b.model([b.op("DequantizeLinear", q, *scheme) for q, scheme in made])


def saturates() -> bool:
    """Whether ONNX Runtime adds two products of bytes in int16 here, as it does on x86 without VNNI."""
    return get_target("x86").dtypes["int8"] != "vpdpbusd"


def by_onnx_runtime(folder: Path, form: str, activations: str) -> onnx.ModelProto:
    """What its quantiser makes of a small network, with members of its `QuantFormat` and `QuantType`."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Pictures(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            pictures = np.random.default_rng(3).standard_normal((8, 1, 3, _SIZE, _SIZE), dtype=np.float32)
            self.feeds = iter([{"x": picture} for picture in pictures])

        def get_next(self) -> dict[str, Array] | None:
            return next(self.feeds, None)

    source, made = folder / "float.onnx", folder / f"{form}.{activations}.onnx"
    onnx.save(_float_network(), source)
    quantize_static(
        source,
        made,
        Pictures(),
        quant_format=QuantFormat[form],
        per_channel=True,
        activation_type=QuantType[activations],
        weight_type=QuantType.QInt8,
    )
    model = onnx.load(made)
    for tensor in model.graph.initializer if saturates() else ():
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) > 1:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) // 2, tensor.name))
    return model


def _float_network() -> onnx.ModelProto:
    b = Builder()

    def conv(x: str, c_in: int, c_out: int, k: int, **attributes: Any) -> str:
        inner = c_in // attributes.get("group", 1)
        w = b.constant(b.rng.normal(0, (k * k * inner) ** -0.5, (c_out, inner, k, k)))
        return b.op("Conv", x, w, b.constant(b.rng.normal(0, 0.2, c_out)), pads=[k // 2] * 4, **attributes)

    def swish(x: str) -> str:
        return b.op("Mul", x, b.op("HardSigmoid", x, alpha=1 / 6, beta=0.5))

    x = swish(conv("x", 3, 16, 3, strides=[2, 2]))
    y = swish(conv(swish(conv(x, 16, 24, 1)), 24, 24, 5, group=24))
    gate = b.op("GlobalAveragePool", y)
    gate = conv(b.op("Relu", conv(gate, 24, 8, 1)), 8, 24, 1)
    y = b.op("Mul", y, b.op("HardSigmoid", gate, alpha=1 / 6, beta=0.5))
    x = b.op("Add", x, conv(y, 24, 16, 1))
    x = b.op("Concat", x, b.op("Relu", conv(x, 16, 8, 1)), axis=1)
    x = b.op("Flatten", b.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]))
    w = b.constant(b.rng.normal(0, 0.06, (10, 216)))
    return b.model([b.op("Gemm", x, w, b.constant(b.rng.normal(0, 0.1, 10)), transB=1)])


FORMS: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "pytorch": by_pytorch,
    "nncf": by_nncf,
    "tflite": by_tflite,
    "gates": with_gates,
    "qoperators": of_onnx_runtime,
}

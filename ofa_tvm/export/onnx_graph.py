"""Writing a network's ONNX graph directly: milliseconds instead of a trace, and batch norms folded away.

A quantised network becomes QDQ. QuantizeLinear and DequantizeLinear stand where its maps are stored, nowhere
between a convolution and the activation or the sum behind it, so that each kernel rounds once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from onnx import TensorProto, helper
from torch import Tensor, nn

from ofa_tvm import __version__
from ofa_tvm.errors import UsageError
from ofa_tvm.files import write_atomic
from ofa_tvm.spaces.network import Activation
from ofa_tvm.supernet import Network
from ofa_tvm.supernet.fake_quantization import MapQuantizer, WeightQuantizer, rescaled, weight_codes
from ofa_tvm.supernet.layers import BottleneckBlock, ConvLayer, Linear, MBConvBlock, Residual, SqueezeExcite

# HardSwish needs 14; IR 10 belongs to this opset and is read by every runtime since ONNX Runtime 1.18.
OPSET = 21
IR_VERSION = 10

INPUT, OUTPUT = "input", "logits"
_INTEGERS = {np.dtype(np.uint8): TensorProto.UINT8, np.dtype(np.int8): TensorProto.INT8}


class _Graph:
    """Nodes and weights collected in execution order; every operator returns the name of its output."""

    def __init__(self, proto: onnx.GraphProto) -> None:
        self.proto = proto
        self._constants: set[str] = set()

    def op(self, kind: str, name: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        out = output or f"{name}/{kind}"
        self.proto.node.append(
            helper.make_node(kind, list(inputs), [out], name=f"{name}/{kind}", **attributes)
        )
        return out

    def constant(self, name: str, value: np.ndarray) -> str:
        """A constant, integers of 8 bits or else in float32.

        It is written into place at once: copying weights is most of an export's time.
        """
        if name not in self._constants:
            self._constants.add(name)
            tensor = self.proto.initializer.add()
            if value.dtype not in _INTEGERS:
                value = value.astype(np.float32, copy=False)
            tensor.name, tensor.data_type = name, _INTEGERS.get(value.dtype, TensorProto.FLOAT)
            tensor.dims.extend(value.shape)
            tensor.raw_data = value.tobytes()
        return name

    def quantized(self, name: str, x: str, quantizer: nn.Module | None) -> str:
        """A map as it is stored."""
        if not isinstance(quantizer, MapQuantizer) or not quantizer.enabled:
            return x
        scale, zero = quantizer.scheme()
        scheme = (
            self.constant(f"{name}.scale", np.asarray(scale)),
            self.constant(f"{name}.zero_point", np.asarray(zero)),
        )
        return self.op("DequantizeLinear", name, self.op("QuantizeLinear", name, x, *scheme), *scheme)

    def weight(
        self, name: str, weight: Tensor, quantizer: WeightQuantizer, factors: np.ndarray | None = None
    ) -> str:
        """A weight, times a factor for each output channel."""
        if not quantizer.enabled:
            value = _array(weight)
            if factors is not None:
                value = value * factors.astype(value.dtype)[:, None, None, None]
            return self.constant(f"{name}.weight", value)
        codes, scales = weight_codes(weight)
        if factors is not None:
            codes, scales = rescaled(codes, scales, factors)
        stored = (
            self.constant(f"{name}.weight", codes),
            self.constant(f"{name}.weight.scale", scales),
            self.constant(f"{name}.weight.zero_point", np.zeros(len(scales), np.int8)),
        )
        return self.op("DequantizeLinear", f"{name}.weight", *stored, axis=0)

    def activation(self, name: str, x: str, activation: Activation) -> str:
        match activation:
            case "relu":
                return self.op("Relu", name, x)
            case "relu6":
                bounds = (self.constant(f"relu6.{bound}", np.array(bound)) for bound in (0, 6))
                return self.op("Clip", name, x, *bounds)
            case "h_swish":
                return self.op("HardSwish", name, x)
            case "h_sigmoid":
                return self.op("HardSigmoid", name, x, alpha=1 / 6, beta=0.5)
            case "none":
                return x

    def conv(
        self, name: str, x: str, weight: str, bias: np.ndarray | None, kernel: int = 1, stride: int = 1,
        group: int = 1,
    ) -> str:  # fmt: skip
        inputs = [x, weight]
        if bias is not None:
            inputs.append(self.constant(f"{name}.bias", bias))
        return self.op(
            "Conv", name, *inputs, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4,
            group=group,
        )  # fmt: skip


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _of_norm(bn: nn.BatchNorm2d | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Factor and bias of each channel that a batch norm gives the convolution before it, in float64."""
    if bn is None or bn.running_mean is None or bn.running_var is None:
        return None, None
    factors = _array(bn.weight) / np.sqrt(_array(bn.running_var).astype(np.float64) + bn.eps)
    return factors, _array(bn.bias) - _array(bn.running_mean) * factors


@singledispatch
def _emit(module: nn.Module, graph: _Graph, name: str, x: str) -> str:
    raise UsageError(f"cannot export a {type(module).__name__} ({name}) to ONNX")


@_emit.register
def _(module: ConvLayer, graph: _Graph, name: str, x: str) -> str:
    conv = module.conv
    factors, bias = _of_norm(module.bn)
    weight = graph.weight(name, conv.weight, cast(WeightQuantizer, conv.quantize_weight), factors)
    x = graph.conv(name, x, weight, bias, conv.kernel_size[0], conv.stride[0], conv.groups)
    x = graph.quantized(name, graph.activation(name, x, module.activation), module.quantize)
    return x if module.se is None else _emit(module.se, graph, f"{name}.se", x)


@_emit.register
def _(module: SqueezeExcite, graph: _Graph, name: str, x: str) -> str:
    gate = graph.quantized(f"{name}.pooled", graph.op("GlobalAveragePool", name, x), module.quantize_pooled)
    convs: tuple[tuple[str, Activation], ...] = (("reduce", "relu"), ("expand", "h_sigmoid"))
    for part, activation in convs:
        where, conv = f"{name}.fc.{part}", getattr(module.fc, part)
        weight = graph.weight(where, conv.weight, module.quantize_weight)
        gate = graph.conv(where, gate, weight, _array(conv.bias))
        gate = graph.activation(where, gate, activation)
        if part == "reduce":
            gate = graph.quantized(where, gate, module.quantize_reduced)
    return graph.quantized(name, graph.op("Mul", name, x, gate), module.quantize)


@_emit.register
def _(module: Residual, graph: _Graph, name: str, x: str) -> str:
    total = graph.op("Add", name, _emit(module.conv, graph, f"{name}.conv", x), x)
    return graph.quantized(name, total, module.quantize)


@_emit.register
def _(module: MBConvBlock, graph: _Graph, name: str, x: str) -> str:
    y = x
    for part, layer in module.conv.named_children():
        y = _emit(layer, graph, f"{name}.conv.{part}", y)
    return graph.quantized(name, graph.op("Add", name, y, x) if module.residual else y, module.quantize)


@_emit.register
def _(module: BottleneckBlock, graph: _Graph, name: str, x: str) -> str:
    y = x
    for part in ("conv1", "conv2", "conv3"):
        y = _emit(getattr(module, part), graph, f"{name}.{part}", y)
    if module.downsample is not None:
        where = f"{name}.downsample"
        if module.stride > 1:
            sides = [module.stride] * 2
            # The last window of an odd map is averaged over what it covers.
            x = graph.op(
                "AveragePool", where, x, kernel_shape=sides, strides=sides, ceil_mode=1, count_include_pad=0
            )
            x = graph.quantized(f"{where}.pooled", x, module.quantize_pooled)
        x = _emit(module.downsample, graph, where, x)
    total = graph.op("Relu", name, graph.op("Add", name, y, x))
    return graph.quantized(name, total, module.quantize)


@_emit.register
def _(module: Network, graph: _Graph, name: str, x: str) -> str:
    spec = module.spec
    x = graph.quantized("input", x, module.quantize_input)
    for conv, layer in zip(spec.stem, module.stem, strict=True):
        x = _emit(layer, graph, conv.name.removesuffix(".conv"), x)
    if spec.max_pool:
        x = graph.op("MaxPool", "max_pool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for index, block in enumerate(module.blocks):
        x = _emit(block, graph, f"blocks.{index}", x)
    for conv in spec.before_pool:
        x = _emit(getattr(module, conv.name), graph, conv.name, x)
    x = graph.quantized("pool", graph.op("GlobalAveragePool", "pool", x), module.quantize_pooled)
    for conv in spec.after_pool:
        x = _emit(getattr(module, conv.name), graph, conv.name, x)
    x = graph.op("Flatten", "classifier", x)
    linear = cast(Linear, module.classifier.linear)
    weight = graph.weight("classifier", linear.weight, linear.quantize_weight)
    bias = graph.constant("classifier.bias", _array(linear.bias))
    return graph.op("Gemm", "classifier", x, weight, bias, output=OUTPUT, transB=1)


def export_onnx(
    sub: nn.Module,
    path: str | Path,
    resolution: int,
    batch: int = 1,
    labels: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> None:
    """Write an extracted subnet, or a published specialised network, as an ONNX file (whole or not at all).

    Parameters
    ----------
    sub
        what `Supernet.extract` or `load_net_config` returned; written as it is in evaluation mode
    resolution
        side of the input "input", float32 (batch, 3, resolution, resolution)
    labels
        class names, kept in the metadata
    preprocessing
        how an image becomes the input, e.g. {"mean": [3], "std": [3]}; kept in the metadata with
        the resolution

    Raises
    ------
    UsageError
        If the module is no extracted network, or resolution, batch or labels make no sense.
    UserError
        If the file cannot be written.
    """
    write_atomic(path, to_onnx(sub, resolution, batch, labels, preprocessing).SerializeToString())


def to_onnx(
    sub: nn.Module,
    resolution: int,
    batch: int = 1,
    labels: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> onnx.ModelProto:
    """The model that `export_onnx` writes.

    Raises
    ------
    UsageError
        If the module is no extracted network, or resolution, batch or labels make no sense.
    """
    if not isinstance(sub, Network):
        raise UsageError(f"cannot export a {type(sub).__name__}; extract a subnet first: net.extract(arch)")
    if resolution < 32 or batch < 1:
        raise UsageError(
            f"cannot export at resolution {resolution} and batch {batch}; the least are 32 pixels and batch 1"
        )
    n_classes = sub.spec.n_classes
    if labels is not None and len(labels) != n_classes:
        raise UsageError(f"there are {len(labels)} labels for a network of {n_classes} classes")
    model = onnx.ModelProto(
        ir_version=IR_VERSION,
        opset_import=[helper.make_opsetid("", OPSET)],
        producer_name="ofa-tvm",
        producer_version=__version__,
    )
    graph = model.graph
    graph.name = sub.space_name or "network"
    shape = (batch, sub.spec.stem[0].c_in, resolution, resolution)
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape))
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, (batch, n_classes)))
    _emit(sub, _Graph(graph), "", INPUT)
    metadata: dict[str, str] = {}
    if sub.arch is not None:
        metadata["arch"] = sub.arch.replace(r=resolution).to_json()
    if sub.space_name:
        metadata["space"] = sub.space_name
    if labels is not None:
        metadata["labels"] = json.dumps(list(labels))
    metadata["preprocessing"] = json.dumps({**(preprocessing or {}), "resolution": resolution})
    helper.set_model_props(model, metadata)
    return model

"""ONNX Runtime's static quantiser: ranges of feature maps measured once, models made of them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from ofa_tvm.errors import UserError
from ofa_tvm.progress import Task
from ofa_tvm.quantization.weights import Weights, short_ranges

Method = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[Method, ...] = get_args(Method)
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Operators that work on integers, or on what lies between two that do; all others stay in float.
_OPERATORS = [
    *LAYERS, "Add", "AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "LeakyRelu", "MaxPool",
    "Mul", "Relu", "Reshape", "Sigmoid", "Split", "Squeeze", "Transpose", "Unsqueeze",
]  # fmt: skip
_CHUNK = 8  # images whose feature maps are in memory at once
_PERCENTILE = 99.99  # of a map's values that its range covers
_QUANTISED = ("Linear", "Integer")  # in the names of operators that only quantised models have


def batches(inputs: npt.NDArray[np.float32], size: int) -> Iterator[tuple[npt.NDArray[np.float32], int]]:
    """Parts of so many inputs, and how many of each count: the last is filled up."""
    for start in range(0, len(inputs), size):
        part = inputs[start : start + size]
        count = len(part)
        if count < size:
            part = np.concatenate([part, np.repeat(part[-1:], size - count, 0)])
        yield part, count


def layers(model: onnx.ModelProto) -> dict[str, str]:
    """Operator of every layer with weights, by the node's name."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return {
        node.name: node.op_type
        for node in model.graph.node
        if node.op_type in LAYERS and any(name in constants for name in node.input[:2])
    }


def with_followers(model: onnx.ModelProto, leave_out: Collection[str]) -> list[str]:
    """With nodes without weights that work on what the given ones make, and would quantise it after all."""
    weighty, out = layers(model), set(leave_out)
    made: set[str] = set()
    for node in model.graph.node:
        if node.name not in weighty and made.intersection(node.input):
            out.add(node.name)
        if node.name in out:
            made.update(node.output)
    return sorted(out)


def check_quantizable(model: onnx.ModelProto, name: str) -> None:
    """Refuse what there is nothing to quantise in.

    Raises
    ------
    UserError
        If the model is quantised already, has no layers with weights, or not one float32 input.
    """
    for node in model.graph.node:
        if any(part in node.op_type for part in _QUANTISED) and node.op_type.startswith(
            ("Q", "Dequantize", "DynamicQuantize", "ConvInteger", "MatMulInteger")
        ):
            raise UserError(
                f"{name} is quantised already (operator {node.op_type}, node "
                f"{node.name or node.output[0]!r}); give the float32 model that it was made of"
            )
    if not any(node.op_type in LAYERS for node in model.graph.node):
        raise UserError(f"{name} has no convolutions and no products with weights, so integers gain nothing")
    given = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in given]
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        names = ", ".join(repr(value.name) for value in inputs)
        raise UserError(f"{name} must have one input of float32 to be quantised; its inputs are {names}")


def prepared(model: onnx.ModelProto, path: Path) -> Path:
    """Write the model as the quantiser wants it: constants folded, shapes known, nodes named.

    Its own preprocessing would spell hard-swish in two operators and quantise between them.
    """
    from ofa_tvm.compiler.graph import folded

    ready = folded(model)
    seen: set[str] = set()
    for number, node in enumerate(ready.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{number}"
        seen.add(node.name)
    onnx.save(ready, path)
    return path


def calibrate(
    source: Path, method: Method, inputs: npt.NDArray[np.float32], batch: int, table: Path, task: Task
) -> Path:
    """Measure the range of every feature map and write the ranges to `table`.

    Histograms are collected a few images at a time, so memory holds no more than their maps.
    """
    from onnxruntime.quantization import create_calibrator, save_tensors_data

    with _quietly():
        calibrator = create_calibrator(
            source,
            _OPERATORS,
            str(table.with_suffix(".augmented.onnx")),
            calibrate_method=_method(method),
            extra_options={"symmetric": False, "percentile": _PERCENTILE},
        )
        for start in range(0, len(inputs), _CHUNK):
            part = inputs[start : start + _CHUNK]
            calibrator.collect_data(_reader(source, part, batch))
            task.advance(len(part))
        save_tensors_data(calibrator.compute_data(), table)
    return table


def quantized(
    source: Path,
    method: Method,
    table: Path,
    output: Path,
    leave_out: Collection[str] = (),
    weights: Weights = "short",
) -> Path:
    """Write the QDQ model: uint8 maps, int8 weights with a scale a channel, around zero.

    Parameters
    ----------
    source
        What `prepared` wrote.
    table
        What `calibrate` measured by this method.
    leave_out
        Names of nodes that stay in float, with what follows them up to the next layers.
    weights
        How a channel's range follows from its weights.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    model = onnx.load(source)
    with _quietly():
        quantize_static(
            source,
            output,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_OPERATORS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=with_followers(model, leave_out),
            calibrate_method=_method(method),
            calibration_cache_path=table,
            extra_options={"TensorQuantOverrides": short_ranges(model)} if weights == "short" else None,
        )
    return output


def _method(method: Method) -> Any:
    from onnxruntime.quantization import CalibrationMethod

    return {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }[method]


def _reader(source: Path, inputs: npt.NDArray[np.float32], batch: int) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    model = onnx.load(source, load_external_data=False)
    given = {tensor.name for tensor in model.graph.initializer}
    name = next(value.name for value in model.graph.input if value.name not in given)
    parts = iter([{name: part} for part, _ in batches(inputs, batch)])

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            return next(parts, None)

    return Reader()


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what ONNX Runtime's quantiser says of itself, on the root logger and on standard output."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        logging.root.setLevel(level)

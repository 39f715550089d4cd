"""Quantisation that cannot be followed: a sentence with the node, from Python and from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from quantized_models import Builder

import ofa_tvm
from ofa_tvm.cli.main import invoke

_PICTURE = {"x": (TensorProto.FLOAT, (1, 3, 12, 12))}


def _convolution(
    scale: Any = 0.03, weight_scale: Any = 0.01, opset: int = 17, **axis: int
) -> onnx.ModelProto:
    b = Builder()
    zero = np.zeros(np.shape(weight_scale))
    w = b.real(b.constant(b.integers(4, 3, 1, 1), np.int8), weight_scale, zero, np.int8, **axis)
    return b.model([b.pair(b.op("Conv", b.pair("x", scale, 128), w), 0.05, 128)], opset)


def _blocks() -> onnx.ModelProto:
    b = Builder()
    scale, zero = b.constant(np.full((4, 2), 0.01)), b.constant(np.zeros((4, 2)), np.int8)
    q = b.constant(b.integers(4, 6), np.int8)
    w = b.op("DequantizeLinear", q, scale, zero, axis=1, block_size=3)
    y = b.op("MatMul", b.pair("x", 0.03, 128), w)
    return b.model([y], 21, {"x": (TensorProto.FLOAT, (1, 4))})


def _other_zero_point() -> onnx.ModelProto:
    b = Builder()
    q = b.quantize("x", 0.03, 128)
    return b.model([b.op("DequantizeLinear", q, b.constant(0.03), b.constant(3, np.int8))])


def _of_type(kind: int) -> Callable[[], onnx.ModelProto]:
    def make() -> onnx.ModelProto:
        b = Builder()
        values = [0.0, 1.0, 1.0, 0.0] * 3
        b.tensors.append(helper.make_tensor("w", kind, (4, 3, 1, 1), values))
        w = b.op("DequantizeLinear", "w", b.constant(0.1))
        return b.model([b.op("Conv", b.pair("x", 0.03, 128), w)], 23, _PICTURE)

    return make


def _computed_weight() -> onnx.ModelProto:
    b = Builder()
    w = b.real("w", 0.01, 0, np.int8)
    y = b.op("Conv", b.pair("x", 0.03, 128), w)
    return b.model([y], inputs={**_PICTURE, "w": (TensorProto.INT8, (4, 3, 1, 1))})


def _wrong_rows() -> onnx.ModelProto:
    b = Builder()
    w = b.real(b.constant(b.integers(12, 5), np.int8), np.full(12, 0.01), np.zeros(12), np.int8, axis=0)
    return b.model([b.op("MatMul", b.pair("x", 0.03, 128), w)])


def _operator(scale: float) -> onnx.ModelProto:
    """A scale within an operator of the QOperator format, given by a node."""
    b = Builder()
    s, z = b.scheme(0.03, 128)
    given = b.op("Constant", value=helper.make_tensor("s", TensorProto.FLOAT, (), [scale]))
    w = b.constant(b.integers(4, 3, 1, 1), np.int8)
    q = b.op("QLinearConv", b.op("QuantizeLinear", "x", s, z), s, z, w, *b.scheme(0.01, 0, np.int8), given, z)
    return b.model([b.op("DequantizeLinear", q, s, z)])


CASES: list[tuple[Callable[[], onnx.ModelProto], str, str]] = [
    (lambda: _convolution(scale=0.0), "QuantizeLinear1", "scale holds 0"),
    (lambda: _convolution(scale=-0.5), "QuantizeLinear1", "scale holds -0.5"),
    (lambda: _convolution(scale=np.nan), "QuantizeLinear1", "scale holds nan"),
    (lambda: _convolution(scale=np.inf), "QuantizeLinear1", "scale holds inf"),
    (lambda: _convolution(weight_scale=[0.1, 0.1, 0.0, 0.1], axis=0), "DequantizeLinear0", "scale holds 0"),
    (lambda: _convolution(weight_scale=[0.1, 0.1, 0.1], axis=1), "Conv3", "output channel is axis 0"),
    (lambda: _convolution(weight_scale=[0.1, 0.1], axis=0), "DequantizeLinear0", "2 scales along axis 0"),
    (_wrong_rows, "MatMul3", "output channel is axis 1"),
    (_blocks, "DequantizeLinear0", "one a block"),
    (_other_zero_point, "DequantizeLinear1", "zero point is of type int8"),
    (_of_type(TensorProto.INT4), "DequantizeLinear0", "int4"),
    (_of_type(TensorProto.UINT4), "DequantizeLinear0", "uint4"),
    (_of_type(TensorProto.FLOAT8E4M3FN), "DequantizeLinear0", "float8e4m3fn"),
    (_of_type(TensorProto.FLOAT4E2M1), "DequantizeLinear0", "float4e2m1"),
    (_computed_weight, "Conv3", "quantised but not constant"),
    (lambda: _operator(0.0), "QLinearConv2", "scale holds 0"),
]


@pytest.mark.parametrize(("make", "node", "words"), CASES)
def test_bad_quantization_is_refused_in_a_sentence_that_names_the_node(
    make: Callable[[], onnx.ModelProto], node: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ofa_tvm.UserError) as caught:
        ofa_tvm.compile(make(), ofa_tvm.get_target("x86"), tmp_path / "m.so")
    message = str(caught.value)
    assert f"node '{node}'" in message and words in message and "\n" not in message, message
    assert len(message) < 320, message
    assert not (tmp_path / "m.so").exists()


def test_the_command_line_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(_convolution(scale=0.0), tmp_path / "bad.onnx")
    command = ["compile", str(tmp_path / "bad.onnx"), "--target", "x86", "-o", str(tmp_path / "m.so")]
    assert invoke(command) == 1
    said = capsys.readouterr().err
    assert "bad.onnx" in said and "'QuantizeLinear1'" in said and "Traceback" not in said


def test_integers_of_16_bits_are_computed_in_float(tmp_path: Path) -> None:
    """ONNX Runtime's own operators of the opsets before they were standard, too."""
    b = Builder()
    s, z = b.scheme(0.0003, 30000, np.uint16)
    q = b.op("QuantizeLinear", "x", s, z, domain="com.microsoft")
    model = b.model([b.op("DequantizeLinear", q, s, z, domain="com.microsoft")])
    ofa_tvm.compile(model, ofa_tvm.get_target("x86"), tmp_path / "m.so")
    x = np.random.default_rng(0).standard_normal((1, 3, 12, 12)).astype(np.float32)
    np.testing.assert_allclose(ofa_tvm.load(tmp_path / "m.so")(x), x, atol=0.00016)

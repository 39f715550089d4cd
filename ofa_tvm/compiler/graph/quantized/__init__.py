"""Quantised models in one form, whatever tool wrote them.

People have QOperator files (`QLinearConv`, com.microsoft's `QLinearAdd`), ONNX Runtime's QDQ (int32 biases,
weights stored as int8), NNCF's and PyTorch's (weights in float behind a QuantizeLinear, transposed after
they are dequantised), converted TFLite (uint8 weights with zero points). `without_qoperators` writes the
first as QDQ before constants are folded; `check_quantization` refuses what has no meaning; `canonical`
leaves this:

- **Feature maps** are uint8 with one scale and one zero point for the whole tensor: QuantizeLinear and
  DequantizeLinear have three inputs, `(x, scale, zero point)`, the last two scalar constants (float32 and
  uint8, rank 0), and no attributes. int8 maps were shifted by 128, which is exact. Integers that a network
  takes or gives as int8, and those that operators without a rule make, pass through `DequantizeLinear(int8)
  -> QuantizeLinear(uint8)`, or back.
- **Weights**: operand 1 of Conv, Gemm and MatMul is `DequantizeLinear(w, scale, zero point)` if and only if
  w was stored in 8 bits and operand 0 is a DequantizeLinear of a feature map as above. w is an int8
  initializer; scale (float32) and zero point (int8) are both scalars, or both vectors along `axis`, which is
  then given, counted from the front, and the output channel: 0 for Conv, the last for MatMul and Gemm. Gemm
  has no attributes: alpha is in the scale, beta in the bias, and its weight lies as MatMul's, (K, N). The
  zero point is 0 wherever the values allow (uint8 weights lose 128; what then fits around zero is moved
  there).
- **Biases** and all other constants are float32 initializers (int32 biases dequantised).
- **Moves** (MaxPool, Reshape, Transpose, Flatten, Squeeze, Slice, Split, Gather, Concat of equal scales,
  ...) work on the uint8 tensor itself; a DequantizeLinear follows them, and a QuantizeLinear stands before
  them.
- Every DequantizeLinear of a feature map has one reader.
- **Pairs**: QuantizeLinear -> DequantizeLinear of one value with one reader, before an operator whose result
  is quantised again, serve the format only: nothing of them need be stored. They are left out where no value
  changes the integer behind by more than one; where they stay, they are part of what ONNX Runtime computes
  (`activations`). So hard-swish is `Conv -> [QuantizeLinear -> DequantizeLinear ->] HardSwish ->
  QuantizeLinear`, also where it was spelled HardSigmoid and Mul with a pair between; Relu and Clip before a
  QuantizeLinear whose range ends there are gone.

What is not so is left as it was and computed elementwise: scales a channel on feature maps (those before
depthwise convolutions become one, `channels`: a Mul by constants may then stand before a QuantizeLinear of
scale 1), scales that the network computes, 16-bit integers, the weights of ConvTranspose (float32 constants),
ConvInteger and MatMulInteger whose int32 sums are wanted.
"""

from __future__ import annotations

import onnx

from ofa_tvm.compiler.graph.folding import fold_constants
from ofa_tvm.compiler.graph.quantized.activations import simplify_activations
from ofa_tvm.compiler.graph.quantized.channels import move_channel_scales
from ofa_tvm.compiler.graph.quantized.checks import check_quantization
from ofa_tvm.compiler.graph.quantized.editing import DEQUANTIZE, QUANTIZE, Graph, is_a
from ofa_tvm.compiler.graph.quantized.moves import as_unsigned, move_pairs, separate_readers, spell_out
from ofa_tvm.compiler.graph.quantized.qoperators import without_qoperators
from ofa_tvm.compiler.graph.quantized.weights import move_constants, quantize_constants, settle_constants

__all__ = ["canonical", "check_quantization", "without_qoperators"]


def canonical(model: onnx.ModelProto) -> None:
    """Bring a QDQ model into the form that this package's description says.

    Parameters
    ----------
    model
        With constants folded, types inferred and scales in float32; changed in place. One without
        quantisation stays as it is.

    Raises
    ------
    UserError
        If the scales of a weight do not belong to its output channels.
    """
    if not any(is_a(node, QUANTIZE, DEQUANTIZE) for node in model.graph.node):
        return
    graph = Graph(model)
    quantize_constants(graph)
    move_constants(graph)
    move_channel_scales(graph)
    move_pairs(graph)
    as_unsigned(graph)
    move_pairs(graph)
    simplify_activations(graph)
    move_pairs(graph)
    quantize_constants(graph)  # such as were joined with feature maps
    settle_constants(graph)
    spell_out(graph)
    separate_readers(graph)
    graph.name_nodes()
    graph.write()
    fold_constants(model)

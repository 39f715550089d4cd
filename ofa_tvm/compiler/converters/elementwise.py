"""Operators on single elements."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
from tvm import relax, te, tirx

from ofa_tvm.compiler.constants import constant_of
from ofa_tvm.compiler.converters.node import Converter, Node, dtype_of
from ofa_tvm.compiler.converters.tensors import cast, scalar


def is_inf(node: Node) -> relax.Expr:
    """ONNX `IsInf` of either sign, of one, or of none."""
    x = node[0]
    up, down = node.attribute("detect_positive", 1), node.attribute("detect_negative", 1)
    if up and down:
        return node.op.isinf(x)
    if not up and not down:
        return constant_of(np.zeros(node.shape(), bool))
    return node.op.equal(x, scalar(np.inf if up else -np.inf, x))


def mod(node: Node) -> relax.Expr:
    """ONNX `Mod`: the remainder has the sign of the divisor, with `fmod` that of the dividend."""
    x, y = node[0], node[1]
    floating = dtype_of(x).startswith(("float", "bfloat"))
    if node.attribute("fmod", 0):
        return node.op.mod(x, y)
    if not floating:
        return node.op.floor_mod(x, y)
    zero = scalar(0, x)
    rest = node.op.mod(x, y)
    across = node.op.logical_xor(node.op.less(rest, zero), node.op.less(y, zero))
    moved = node.op.where(across, node.op.add(rest, y), rest)
    # A remainder of nothing has the divisor's sign, too.
    nothing = node.op.where(node.op.less(y, zero), scalar(-0.0, x), zero)
    return node.op.where(node.op.equal(rest, zero), nothing, moved)


def pow_(node: Node) -> relax.Expr:
    """ONNX `Pow`, whose operands may differ in type; the result has the first one's."""
    x, dtype = node[0], node.dtype()
    exponent = node.value(1)
    if exponent is not None and exponent.size == 1 and exponent.ndim <= len(node.shape()):
        times = float(exponent.reshape(-1)[0])
        if times in (1, 2, 3):
            return reduce(node.op.multiply, [x] * int(times))
    if dtype.startswith(("float", "bfloat")):
        return node.op.power(x, cast(node, node[1], dtype))
    wide = "float64"  # exact up to 2^53
    return cast(node, node.op.power(cast(node, x, wide), cast(node, node[1], wide)), dtype)


def folded(name: str) -> Converter:
    """A converter for an operator on any number of operands that are broadcast to each other."""

    def converted(node: Node) -> relax.Expr:
        return reduce(getattr(node.op, name), [node[i] for i in range(len(node.inputs))])

    return converted


def mean(node: Node) -> relax.Expr:
    """ONNX `Mean` of several operands."""
    total = folded("add")(node)
    return node.op.divide(total, scalar(len(node.inputs), node[0]))


def celu(node: Node) -> relax.Expr:
    """ONNX `Celu`: max(0, x) + min(0, a (exp(x / a) - 1))."""
    x, alpha = node[0], node.attribute("alpha", 1.0)
    zero = scalar(0, x)
    grown = node.op.exp(node.op.divide(x, scalar(alpha, x)))
    below = node.op.multiply(scalar(alpha, x), node.op.subtract(grown, scalar(1, x)))
    return node.op.add(node.op.maximum(x, zero), node.op.minimum(below, zero))


def swish(node: Node) -> relax.Expr:
    """ONNX `Swish`: x sigmoid(a x)."""
    x, alpha = node[0], node.attribute("alpha", 1.0)
    if alpha == 1:
        return node.op.nn.silu(x)
    return node.op.multiply(x, node.op.sigmoid(node.op.multiply(scalar(alpha, x), x)))


def mish(node: Node) -> relax.Expr:
    """ONNX `Mish`: x tanh(softplus(x)), which is x n / (n + 2) for n = e^x (e^x + 2).

    Beyond 20 the fraction is one in every format, and n would overflow.
    """
    x = node[0]
    e = node.op.exp(node.op.minimum(x, scalar(20, x) if dtype_of(x) != "float16" else scalar(5, x)))
    n = node.op.multiply(e, node.op.add(e, scalar(2, x)))
    return node.op.multiply(x, node.op.divide(n, node.op.add(n, scalar(2, x))))


def softplus(node: Node) -> relax.Expr:
    """ONNX `Softplus`: log(1 + e^x), without overflow, and exact where e^x is much less than one."""
    x = node[0]
    e = node.op.exp(node.op.negative(node.op.abs(x)))
    # log(1 + e) = e (1 - e (1/2 - e/3)) + ..., where 1 + e would lose the end of e
    third = node.op.subtract(scalar(0.5, x), node.op.multiply(e, scalar(1 / 3, x)))
    series = node.op.multiply(e, node.op.subtract(scalar(1, x), node.op.multiply(e, third)))
    exact = node.op.log(node.op.add(scalar(1, x), e))
    small = node.op.where(node.op.less(e, scalar(1e-2, x)), series, exact)
    return node.op.add(node.op.maximum(x, scalar(0, x)), small)


def thresholded_relu(node: Node) -> relax.Expr:
    """ONNX `ThresholdedRelu`: x above the threshold, else zero."""
    x = node[0]
    return node.op.where(node.op.greater(x, scalar(node.attribute("alpha", 1.0), x)), x, scalar(0, x))


def elu(node: Node) -> relax.Expr:
    """ONNX `Elu`: x above zero, else a (e^x - 1)."""
    return _elu(node, node.attribute("alpha", 1.0), 1.0)


def selu(node: Node) -> relax.Expr:
    """ONNX `Selu`: `Elu` times gamma."""
    alpha = node.attribute("alpha", 1.67326319217681884765625)
    return _elu(node, alpha, node.attribute("gamma", 1.05070102214813232421875))


def _elu(node: Node, alpha: float, gamma: float) -> relax.Expr:
    x = node[0]
    below = node.op.subtract(node.op.exp(node.op.minimum(x, scalar(0, x))), scalar(1, x))
    return node.op.where(
        node.op.greater(x, scalar(0, x)),
        x if gamma == 1 else node.op.multiply(x, scalar(gamma, x)),
        node.op.multiply(below, scalar(alpha * gamma, x)),
    )


def leaky_relu(node: Node) -> relax.Expr:
    """ONNX `LeakyRelu`; with a slope of zero as the product that it is, which keeps NaN."""
    x, alpha = node[0], node.attribute("alpha", 0.01)
    if alpha:
        return node.op.nn.leakyrelu(x, alpha)
    return node.op.where(node.op.less(x, scalar(0, x)), node.op.multiply(x, scalar(0, x)), x)


def sign(node: Node) -> relax.Expr:
    """ONNX `Sign`; that of NaN is NaN."""
    x = node[0]
    if not dtype_of(x).startswith(("float", "bfloat")):
        return node.op.sign(x)
    above = node.op.where(node.op.greater(x, scalar(0, x)), scalar(1, x), x)
    return node.op.where(node.op.less(x, scalar(0, x)), scalar(-1, x), above)


def prelu(node: Node) -> relax.Expr:
    """ONNX `PRelu`, its slopes broadcast to the input."""
    x = node[0]
    return node.op.where(node.op.less(x, scalar(0, x)), node.op.multiply(x, node[1]), x)


def bit_cast(node: Node) -> relax.Expr:
    """ONNX `BitCast`: the same bits as another type of the same size."""
    from onnx.helper import tensor_dtype_to_np_dtype

    to = str(tensor_dtype_to_np_dtype(node.attribute("to")))
    x = cast(node, node[0], "uint8") if node.dtype() == "bool" else node[0]
    if np.dtype(to).itemsize != np.dtype(dtype_of(x)).itemsize or to == "bool":
        raise node.refusal(f"{node.dtype()} has other bits than {to}")
    return x if dtype_of(x) == to else node.te(_reinterpreted, x, dtype=to)


def _reinterpreted(x: te.Tensor, dtype: str) -> te.Tensor:
    return te.compute(x.shape, lambda *i: tirx.reinterpret(dtype, x[i]), name="reinterpreted")


def dropout(node: Node) -> Sequence[relax.Expr]:
    """ONNX `Dropout` outside training: the input, and a mask that keeps everything."""
    training = node.constant(2, "training mode")
    ratio = node.constant(1, "ratio")
    if training is not None and training.any() and (ratio is None or ratio.any()):
        raise node.refusal("it is in training mode; export the network for inference")
    return [node[0], constant_of(np.ones(node.shape(), bool if node.opset >= 10 else node.dtype()))]

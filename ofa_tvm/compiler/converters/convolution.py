"""Convolutions with their padding settled; transposed ones as ordinary ones whose outputs are interleaved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import relax

from ofa_tvm.compiler.constants import constant_of
from ofa_tvm.compiler.converters.node import Node
from ofa_tvm.compiler.converters.tensors import reshape
from ofa_tvm.compiler.converters.windows import windows

_LAYOUTS = {1: ("NCW", "OIW"), 2: ("NCHW", "OIHW"), 3: ("NCDHW", "OIDHW")}


def conv(node: Node) -> relax.Expr:
    """ONNX `Conv`, all versions."""
    axes = windows(node, node.shape(1)[2:])
    return _with_bias(
        node,
        convolve(
            node,
            node[0],
            node[1],
            strides=[a.stride for a in axes],
            padding=[a.before for a in axes] + [a.after for a in axes],
            dilation=[a.dilation for a in axes],
            groups=int(node.attribute("group", 1)),
        ),
    )


def convolve(
    node: Node,
    data: relax.Expr,
    weight: relax.Expr,
    *,
    strides: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> relax.Expr:
    """Emit a convolution in ONNX's layout, over one to three axes."""
    if len(strides) not in _LAYOUTS:
        raise node.refusal("convolutions are over one, two or three axes")
    data_layout, kernel_layout = _LAYOUTS[len(strides)]
    return getattr(node.op.nn, f"conv{len(strides)}d")(
        data,
        weight,
        strides=strides,
        padding=padding,
        dilation=dilation,
        groups=groups,
        data_layout=data_layout,
        kernel_layout=kernel_layout,
    )


def _with_bias(node: Node, result: relax.Expr) -> relax.Expr:
    if not node.has(2):
        return result
    return node.op.add(result, reshape(node, node[2], [1, -1] + [1] * (len(node.shape()) - 2)))


@dataclass(frozen=True)
class _Upsampled:
    """One axis of a transposed convolution, whose outputs come in `stride` phases.

    Output o (counted from the first that any input reaches, `before` in front of the first kept one) is the
    sum over taps j of input[o // stride - j] x kernel[o % stride + stride x j]: for each phase an ordinary
    convolution of `taps` elements.
    """

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    outputs: int

    @property
    def taps(self) -> int:
        return -(-self.kernel // self.stride)

    @property
    def first(self) -> int:
        """The first group of `stride` outputs that is needed."""
        return self.before // self.stride

    @property
    def groups(self) -> int:
        return (self.before + self.outputs - 1) // self.stride + 1 - self.first

    @property
    def padding(self) -> tuple[int, int]:
        """Of the input, so that the ordinary convolution makes the needed groups and no others."""
        front = (self.taps - 1) * self.dilation - self.first
        return front, self.groups + (self.taps - 1) * self.dilation - self.size - front


def conv_transpose(node: Node) -> relax.Expr:
    """ONNX `ConvTranspose`, all versions, in one to three dimensions."""
    sizes, kernel_shape = node.shape()[2:], node.shape(1)[2:]
    rank = len(sizes)
    groups = int(node.attribute("group", 1))
    strides = [int(v) for v in node.attribute("strides") or [1] * rank]
    dilations = [int(v) for v in node.attribute("dilations") or [1] * rank]
    axes = []
    for i in range(rank):
        before, outputs = _placed(node, i, sizes[i], (kernel_shape[i] - 1) * dilations[i] + 1, strides[i])
        if strides[i] == 1:
            axes.append(_Upsampled(sizes[i], kernel_shape[i], 1, dilations[i], before, outputs))
        else:  # a dilated kernel is a longer one with zeros in between
            reach = (kernel_shape[i] - 1) * dilations[i] + 1
            axes.append(_Upsampled(sizes[i], reach, strides[i], 1, before, outputs))
    return _with_bias(node, _interleaved(node, axes, _phases(node, axes, dilations, groups), groups))


def _placed(node: Node, i: int, size: int, reach: int, stride: int) -> tuple[int, int]:
    """(outputs cut off in front, outputs kept) along axis i."""
    rank = len(node.shape()) - 2
    extra = (node.attribute("output_padding") or [0] * rank)[i]
    automatic = node.attribute("auto_pad", "NOTSET")
    whole = stride * (size - 1) + extra + reach
    wanted = node.attribute("output_shape")
    if wanted is not None:
        outputs = wanted[len(wanted) - rank + i]  # some exporters give batch and channels too
    elif automatic in ("SAME_UPPER", "SAME_LOWER"):
        outputs = size * stride
        if whole < outputs:
            raise node.refusal(
                f"what {automatic} means for stride {stride} over a kernel of {reach} is not agreed upon; "
                "give pads or output_shape instead of auto_pad"
            )
    else:
        pads = (node.attribute("pads") or [0] * (2 * rank)) if automatic == "NOTSET" else [0] * (2 * rank)
        outputs = whole - pads[i] - pads[rank + i]
        if outputs < 1:
            raise node.refusal(f"its padding leaves nothing of axis {i + 2}")
        return pads[i], outputs
    total = max(0, whole - outputs)
    return (total // 2 if automatic == "SAME_UPPER" else total - total // 2), outputs


def _phases(node: Node, axes: list[_Upsampled], dilations: list[int], groups: int) -> relax.Expr:
    """Weights (inputs, outputs / groups, kernel) as those of an ordinary convolution with a channel a phase.

    They are (outputs x phases, inputs / groups, taps), the phases of each output side by side.
    """
    weight = node.value(1)
    if weight is None:
        raise node.refusal("its weights must be constant; here the network computes them")
    inputs, outputs = weight.shape[:2]
    rank = len(axes)
    spread = np.zeros((inputs, outputs, *(a.taps * a.stride for a in axes)), weight.dtype)
    steps = tuple(slice(0, a.kernel, dilations[i] if a.stride > 1 else 1) for i, a in enumerate(axes))
    spread[(slice(None), slice(None), *steps)] = weight
    split = spread.reshape(groups, inputs // groups, outputs, *(v for a in axes for v in (a.taps, a.stride)))
    taps, phases = [3 + 2 * i for i in range(rank)], [4 + 2 * i for i in range(rank)]
    ordered = np.flip(split, tuple(taps)).transpose(0, 2, *phases, 1, *taps)
    shape = (groups * outputs * int(np.prod([a.stride for a in axes])), inputs // groups)
    return constant_of(np.ascontiguousarray(ordered).reshape(*shape, *(a.taps for a in axes)))


def _interleaved(node: Node, axes: list[_Upsampled], weight: relax.Expr, groups: int) -> relax.Expr:
    rank = len(axes)
    data = node[0]
    front, back = ([a.padding[side] for a in axes] for side in (0, 1))
    if min(front + back) < 0:  # inputs that no kept output sees
        ends = [node.shape()[2 + i] + min(0, back[i]) for i in range(rank)]
        data = node.op.strided_slice(data, list(range(2, 2 + rank)), [max(0, -v) for v in front], ends)
        front, back = ([max(0, v) for v in side] for side in (front, back))
    phases = convolve(
        node,
        data,
        weight,
        strides=[1] * rank,
        padding=front + back,
        dilation=[a.dilation for a in axes],
        groups=groups,
    )
    batch = node.shape()[0]
    channels = node.shape(1)[1] * groups
    if any(a.stride > 1 for a in axes):
        split = reshape(node, phases, [batch, channels, *(a.stride for a in axes), *(a.groups for a in axes)])
        order = [0, 1] + [axis for i in range(rank) for axis in (2 + rank + i, 2 + i)]
        whole = node.op.permute_dims(split, order)
        phases = reshape(node, whole, [batch, channels, *(a.groups * a.stride for a in axes)])
    starts = [a.before - a.first * a.stride for a in axes]
    ends = [start + a.outputs for start, a in zip(starts, axes, strict=True)]
    if all(
        start == 0 and end == a.groups * a.stride for start, end, a in zip(starts, ends, axes, strict=True)
    ):
        return phases
    return node.op.strided_slice(phases, list(range(2, 2 + rank)), starts, ends)

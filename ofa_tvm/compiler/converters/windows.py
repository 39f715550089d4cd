"""Windows that slide over spatial axes: what `auto_pad`, `ceil_mode` and missing attributes come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ofa_tvm.compiler.converters.node import Node


@dataclass(frozen=True)
class Window:
    """One spatial axis under a sliding window.

    Parameters
    ----------
    size
        Length of the input along the axis.
    kernel, stride, dilation
        Of the window.
    before, after
        Padding that the model asks for.
    outputs
        How many windows there are.
    """

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int
    outputs: int

    @property
    def reach(self) -> int:
        """From a window's first to its last element."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def missing(self) -> int:
        """By how much the last window lies beyond the padded input (`ceil_mode`)."""
        needed = (self.outputs - 1) * self.stride + self.reach
        return max(0, needed - (self.before + self.size + self.after))


def windows(node: Node, kernel: Sequence[int]) -> list[Window]:
    """The windows of a pooling or a convolution on its first operand, axis by axis.

    Raises
    ------
    UserError
        If an axis is shorter than its window, or where ONNX Runtime and ONNX's reference differ.
    """
    pooling = node.kind.endswith("Pool")
    sizes = node.shape()[2:]
    rank = len(sizes)
    strides = node.attribute("strides") or [1] * rank
    dilations = node.attribute("dilations") or [1] * rank
    pads = node.attribute("pads") or [0] * (2 * rank)
    automatic = node.attribute("auto_pad", "NOTSET")
    result = []
    for i, size in enumerate(sizes):
        reach = (kernel[i] - 1) * dilations[i] + 1
        before, after = pads[i], pads[rank + i]
        if automatic in ("SAME_UPPER", "SAME_LOWER"):
            outputs = -(-size // strides[i])
            total = (outputs - 1) * strides[i] + reach - size
            if pooling and (total < 0 or reach > kernel[i]):
                raise node.refusal(
                    f"what {automatic} means for a window of {kernel[i]} with stride {strides[i]} and "
                    f"dilation {dilations[i]} over {size} is not agreed upon; give pads instead of auto_pad"
                )
            total = max(0, total)
            before = total // 2 if automatic == "SAME_UPPER" else total - total // 2
            after = total - before
        else:
            if automatic == "VALID":
                before = after = 0
            room = size + before + after - reach
            outputs = room // strides[i] + 1
            if node.attribute("ceil_mode", 0) and room % strides[i]:
                # A window more, unless it would see nothing but the padding behind.
                outputs += int(outputs * strides[i] < size + before)
        if outputs < 1:
            raise node.refusal(f"its window of {reach} is longer than the padded axis of {size}")
        result.append(Window(size, kernel[i], strides[i], dilations[i], before, after, outputs))
    return result

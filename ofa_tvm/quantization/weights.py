"""Ranges of weights whose integers have short sums: what processors without VNNI multiply faster.

uint8 times two neighbouring int8 weights of an output channel fit 16 bits, added, where the two are at most
128 together (`compiler/dots.py:has_short_sums`). So a channel's range is that of its weights and of the sums
of neighbours along the input channels; its integers are a little coarser.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

Weights = Literal["short", "full"]
"""Whether a channel's range is that of its neighbours' sums, or of its weights alone."""

WEIGHTS: tuple[Weights, ...] = get_args(Weights)


def short_ranges(model: onnx.ModelProto) -> dict[str, list[dict[str, Any]]]:
    """Ends of each channel's range, by the weight's name, as ONNX Runtime's quantiser takes them.

    Parameters
    ----------
    model
        In float32. Weights of transposed convolutions, which are added otherwise, are left out.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found: dict[str, list[dict[str, Any]]] = {}
    for node in model.graph.node:
        tensor = constants.get(node.input[1]) if len(node.input) > 1 else None
        axis = None if tensor is None else _channel_axis(node, len(tensor.dims))
        if tensor is None or axis is None:
            continue
        largest = largest_sums(np.moveaxis(numpy_helper.to_array(tensor), axis, 0))
        found[tensor.name] = [{"axis": axis, "rmin": -value, "rmax": value} for value in largest]
    return found


def largest_sums(weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Of each channel's weights and sums of two neighbours, (c_out,), of a weight (c_out, c_in, ...)."""
    pairs, axes = weight.shape[1] // 2, tuple(range(1, weight.ndim))
    sums = weight[:, : 2 * pairs : 2] + weight[:, 1 : 2 * pairs : 2]
    alone: npt.NDArray[np.float32] = np.abs(weight).max(axes, initial=0)
    return np.maximum(alone, np.abs(sums).max(axes, initial=0))


def _channel_axis(node: onnx.NodeProto, rank: int) -> int | None:
    """Where a layer's weight has its output channels; None for layers that are none of ours."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm" and rank == 2:
        transposed = next((a.i for a in node.attribute if a.name == "transB"), 0)
        return 0 if transposed else 1
    return 1 if node.op_type == "MatMul" and rank == 2 else None

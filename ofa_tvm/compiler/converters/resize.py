"""`Resize` and `Upsample` as products with small constant matrices, one for each axis.

With constant sizes, resizing along an axis is a linear map from the input's positions to the output's. Its
matrix is computed here, in numpy, as ONNX defines it; the network then gathers the few inputs that each
output is made of and adds them up with their weights. This is exact for every coordinate transformation,
where a general kernel would compute coordinates at run time.

Coordinates are in float32, as in ONNX Runtime, so that both take the same neighbour where two are equally
near.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm import relax

from ofa_tvm.compiler.constants import constant_of
from ofa_tvm.compiler.converters.node import Node
from ofa_tvm.compiler.converters.tensors import cast, gather, matrix_product, scalar, weighted

_TAPS = 4  # as many are gathered; wider filters (antialiasing) are a matrix product


@dataclass(frozen=True)
class Axis:
    """How one axis is resized.

    Parameters
    ----------
    size, resized
        Its length before and after.
    scale
        Their ratio, as the model gives it (`resized` is rounded).
    roi
        Start and end of what is cropped, as fractions (`tf_crop_and_resize` only).
    """

    size: int
    resized: int
    scale: np.float32
    roi: tuple[np.float32, np.float32] = (np.float32(0), np.float32(1))

    @property
    def same(self) -> bool:
        return self.size == self.resized and self.scale == 1 and self.roi[0] == 0 and self.roi[1] == 1


def resize(node: Node) -> relax.Expr:
    """ONNX `Resize`, versions 10 to 19."""
    transformation = node.attribute("coordinate_transformation_mode", "half_pixel")
    mode = node.attribute("mode", "nearest")
    if node.opset < 11:
        sizes, scales, transformation = None, node.constant(1, "scales"), "asymmetric"
        roi = None
    else:
        roi, scales = node.constant(1, "region of interest"), node.constant(2, "scales")
        sizes = node.integers(3, "sizes")
    shape = node.shape()
    chosen = [node.normal_axis(int(a), len(shape)) for a in node.attribute("axes", range(len(shape)))]
    axes = {axis: Axis(shape[axis], shape[axis], np.float32(1)) for axis in range(len(shape))}
    if scales is not None and scales.size:
        for axis, scale in zip(chosen, scales.astype(np.float32), strict=True):
            axes[axis] = Axis(shape[axis], int(scale * np.float32(shape[axis])), scale)
    elif sizes:
        axes.update(_to_sizes(node, shape, chosen, sizes))
    else:
        raise node.refusal("it has neither scales nor sizes")
    if transformation == "tf_crop_and_resize" and roi is not None and roi.size:
        starts, ends = np.split(roi.astype(np.float32), 2)
        for axis, start, end in zip(chosen, starts, ends, strict=True):
            axes[axis] = Axis(axes[axis].size, axes[axis].resized, axes[axis].scale, (start, end))
    if any(axis.resized < 1 for axis in axes.values()):
        raise node.refusal(f"it makes an empty tensor of {tuple(a.resized for a in axes.values())}")
    return _resized(node, list(axes.values()), mode, transformation)


def upsample(node: Node) -> relax.Expr:
    """ONNX `Upsample`, versions 7 and 9: coordinates from the corner (asymmetric), nearest by floor."""
    scales = node.constant(1, "scales") if node.has(1) else node.attribute("scales")
    if scales is None:
        raise node.refusal("it has no scales")
    axes = [
        Axis(size, int(np.float32(scale) * np.float32(size)), np.float32(scale))
        for size, scale in zip(node.shape(), scales, strict=True)
    ]
    return _resized(node, axes, node.attribute("mode", "nearest"), "asymmetric")


def _to_sizes(node: Node, shape: tuple[int, ...], chosen: list[int], sizes: list[int]) -> dict[int, Axis]:
    policy = node.attribute("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return {
            axis: Axis(shape[axis], size, np.float32(size) / np.float32(shape[axis]))
            for axis, size in zip(chosen, sizes, strict=True)
        }
    ratios = [np.float32(size) / np.float32(shape[axis]) for axis, size in zip(chosen, sizes, strict=True)]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return {axis: Axis(shape[axis], int(scale * shape[axis] + 0.5), scale) for axis in chosen}


def _resized(node: Node, axes: list[Axis], mode: str, transformation: str) -> relax.Expr:
    result, dtype = node[0], node.dtype()
    if all(axis.same for axis in axes):
        return result
    if mode == "nearest":
        outside = []
        for number, axis in enumerate(axes):
            if not axis.same:
                positions = coordinates(axis, transformation)
                outside.append((number, _outside(axis, positions, transformation)))
                result = gather(node, result, _nearest(node, axis, positions), number)
        return _extrapolated(node, result, outside)
    if mode not in ("linear", "cubic"):
        raise node.refusal(f"the mode {mode!r} is unknown")
    if dtype not in ("float32", "float16", "float64", "bfloat16"):
        raise node.refusal(
            f"{mode} interpolation is defined for floats, not {dtype}; cast its input to float32"
        )
    filter_of = _filter(node, mode)
    wide = "float64" if dtype == "float64" else "float32"
    result = cast(node, result, wide)
    outside = []
    for number, axis in enumerate(axes):
        if axis.same:
            continue
        positions = coordinates(axis, transformation)
        outside.append((number, _outside(axis, positions, transformation)))
        taps, weights = filter_of(axis, positions)
        weights = weights.astype(wide)
        if taps.shape[1] <= _TAPS:
            result = weighted(node, result, taps, weights, number)
        else:
            matrix = np.zeros((axis.size, axis.resized), wide)
            np.add.at(matrix, (taps, np.arange(axis.resized)[:, None]), weights)
            result = matrix_product(node, result, matrix, number)
    return cast(node, _extrapolated(node, result, outside), dtype)


def coordinates(axis: Axis, transformation: str) -> np.ndarray:
    """Position in the input of each output, float32, as ONNX Runtime computes it.

    For `align_corners` with scales, the output's length is what ONNX says: input x scale, not rounded.
    """
    x = np.arange(axis.resized, dtype=np.float32)
    size, resized, one, half = (np.float32(v) for v in (axis.size, axis.resized, 1, 0.5))
    length = axis.scale * size
    if abs(length - np.round(length)) < 1e-3:
        length = resized  # sizes given, or scales that fit
    if transformation == "asymmetric":
        return x / axis.scale
    if transformation == "tf_half_pixel_for_nn":
        return (x + half) / axis.scale
    if transformation == "align_corners":
        return x * 0 if axis.resized == 1 or length <= 1 else x * (size - one) / (length - one)
    if transformation == "tf_crop_and_resize":
        start, end = axis.roi
        if axis.resized == 1:
            return x * 0 + half * (start + end) * (size - one)
        return start * (size - one) + x * (end - start) * (size - one) / (resized - one)
    if transformation == "pytorch_half_pixel" and axis.resized == 1:
        return x * 0
    position = (x + half) / axis.scale - half
    if transformation == "half_pixel_symmetric":
        position = size / 2 * (one - resized / (axis.scale * size)) + position
    return position


def _outside(axis: Axis, positions: np.ndarray, transformation: str) -> np.ndarray:
    """Which outputs of `tf_crop_and_resize` lie outside the input."""
    if transformation != "tf_crop_and_resize":
        return np.zeros(len(positions), bool)
    return (positions < 0) | (positions > axis.size - 1)


def _extrapolated(node: Node, result: relax.Expr, outside: list[tuple[int, np.ndarray]]) -> relax.Expr:
    """`result` with the extrapolation value where any axis lies outside the input."""
    rank = len(node.shape())
    masks = [
        mask.reshape([-1 if i == number else 1 for i in range(rank)])
        for number, mask in outside
        if mask.any()
    ]
    if not masks:
        return result
    value = scalar(node.attribute("extrapolation_value", 0.0), result)
    for mask in masks:
        result = node.op.where(constant_of(mask), value, result)
    return result


def _nearest(node: Node, axis: Axis, positions: np.ndarray) -> np.ndarray:
    default = "round_prefer_floor" if node.kind == "Resize" and node.opset >= 11 else "simple"
    mode = node.attribute("nearest_mode", default)
    floor, ceil = np.floor(positions), np.ceil(positions)
    chosen = {
        "simple": ceil if axis.scale < 1 else floor,  # before ONNX said which
        "floor": floor,
        "ceil": ceil,
        "round_prefer_floor": np.ceil(positions - np.float32(0.5)),
        "round_prefer_ceil": np.floor(positions + np.float32(0.5)),
    }.get(mode)
    if chosen is None:
        raise node.refusal(f"the nearest_mode {mode!r} is unknown")
    return np.clip(chosen.astype(np.int64), 0, axis.size - 1)


Taps = tuple[np.ndarray, np.ndarray]  # (outputs, taps): positions in the input, and their weights


def _filter(node: Node, mode: str) -> Callable[[Axis, np.ndarray], Taps]:
    """The interpolation filter, as a function of the axis and the outputs' positions in the input."""
    a = float(node.attribute("cubic_coeff_a", -0.75))
    antialias = bool(node.attribute("antialias", 0))
    exclude = bool(node.attribute("exclude_outside", 0))

    def linear(t: np.ndarray) -> np.ndarray:
        return np.clip(1 - np.abs(t), 0, None)

    def cubic(t: np.ndarray) -> np.ndarray:
        t = np.abs(t)
        near = ((a + 2) * t - (a + 3)) * t * t + 1
        far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
        return np.where(t <= 1, near, np.where(t < 2, far, 0))

    kernel, radius = (linear, 1) if mode == "linear" else (cubic, 2)

    def taps(axis: Axis, positions: np.ndarray) -> Taps:
        positions = positions.astype(np.float64)
        shrink = min(1.0, float(axis.scale)) if antialias else 1.0
        reach = int(np.ceil(radius / shrink))
        indices = np.floor(positions)[:, None].astype(np.int64) + np.arange(1 - reach, reach + 1)
        weights = kernel((indices - positions[:, None]) * shrink)
        outside = (indices < 0) | (indices >= axis.size)
        if exclude:
            weights = np.where(outside, 0, weights)
        if exclude or antialias:
            weights = weights / weights.sum(axis=1, keepdims=True)
        return np.clip(indices, 0, axis.size - 1), weights

    return taps

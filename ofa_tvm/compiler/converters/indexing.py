"""Operators that move elements: parts, gathering, padding, sorting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import relax, topi

from ofa_tvm.compiler.constants import constant_of
from ofa_tvm.compiler.converters.node import Node, dtype_of
from ofa_tvm.compiler.converters.tensors import cast, gather, reshape, scalar


def slice_(node: Node) -> relax.Expr:
    """ONNX `Slice`, all versions, with steps of either sign."""
    shape = node.shape()
    if node.opset < 10:
        starts, ends = node.attribute("starts"), node.attribute("ends")
        axes, steps = node.attribute("axes"), None
    else:
        starts, ends = node.integers(1, "starts"), node.integers(2, "ends")
        axes, steps = node.integers(3, "axes"), node.integers(4, "steps")
    if starts is None or ends is None:
        raise node.refusal("it has neither starts nor ends")
    axes = list(range(len(starts))) if axes is None else [node.normal_axis(a, len(shape)) for a in axes]
    steps = steps or [1] * len(axes)
    taken = {
        axis: range(*slice(start, end, step).indices(shape[axis]))
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
    }
    known = node.value(0)
    if known is not None:
        for axis, positions in taken.items():
            known = np.take(known, np.array(positions, np.int64), axis)
        return constant_of(known)
    result = node[0]
    forward = {axis: r for axis, r in taken.items() if r.step > 0 and len(r) < shape[axis]}
    if forward:
        result = node.op.strided_slice(
            result,
            list(forward),
            [r.start for r in forward.values()],
            [max(r.start, r.stop) for r in forward.values()],
            [r.step for r in forward.values()],
        )
    for axis, positions in taken.items():
        if positions.step < 0:
            result = gather(node, result, np.array(positions, np.int64), axis)
    return result


def split(node: Node) -> Sequence[relax.Expr]:
    """ONNX `Split`, all versions: into given lengths, or parts whose last may be shorter."""
    axis, count = node.axis(0), len(node.outputs)
    length = node.shape()[axis]
    lengths = node.integers(1, "split") if node.opset >= 13 else node.attribute("split")
    if not lengths:
        part = -(-length // count)
        lengths = [max(0, min(part, length - part * i)) for i in range(count)]
    if sum(lengths) != length or len(lengths) != count:
        raise node.refusal(f"{list(lengths)} does not split {length} into {count}")
    if count == 1:
        return [node[0]]
    parts = node.op.split(node[0], [int(v) for v in np.cumsum(lengths)[:-1]], axis)
    return [node.builder.emit(relax.TupleGetItem(parts, i)) for i in range(count)]


def gather_(node: Node) -> relax.Expr:
    """ONNX `Gather`, with indices counted from either end."""
    axis = node.axis(0)
    length = node.shape()[axis]
    indices = node.value(1)
    if indices is None:
        inside, outside = _bounded(node, node[1], length)
        behind = len(node.shape()) - 1 - axis
        return _marked(node, node.op.take(node[0], inside, axis), outside, behind)
    if ((indices < -length) | (indices >= length)).any():
        raise node.refusal(f"an index lies outside its axis of {length}")
    indices = np.where(indices < 0, indices + length, indices)
    known = node.value(0)
    if known is not None:
        return constant_of(np.take(known, indices, axis))
    return gather(node, node[0], indices, axis)


def _from_front(node: Node, indices: relax.Expr, length: int | np.ndarray) -> relax.Expr:
    negative = node.op.less(indices, scalar(0, indices))
    return node.op.where(negative, node.op.add(indices, _like(length, indices)), indices)


def _bounded(node: Node, indices: relax.Expr, length: int | np.ndarray) -> tuple[relax.Expr, relax.Expr]:
    """Computed indices counted from the front and within their axis, and which of them were not.

    ONNX leaves an index outside undefined and ONNX Runtime stops; a kernel must neither read nor write there.
    """
    front = _from_front(node, indices, length)
    last = np.maximum(np.asarray(length) - 1, 0)
    inside = node.op.maximum(node.op.minimum(front, _like(last, indices)), scalar(0, indices))
    return inside, node.op.not_equal(front, inside)


def _marked(node: Node, elements: relax.Expr, outside: relax.Expr, behind: int) -> relax.Expr:
    """Elements with NaN, where their type has it, for each index outside; `behind` more axes follow."""
    if "float" not in dtype_of(elements):
        return elements
    outside = reshape(node, outside, [*node.shape_of(outside), *[1] * behind])
    return node.op.where(outside, scalar(float("nan"), elements), elements)


def _like(value: np.ndarray | int, indices: relax.Expr) -> relax.Expr:
    return constant_of(np.asarray(value, dtype_of(indices)))


def gather_elements(node: Node) -> relax.Expr:
    """ONNX `GatherElements`."""
    axis = node.axis(0)
    inside, outside = _bounded(node, node[1], node.shape()[axis])
    return _marked(node, node.op.gather_elements(node[0], inside, axis), outside, 0)


def scatter_elements(node: Node) -> relax.Expr:
    """ONNX `ScatterElements` and, as it was called before version 11, `Scatter`."""
    axis = node.axis(0)
    inside, outside = _bounded(node, node[1], node.shape()[axis])
    updates = _marked(node, node[2], outside, 0)
    return node.op.scatter_elements(node[0], inside, updates, axis, _reduction(node))


def gather_nd(node: Node) -> relax.Expr:
    """ONNX `GatherND`."""
    batch = node.attribute("batch_dims", 0)
    depth = node.shape(1)[-1]
    inside, outside = _bounded_points(node, node.shape()[batch : batch + depth])
    behind = len(node.shape()) - batch - depth
    return _marked(node, node.op.gather_nd(node[0], inside, batch), outside, behind)


def scatter_nd(node: Node) -> relax.Expr:
    """ONNX `ScatterND`."""
    depth = node.shape(1)[-1]
    inside, outside = _bounded_points(node, node.shape()[:depth])
    updates = _marked(node, node[2], outside, len(node.shape()) - depth)
    return node.op.scatter_nd(node[0], inside, updates, _reduction(node))


def _bounded_points(node: Node, lengths: Sequence[int]) -> tuple[relax.Expr, relax.Expr]:
    """`_bounded` for points, whose last axis has an index for each of `lengths`."""
    inside, outside = _bounded(node, node[1], np.array(lengths))
    anywhere = node.op.max(cast(node, outside, "int32"), axis=-1)
    return inside, node.op.greater(anywhere, scalar(0, anywhere))


def _reduction(node: Node) -> str:
    """What becomes of the element that an update meets, as TVM calls it."""
    name = node.attribute("reduction", "none")
    if name not in ("none", "add", "mul", "min", "max"):
        raise node.refusal(f"the reduction {name!r} is unknown")
    return "update" if name == "none" else str(name)


def pad(node: Node) -> relax.Expr:
    """ONNX `Pad`, all versions and modes; negative padding cuts off."""
    shape, mode = node.shape(), node.attribute("mode", "constant")
    if node.opset < 11:
        pads, value = list(node.attribute("pads")), node.attribute("value", 0.0)
        axes = list(range(len(shape)))
    else:
        given, filling = node.integers(1, "pads"), node.constant(2, "value")
        pads = given or []
        value = 0 if filling is None else filling.reshape(-1)[0].item()
        chosen = node.integers(3, "axes")
        axes = (
            list(range(len(shape))) if chosen is None else [node.normal_axis(a, len(shape)) for a in chosen]
        )
    before, after = [0] * len(shape), [0] * len(shape)
    for axis, front, back in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        before[axis], after[axis] = front, back
    if mode != "constant":
        return _mirrored(node, before, after, mode)
    result = _cut(node, before, after)
    before, after = ([max(0, v) for v in side] for side in (before, after))
    if not any(before) and not any(after):
        return result
    if dtype_of(result) == "bool":
        padded = node.te(
            topi.nn.pad, cast(node, result, "uint8"), pad_before=before, pad_after=after, pad_value=int(value)
        )
        return cast(node, padded, "bool")
    return node.te(topi.nn.pad, result, pad_before=before, pad_after=after, pad_value=value)


def _cut(node: Node, before: list[int], after: list[int]) -> relax.Expr:
    cut = [i for i in range(len(before)) if min(before[i], after[i]) < 0]
    if not cut:
        return node[0]
    starts = [max(0, -before[i]) for i in cut]
    ends = [node.shape()[i] - max(0, -after[i]) for i in cut]
    return node.op.strided_slice(node[0], cut, starts, ends)


def _mirrored(node: Node, before: list[int], after: list[int], mode: str) -> relax.Expr:
    """Padding by what lies inside: a gather along each axis."""
    if mode not in ("reflect", "edge", "wrap"):
        raise node.refusal(f"the mode {mode!r} is unknown")
    result = _cut(node, before, after)
    for axis, length in enumerate(node.shape_of(result)):
        width = (max(0, before[axis]), max(0, after[axis]))
        if any(width):
            positions = np.pad(np.arange(length), width, mode=mode)  # type: ignore[call-overload]
            result = gather(node, result, positions, axis)
    return result


def top_k(node: Node) -> Sequence[relax.Expr]:
    """ONNX `TopK`, all versions."""
    k = node.integers(1, "number K") if node.opset >= 10 else [int(node.attribute("k"))]
    axis = node.axis(-1)
    length = node.shape()[axis]
    if k is None or len(k) != 1 or not 0 <= k[0] <= length:
        raise node.refusal(f"it asks for the {k} largest of {length}")
    if node.dtype() in ("uint64", "uint32", "uint16"):
        raise node.refusal(f"{node.dtype()} cannot be sorted; cast its input to int64")
    both = node.op.topk(node[0], k[0], axis, "both", bool(node.attribute("largest", 1)), "int64")
    return [node.builder.emit(relax.TupleGetItem(both, i)) for i in range(2)]


def one_hot(node: Node) -> relax.Expr:
    """ONNX `OneHot`: indices outside the depth, counted from either end, give no hot value."""
    depth = node.integers(1, "depth")
    values = node.constant(2, "values")
    if depth is None or values is None:
        raise node.refusal("it has neither depth nor values")
    shape = node.shape()
    axis = node.normal_axis(int(node.attribute("axis", -1)), len(shape) + 1)
    indices = _from_front(node, cast(node, node[0], "int64"), depth[0])
    indices = reshape(node, indices, [*shape[:axis], 1, *shape[axis:]])
    levels = np.arange(depth[0]).reshape([-1] + [1] * (len(shape) - axis))
    hot = node.op.equal(indices, constant_of(levels))
    off, on = (constant_of(v) for v in np.split(values, 2))
    return node.op.where(hot, on, off)


def compress(node: Node) -> relax.Expr:
    """ONNX `Compress` by a constant condition."""
    condition = node.constant(1, "condition (else its output has no fixed shape)")
    if condition is None:
        raise node.refusal("it has no condition")
    if "axis" in node.attributes:
        return gather(node, node[0], np.flatnonzero(condition), node.axis(0))
    return gather(node, reshape(node, node[0], (-1,)), np.flatnonzero(condition), 0)


def reverse_sequence(node: Node) -> relax.Expr:
    """ONNX `ReverseSequence` of constant lengths."""
    lengths = node.integers(1, "sequence lengths")
    shape = node.shape()
    time, batch = node.attribute("time_axis", 0), node.attribute("batch_axis", 1)
    if lengths is None or {time, batch} != {0, 1}:
        raise node.refusal("its time and batch axes have to be the first two")
    positions = np.arange(shape[0] * shape[1]).reshape(shape[:2])
    by_time = positions if time == 0 else positions.T
    turned = by_time.copy()
    for column, length in enumerate(lengths):
        turned[:length, column] = by_time[:length, column][::-1]
    order = (turned if time == 0 else turned.T).reshape(-1)
    rows = gather(node, reshape(node, node[0], (shape[0] * shape[1], *shape[2:])), order, 0)
    return reshape(node, rows, shape)


def center_crop_pad(node: Node) -> relax.Expr:
    """ONNX `CenterCropPad`."""
    wanted, shape = node.integers(1, "shape"), node.shape()
    chosen = node.attribute("axes")
    axes = list(range(len(shape))) if chosen is None else [node.normal_axis(a, len(shape)) for a in chosen]
    if wanted is None or len(wanted) != len(axes):
        raise node.refusal("its shape has not one length for each axis")
    before, after = [0] * len(shape), [0] * len(shape)
    for axis, length in zip(axes, wanted, strict=True):
        more = length - shape[axis]
        before[axis] = more // 2 if more >= 0 else -(-more // 2)
        after[axis] = more - before[axis]
    result = _cut(node, before, after)
    before, after = ([max(0, v) for v in side] for side in (before, after))
    if not any(before) and not any(after):
        return result
    return node.te(topi.nn.pad, result, pad_before=before, pad_after=after)


def space_to_depth(node: Node) -> relax.Expr:
    """ONNX `SpaceToDepth`; from version 26 on also in the order that undoes `DepthToSpace`'s CRD."""
    b, c, h, w = node.shape()
    size = int(node.attribute("blocksize"))
    split_ = reshape(node, node[0], (b, c, h // size, size, w // size, size))
    mode = node.attribute("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise node.refusal(f"the mode {mode!r} is unknown")
    order = [0, 3, 5, 1, 2, 4] if mode == "DCR" else [0, 1, 3, 5, 2, 4]
    return reshape(node, node.op.permute_dims(split_, order), (b, c * size * size, h // size, w // size))

"""Feature maps (n, h, w, c) with a constant around them, as kernels read them, and the sizes that follow."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te, tirx


def padded(data: te.Tensor, channels: int, padding: Sequence[int], start: int = 0) -> te.Tensor:
    """So many channels of a map (n, h, w, c) from `start` on, with zeros around it.

    It is read in place, not copied: TVM is told that most positions lie inside, and makes code of its own for
    the lines and tiles that do.
    """
    n, height, width, _ = (int(v) for v in data.shape)
    top, left, bottom, right = padding

    def value(b: tirx.Var, y: tirx.Var, x: tirx.Var, c: tirx.Var) -> tirx.Expr:
        inside = tirx.all(y >= top, y < top + height, x >= left, x < left + width)
        element = data[b, y - top, x - left, start + c if start else c]
        return tirx.if_then_else(tirx.likely(inside), element, tirx.const(0, data.dtype))

    return te.compute((n, height + top + bottom, width + left + right, channels), value, name="padded")


def padded_by_cases(
    data: te.Tensor, padding: Sequence[int], outside: tirx.Expr, *, by_sides: bool = False
) -> te.Tensor:
    """A map (n, h, w, c) with a constant around it, read in place as `padded`.

    Lines are asked for apart from columns: so TVM can take a loop over lines apart where several tiles lie in
    a line, the first and last of which reach beyond it. `by_sides` each end of them is asked for alone: a
    tile's own loop may then be one that the first and the last of it both reach beyond.
    """
    n, height, width, channels = (int(v) for v in data.shape)
    top, left, bottom, right = padding

    def value(b: tirx.Var, y: tirx.Var, x: tirx.Var, c: tirx.Var) -> tirx.Expr:
        line, column = (y >= top, y < top + height), (x >= left, x < left + width)
        if by_sides:
            inside = tirx.all(*map(tirx.likely, (*line, *column)))
            return tirx.if_then_else(inside, data[b, y - top, x - left, c], outside)
        line, column = tirx.likely(tirx.all(*line)), tirx.likely(tirx.all(*column))
        return tirx.if_then_else(tirx.all(line, column), data[b, y - top, x - left, c], outside)

    return te.compute((n, height + top + bottom, width + left + right, channels), value, name="padded")


def output_size(size: int, taps: int, stride: int, dilation: int) -> int:
    """Outputs along an axis whose padding is part of its size."""
    return (size - dilation * (taps - 1) - 1) // stride + 1


def output_sizes(
    sizes: tuple[int, int], taps: tuple[int, int], strides: Sequence[int], dilation: Sequence[int]
) -> tuple[int, int]:
    """The same of lines and of columns."""
    lines, columns = map(output_size, sizes, taps, strides, dilation)
    return lines, columns

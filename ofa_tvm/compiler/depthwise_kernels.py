"""Depthwise convolutions by dots of lines: four lines of bytes, or two of bfloat16, are one word a channel.

A channel is alone here, so that what a dot adds are taps of one column; the last dot's lines are filled up
with zeros. Four lines of bytes serve several lines of the result, each with weights of its own, some of them
zero. Two of bfloat16 do not: infinity times zero is NaN, and it is no faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from tvm import relax, te, tirx
from tvm.ir import Expr

from ofa_tvm.compiler.anatomy import LINES
from ofa_tvm.compiler.constants import constant_of
from ofa_tvm.compiler.dataflow import static_shape
from ofa_tvm.compiler.dots import BYTES_A_WORD, dot4, int16_pairs, is_narrow, quads
from ofa_tvm.compiler.dots import dot2 as dot2_of_bytes
from ofa_tvm.compiler.padding import output_size, output_sizes, padded_by_cases
from ofa_tvm.compiler.pairs import PAIR, dot2, nearest, pairs
from ofa_tvm.compiler.te_calls import call_te


def depthwise_of_bytes(
    bb: relax.BlockBuilder,
    data: relax.Expr,
    weight: np.ndarray,
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    outside: relax.Expr,
    *,
    dots: bool = True,
) -> relax.Call:
    """int32 sums of data (n, h, w, c) of bytes times int8 (kh, kw, 1, c), by dots of four or of two.

    Parameters
    ----------
    bb
        Takes the kernel up.
    data, weight
        Maps and weights.
    strides, padding, dilation
        (y, x); padding (top, left, bottom, right).
    outside
        What lies on the padding: the zero point, of one value.
    dots
        Whether an instruction adds products of four bytes; else those of two uint8, in 16 bits.
    """
    kh = weight.shape[0]
    height = (static_shape(data) or (0, 0))[1]
    out_height = output_size(height + padding[0] + padding[2], kh, strides[0], dilation[0])
    terms = BYTES_A_WORD if dots else PAIR
    lines = _lines_together(kh, strides[0], out_height, terms) if dilation[0] == 1 else 1
    spread = _spread(weight, lines, strides[0], terms)
    rest = list(strides), list(padding), list(dilation)
    words, name = quads(spread) if dots else int16_pairs(spread), "depthwise_conv2d"
    narrow = dots and is_narrow(weight)
    return call_te(bb, _of_bytes, kh, terms, narrow, data, constant_of(words), outside, *rest, name=name)


def depthwise_of_pairs(
    bb: relax.BlockBuilder,
    data: relax.Expr,
    weight: np.ndarray,
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> relax.Call:
    """float32 sums of data (n, h, w, c) times (kh, kw, 1, c), both rounded to bfloat16; see above."""
    spread = _spread(weight, 1, strides[0], PAIR)
    rest = list(strides), list(padding), list(dilation)
    constants, name = constant_of(pairs(spread)), "depthwise_conv2d"
    return call_te(bb, _of_pairs, weight.shape[0], data, constants, *rest, name=name)


def _spread(weight: np.ndarray, lines: int, stride: int, terms: int) -> np.ndarray:
    """Weights (kh, kw, 1, c) as (lines, groups of lines read, kw, c, terms), zeros where there are none."""
    kh, kw, _, channels = weight.shape
    groups = -(-((lines - 1) * stride + kh) // terms)
    spread = np.zeros((lines, groups * terms, kw, channels), weight.dtype)
    for line in range(lines):
        spread[line, line * stride : line * stride + kh] = weight[:, :, 0]
    return spread.reshape(lines, groups, terms, kw, channels).transpose(0, 1, 3, 4, 2)


def _lines_together(taps: int, stride: int, lines: int, terms: int) -> int:
    """How many lines of the result the lines that dots take together, `terms` each, have all taps of.

    They divide `lines`, so that all tiles are alike.
    """
    most = (-taps % terms) // stride + 1
    return max(d for d in range(1, most + 1) if lines % d == 0)


def _of_bytes(
    kh: int,
    terms: int,
    narrow: bool,
    data: te.Tensor,
    weight: te.Tensor,
    outside: te.Tensor,
    strides: list[int],
    padding: list[int],
    dilation: list[int],
) -> te.Tensor:
    source = padded_by_cases(data, padding, outside[0], by_sides=terms == PAIR)
    n, height, length, channels = (int(v) for v in source.shape)
    taps = _Taps(kh, strides, dilation, terms, tirx.const(0, data.dtype))
    dot = partial(dot4, narrow=narrow) if terms == BYTES_A_WORD else dot2_of_bytes
    return _sums((n, height, length, channels), source, weight, taps, dot)


def _of_pairs(
    kh: int, data: te.Tensor, weight: te.Tensor, strides: list[int], padding: list[int], dilation: list[int]
) -> te.Tensor:
    """A line outside is the nearest one inside with all bits off.

    Loops would have to be taken apart for each of a pair's lines if it were conditions that chose them.
    """
    top, left, bottom, right = padding
    n, height, length, channels = (int(v) for v in data.shape)

    def columns(b: tirx.Var, y: tirx.Var, x: tirx.Var, c: tirx.Var) -> Expr:
        inside = tirx.all(tirx.likely(x >= left), tirx.likely(x < left + length))
        return tirx.if_then_else(inside, data[b, y, x - left, c], tirx.const(0, data.dtype))

    source = te.compute((n, height, left + length + right, channels), columns, name="padded")

    def bits(b: tirx.Var, y: Expr, x: Expr, c: tirx.Var) -> Expr:
        line = y - top
        if not top and not bottom:
            return nearest(source[b, line, x, c])
        inside = tirx.all(line >= 0, line < height)
        found = nearest(source[b, tirx.max(tirx.min(line, height - 1), 0), x, c])
        return tirx.bitwise_and(found, tirx.Cast("uint16", inside) * tirx.const(0xFFFF, "uint16"))

    taps = _Taps(kh, strides, dilation, PAIR, tirx.const(0, "uint16"))
    padded = n, height + top + bottom, length + left + right, channels
    return _sums(padded, bits, weight, taps, dot2)


@dataclass(frozen=True)
class _Taps:
    """Lines of a window, strides and dilation (y, x), how many lines a dot takes, and what is none."""

    lines: int
    strides: list[int]
    dilation: list[int]
    together: int
    none: Expr


def _sums(
    padded: tuple[int, int, int, int],
    source: Callable[[tirx.Var, Expr, Expr, tirx.Var], Expr],
    weight: te.Tensor,
    taps: _Taps,
    dot: Callable[[Sequence[Expr], Expr], Expr],
) -> te.Tensor:
    """Sums over the windows of a padded map, of which `source` gives the values."""
    together, groups, kw, channels = (int(v) for v in weight.shape)
    (down, right), dilation, terms = taps.strides, taps.dilation, taps.together
    n, height, length, _ = padded
    dg, dx = te.reduce_axis((0, groups), "dg"), te.reduce_axis((0, kw), "dx")
    read = (together - 1) * down + taps.lines  # lines that have weights

    def value(b: tirx.Var, y: tirx.Var, x: tirx.Var, c: tirx.Var) -> Expr:
        first, column = y // together * (together * down), x * right + dx * dilation[1]

        def line(i: int) -> Expr:
            dy = terms * dg + i
            found = source(b, first + dy * dilation[0], column, c)
            if terms * (groups - 1) + i < read:
                return found
            return taps.none if groups == 1 else tirx.if_then_else(dy < read, found, taps.none)

        factors = [line(i) for i in range(terms)]
        return te.sum(dot(factors, weight[y % together, dg, dx, c]), axis=[dg, dx])

    lines, columns = output_sizes((height, length), (taps.lines, kw), taps.strides, dilation)
    shape = n, lines, columns, channels
    return te.compute(shape, value, name="depthwise_conv2d", attrs={LINES: together})

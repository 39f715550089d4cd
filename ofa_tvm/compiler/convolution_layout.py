"""Convolutions of channels-last feature maps: as matrix products, depthwise, or over whole windows.

Here it is decided how wide a convolution's channels become and that products and convolutions of all channels
read the map's own channels only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from tvm import relax

from ofa_tvm.compiler.constants import constant_of
from ofa_tvm.compiler.convolutions import convolution
from ofa_tvm.compiler.dataflow import static_shape
from ofa_tvm.compiler.dot_kernels import integer_convolution, integer_depthwise, integer_product
from ofa_tvm.compiler.feature_maps import CHANNELS_FIRST, FeatureMaps, View, four_sides, ints, two_axes
from ofa_tvm.compiler.products import ProductForm, packed_product, packs


@dataclass(frozen=True)
class _Window:
    """Where a convolution's taps lie: strides and dilation of two axes, padding of four sides."""

    strides: list[int]
    padding: list[int]
    dilation: list[int]

    @classmethod
    def of(cls, call: relax.Call) -> _Window:
        attributes = call.attrs
        return cls(
            two_axes(ints(attributes.strides)),
            four_sides(ints(attributes.padding)),
            two_axes(ints(attributes.dilation)),
        )

    def lying(self) -> _Window:
        """That of a map of width 1 which is laid on its side."""
        top, _, bottom, _ = self.padding
        return _Window(self.strides[::-1], [0, top, 0, bottom], self.dilation[::-1])


@dataclass(frozen=True)
class _Pad:
    """A map with a constant around it: the map, the width of four sides, the constant."""

    source: relax.Var
    sides: list[int]
    outside: float

    def joined(self, window: _Window) -> _Window:
        """The window over the map that is not padded."""
        padding = [own + sides for own, sides in zip(window.padding, self.sides, strict=True)]
        return _Window(window.strides, padding, window.dilation)


class Convolutions:
    """Rewrites convolutions.

    Parameters
    ----------
    builder
        What they become is emitted into it, but for the last expression.
    maps
        What they work on.
    form
        How products are computed; channels are padded to its vectors.
    """

    def __init__(self, builder: relax.BlockBuilder, maps: FeatureMaps, form: ProductForm) -> None:
        self._builder, self._maps, self._form = builder, maps, form
        self._lanes = form.lanes or 1
        self._pads: dict[relax.Expr, _Pad] = {}

    def __call__(self, call: relax.Call) -> tuple[View, relax.Expr] | None:
        """(view, expression) of a convolution, or None where the imported form must be kept."""
        maps, data = self._maps, call.args[0]
        weight = maps.value(call.args[1])
        window, outside = _Window.of(call), 0.0
        integers = weight is not None and weight.dtype == np.int8 and self._form.lanes is not None
        pad = self._pads.get(data)
        if pad is not None and (pad.outside == 0 or (integers and not any(window.padding))):
            data, window, outside = pad.source, pad.joined(window), pad.outside
        if not maps.is_map(data) or weight is None:
            return None
        if call.attrs.data_layout != CHANNELS_FIRST[maps.rank(data)]:
            return None
        if weight.ndim == 3:
            weight = weight[:, :, np.newaxis]
        c_in, groups = maps.shape(data)[1], int(call.attrs.groups)
        depthwise = groups == c_in and weight.shape[1] == 1
        if integers and weight.shape[0] > c_in:  # of one channel: a dense convolution
            depthwise = False
        if groups != 1 and not depthwise:
            if self._lanes == 1:
                return None
            groups, weight = _merged(weight, groups, self._lanes)
            maps.narrow(data)
        multiplied = depthwise and weight.shape[0] > c_in
        if multiplied:  # several outputs a channel lie side by side, so none can be put in between
            maps.narrow(data)
        one_tap = weight.shape[2:] == (1, 1) and window.strides == [1, 1] and not any(window.padding)
        pointwise = groups == 1 and one_tap
        view = maps.view(data, "flat" if pointwise else "nhwc")
        if depthwise:
            groups = maps.channels(data)
            weight = weight if multiplied else _zeros_to(weight, groups)
        elif groups == 1:
            weight = _zeros_to(weight, self._padded(weight.shape[0]))
        if integers:
            return self._integers(view, weight, window, outside, depthwise=depthwise, pointwise=pointwise)
        out_dtype = str(call.attrs.out_dtype or "")
        if pointwise:
            return "flat", self._product(data, view, weight, out_dtype)
        return "nhwc", self._windows(data, view, weight, groups, window, out_dtype)

    def note_padding(self, var: relax.Var, call: relax.Call) -> None:
        """Remember that a value is a map with a constant around it, for the convolution that reads it."""
        width, source = ints(call.attrs.pad_width), call.args[0]
        spatial = len(width) == 8 and not any(width[:4]) and min(width) >= 0
        if spatial and self._maps.is_map(source) and str(call.attrs.pad_mode) == "constant":
            top, bottom, left, right = width[4:]
            self._pads[var] = _Pad(source, [top, left, bottom, right], float(call.attrs.pad_value))

    def _integers(
        self,
        view: relax.Expr,
        weight: np.ndarray,
        window: _Window,
        outside: float,
        *,
        depthwise: bool,
        pointwise: bool,
    ) -> tuple[View, relax.Expr]:
        spatial = np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
        sides = window.strides, window.padding, window.dilation
        if pointwise:
            return "flat", integer_product(self._builder, view, spatial[0, 0], self._form)
        if depthwise:
            return "nhwc", integer_depthwise(self._builder, view, spatial, *sides, self._form, int(outside))
        return "nhwc", integer_convolution(self._builder, view, spatial, *sides, self._form, int(outside))

    def _padded(self, channels: int) -> int:
        """Whole vectors for `channels`; fewer than half a vector stay as they are."""
        return -(-channels // self._lanes) * self._lanes if channels > self._lanes // 2 else channels

    def _product(self, data: relax.Var, view: relax.Expr, weight: np.ndarray, out_dtype: str) -> relax.Expr:
        matrix = np.ascontiguousarray(weight[:, :, 0, 0].T)
        if not out_dtype.startswith("int") and packs(matrix, self._lanes):
            product = packed_product(self._builder, view, matrix, self._form)
            return self._as(data, product)
        self._maps.narrow(data)
        flat = self._maps.view(data, "flat")
        return relax.op.matmul(flat, constant_of(matrix), out_dtype=out_dtype or None)

    def _windows(
        self,
        data: relax.Var,
        view: relax.Expr,
        weight: np.ndarray,
        groups: int,
        window: _Window,
        out_dtype: str,
    ) -> relax.Expr:
        spatial = np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
        n, c_in, height, width = self._maps.shape(data)
        channels, sides = self._maps.channels(data), window.padding[1::2]
        upright = groups == 1 and height > 1 and (width, weight.shape[3]) == (1, 1) and not any(sides)
        if upright:  # laid on its side: a register tile's pixels lie along the last axis
            view = self._builder.emit(relax.op.reshape(view, (n, 1, height, channels)))
            spatial = np.ascontiguousarray(spatial.transpose(1, 0, 2, 3))
            window = window.lying()
        if groups == 1 and channels > c_in:
            sums = convolution(
                self._builder,
                view,
                spatial,
                window.strides,
                window.padding,
                window.dilation,
                self._form,
            )
            return self._raised(self._as(data, sums), upright)
        sums = relax.op.nn.conv2d(
            view,
            constant_of(spatial),
            strides=window.strides,
            padding=window.padding,
            dilation=window.dilation,
            groups=groups,
            data_layout="NHWC",
            kernel_layout="HWIO",
            out_layout="NHWC",
            out_dtype=out_dtype or None,
        )
        return self._raised(sums, upright)

    def _raised(self, lying: relax.Expr, upright: bool) -> relax.Expr:
        """A map of width 1 that was laid on its side, upright again."""
        if not upright:
            return lying
        made = self._builder.emit(lying)
        n, _, height, channels = static_shape(made) or (1, 1, 1, 1)
        return relax.op.reshape(made, (n, height, 1, channels))

    def _as(self, like: relax.Var, sums: relax.Expr) -> relax.Expr:
        """Sums, which may be float32 where `like` is float16, in the type of `like`."""
        made = self._builder.normalize(sums)
        same = str(made.ty.dtype) == str(like.ty.dtype)
        return made if same else relax.op.astype(self._builder.emit(made), str(like.ty.dtype))


def _merged(weight: np.ndarray, groups: int, lanes: int) -> tuple[int, np.ndarray]:
    """Groups joined, with zeros between them, until the outputs of one fill half a vector: (groups, OIHW)."""
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    joined = next(
        (n for n in _divisors(groups) if 2 * math.gcd(n * outputs, lanes) >= lanes),
        groups,
    )
    wide = np.zeros((groups // joined, joined, outputs, joined, inputs, *weight.shape[2:]), weight.dtype)
    for n in range(joined):
        wide[:, n, :, n] = weight.reshape(groups // joined, joined, outputs, *weight.shape[1:])[:, n]
    return groups // joined, wide.reshape(weight.shape[0], joined * inputs, *weight.shape[2:])


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _zeros_to(weight: np.ndarray, out_channels: int) -> np.ndarray:
    """OIHW weights with zeros appended up to so many output channels."""
    return np.pad(weight, [(0, out_channels - weight.shape[0])] + [(0, 0)] * 3)

"""NHWC end to end, and 1x1 convolutions as matrix products.

The importer gives NCHW. Channels-last lets every kernel be vectorised over channels whatever the map's
size, so the whole network is converted, and permutations remain only at its edges: each operator works on
the view of its feature maps that suits it (`ofa_tvm.compiler.feature_maps`).

The channels-last views of what a convolution makes have their channels padded to whole vectors: 24 channels
are one and a half AVX-512 registers, which would be computed as three halves, at half the speed.

What padded channels hold is nobody's business: it may be anything, NaN and infinity included, since operators
make of zero what they like. The invariant is that **no kernel that mixes channels reads a padded one**.
Kernels that work on each channel alone (depthwise convolutions, pooling, reductions over pixels, elementwise
operators) carry the padding along; products and convolutions of all channels read the map's own channels
only (`ofa_tvm.compiler.convolution_layout`); all other operators get an exact view (`FeatureMaps.narrow`).
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from ofa_tvm.compiler.constants import constant_of
from ofa_tvm.compiler.convolution_layout import Convolutions
from ofa_tvm.compiler.dataflow import bindings, is_straight, static_shape
from ofa_tvm.compiler.feature_maps import (
    CHANNELS_FIRST,
    FeatureMaps,
    View,
    as_map,
    four_sides,
    ints,
    two_axes,
)
from ofa_tvm.compiler.folding import RESHAPES, folded, has_reciprocals
from ofa_tvm.compiler.products import PLAIN, ProductForm

_UNARY = frozenset(
    f"relax.{name}"
    for name in [
        "nn.relu",
        "nn.relu6",
        "nn.gelu",
        "nn.gelu_tanh",
        "nn.silu",
        "nn.leakyrelu",
        "nn.softplus",
        "clip",
        "sigmoid",
        "tanh",
        "exp",
        "log",
        "sqrt",
        "rsqrt",
        "negative",
        "abs",
        "erf",
        "floor",
        "ceil",
        "round",
        "sign",
        "square",
        "astype",
    ]
)
_BINARY = frozenset(
    f"relax.{name}" for name in ["add", "subtract", "multiply", "divide", "maximum", "minimum", "power"]
)
_POOLING = frozenset(
    f"relax.nn.{name}{axes}d"
    for name in ["max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool"]
    for axes in (1, 2)
)
_REDUCTION = frozenset(f"relax.{name}" for name in ["mean", "sum", "max", "min", "variance", "std"])

Emitted = tuple[View, relax.Expr]


def channels_last(mod: tvm.IRModule, form: ProductForm = PLAIN) -> tvm.IRModule:
    """Module whose `main` computes the same in NHWC, with constants folded.

    Channels of inner feature maps are padded to whole vectors of `form`, by which products are computed.

    Only straight-line dataflow functions (what an ONNX import gives) are rewritten; a function with control
    flow is returned as it is.
    """
    return _Rewriter(mod, form).run() if is_straight(mod["main"]) else mod


def _is_uniform(call: relax.Call) -> bool:
    """Whether a quantize has one scale and one zero point for all channels."""
    return all((static_shape(argument) or (1,)) == (1,) for argument in call.args[1:])


class _Rewriter:
    """Walks `main` once, emitting each operator on the view that suits it."""

    def __init__(self, mod: tvm.IRModule, form: ProductForm) -> None:
        self.function = mod["main"]
        others = {var: function for var, function in mod.functions.items() if var.name_hint != "main"}
        self.bb = relax.BlockBuilder(tvm.IRModule(others))
        self.maps = FeatureMaps(self.bb)
        self.convolution = Convolutions(self.bb, self.maps, form)

    def run(self) -> tvm.IRModule:
        function = self.function
        with self.bb.function("main", list(function.params), attrs=dict(function.attrs or {})):
            with self.bb.dataflow():
                for param in function.params:
                    self.maps.define(param, "nchw", param)
                for binding in bindings(function):
                    self._rewrite(binding.var, binding.value)
                result = self.bb.emit_output(self.maps.original(function.body.body))
            self.bb.emit_func_output(result)
        mod = self.bb.finalize()
        return tvm.transform.Sequential(
            [relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination(["main"])]
        )(mod)

    def _rewrite(self, var: relax.Var, value: relax.Expr) -> None:
        if isinstance(value, relax.Var | tvm.ir.GenericConst):
            self.maps.alias(var, value)
            return
        if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op):
            if self._fold(var, value):
                return
            value = self._without_zero_divisor(value)
            if value.op.name == "relax.nn.pad":
                self.convolution.note_padding(var, value)
            emitted = self._channels_last(value)
            if emitted is not None:
                view, expr = emitted
                self.maps.define(var, view, self.bb.emit(expr))
                return
        self.maps.define(var, "nchw", self.bb.emit(self._with_original_arguments(value)))

    def _with_original_arguments(self, value: relax.Expr) -> relax.Expr:
        if isinstance(value, relax.Call):
            arguments = [self.maps.original(argument) for argument in value.args]
            return relax.Call(value.op, arguments, value.attrs, value.ty_args)
        if isinstance(value, relax.TupleGetItem):
            return relax.TupleGetItem(self.maps.original(value.tuple_value), value.index)
        return self.maps.original(value)

    def _fold(self, var: relax.Var, call: relax.Call) -> bool:
        """Whether an operator worked on constants alone and was computed."""
        operands = [a for a in call.args if not isinstance(a, relax.ShapeExpr)]
        values = [self.maps.value(operand) for operand in operands]
        arrays = [v for v in values if v is not None]
        if not arrays or len(arrays) < len(values):
            return False
        result = folded(call, arrays, static_shape(var))
        if result is not None:
            self.maps.define_constant(var, result)
        return result is not None

    def _without_zero_divisor(self, call: relax.Call) -> relax.Call:
        """Floats over a scalar zero are what they are times infinity; TVM's simplifier stops at zero."""
        divisor = self.maps.value(call.args[1]) if call.op.name == "relax.divide" else None
        if divisor is None or divisor.size > 1 or divisor.dtype.kind != "f" or (divisor != 0).any():
            return call
        with np.errstate(divide="ignore"):
            infinite = constant_of(1 / divisor)
        return self.bb.normalize(relax.op.multiply(call.args[0], infinite))

    def _channels_last(self, call: relax.Call) -> Emitted | None:
        """(view, expression) in a channels-last view, or None where the imported form must be kept."""
        name = call.op.name
        if name in ("relax.nn.conv1d", "relax.nn.conv2d"):
            return self.convolution(call)
        if name in _BINARY:
            return self._binary(call)
        if not call.args or not self.maps.is_map(call.args[0]):
            return None
        source = call.args[0]
        if name in _UNARY or (name == "relax.quantize" and _is_uniform(call)):
            view = self.maps.preferred(source)
            if view == "nchw":
                return None
            arguments = [self.maps.view(source, view), *call.args[1:]]
            return view, relax.Call(call.op, arguments, call.attrs, call.ty_args)
        if name in _POOLING:
            return self._pooling(call, source)
        if name in _REDUCTION and call.attrs.keepdims and call.attrs.axis is not None:
            rank = self.maps.rank(source)
            axes = sorted(axis % rank for axis in ints(call.attrs.axis))
            if axes != list(range(2, rank)) or self.maps.preferred(source) == "nchw":
                return None
            reduce = getattr(relax.op, name.removeprefix("relax."))
            return "nhwc", reduce(self.maps.view(source, "nhwc"), axis=[1, 2], keepdims=True)
        if name == "relax.permute_dims":
            return self._permuted(call, source)
        if name in RESHAPES:
            return self._reshaped(call, source)
        return None

    def _permuted(self, call: relax.Call, source: relax.Var) -> Emitted | None:
        """The user's own way to channels-last and back, which is where the views are already."""
        axes = [axis % self.maps.rank(source) for axis in ints(call.attrs.axes or [])]
        if axes in ([0, 2, 3, 1], [0, 2, 1]) and self.maps.preferred(source) != "nchw":
            self.maps.narrow(source)
            last = self.maps.view(source, "nhwc")
            return "nchw", last if len(axes) == 4 else relax.op.reshape(last, static_shape(call))
        if axes == [0, 3, 1, 2] and self.maps.has(source, "nchw"):
            return "nhwc", self.maps.view(source, "nchw")
        return None

    def _reshaped(self, call: relax.Call, source: relax.Var) -> Emitted | None:
        """(N, C, 1, 1) to (N, C), or (N, C, 1, W) to (N, C, W) and back: no permutation is needed."""
        view, shape = self.maps.preferred(source), static_shape(call)
        if view == "nchw" or shape is None:
            return None
        if len(shape) in CHANNELS_FIRST and as_map(shape) == self.maps.shape(source):
            return view, self.maps.view(source, view)
        if self.maps.shape(source)[2:] != (1, 1):
            return None
        self.maps.narrow(source)
        return "nchw", relax.op.reshape(self.maps.view(source, "flat"), shape)

    def _pooling(self, call: relax.Call, source: relax.Var) -> Emitted | None:
        attributes = call.attrs
        if attributes.layout != CHANNELS_FIRST[self.maps.rank(source)]:
            return None
        operator = getattr(relax.op.nn, f"{call.op.name.removeprefix('relax.nn.')[:-2]}2d")
        data = self.maps.view(source, "nhwc")
        if "adaptive" in call.op.name:
            size = attributes.output_size
            return "nhwc", operator(data, None if size is None else two_axes(ints(size)), layout="NHWC")
        keywords = {
            "pool_size": two_axes(ints(attributes.pool_size)),
            "strides": two_axes(ints(attributes.strides)),
            "padding": four_sides(ints(attributes.padding)),
            "dilation": two_axes(ints(attributes.dilation)),
            "ceil_mode": bool(attributes.ceil_mode),
            "count_include_pad": bool(attributes.count_include_pad),
        }
        return "nhwc", operator(data, layout="NHWC", **keywords)

    def _binary(self, call: relax.Call) -> Emitted | None:
        maps = [argument for argument in call.args if self.maps.is_map(argument)]
        shape = static_shape(call)
        if not maps or shape is None or shape not in [self.maps.imported_shape(var) for var in maps]:
            return None
        if any(self.maps.rank(var) != len(shape) for var in maps):
            return None
        view = self.maps.preferred(*maps)
        if view == "nchw":
            return None
        if view == "flat" and any(
            self.maps.imported_shape(var) != self.maps.imported_shape(maps[0]) for var in maps
        ):
            view = "nhwc"  # an operand broadcast over the map, as in squeeze-and-excitation
        for var in maps:
            self.maps.view(var, view)
        wide = [var for var in maps if self.maps.shape(var)[1] > 1]
        uneven = len({self.maps.channels(var) for var in wide}) > 1
        whole = np.dtype(str(call.ty.dtype)).kind in "iu"  # processors trap divisions of padding by padding
        if uneven or whole or len(wide) < len(maps):
            for var in maps:
                self.maps.narrow(var)
        channels = max(self.maps.channels(var) for var in maps)
        left, right = (self._operand(argument, len(shape), view, channels) for argument in call.args)
        if left is None or right is None:
            return None
        divisor = self.maps.value(call.args[1])
        if call.op.name == "relax.divide" and divisor is not None and has_reciprocals(divisor):
            # A vector division costs ten times a multiplication; hard-swish is full of division by 6.
            with np.errstate(divide="ignore"):  # padding
                return view, relax.op.multiply(left, constant_of(1 / right.value.numpy()))
        return view, relax.Call(call.op, [left, right], call.attrs, call.ty_args)

    def _operand(self, argument: relax.Expr, rank: int, view: View, channels: int) -> relax.Expr | None:
        """The operand in `view` of a binary operator on maps of so many axes, None if there is none.

        Constants with one value a channel are padded to `channels` with zeros.
        """
        value = self.maps.value(argument)
        if value is None:
            return self.maps.view(argument, view) if self.maps.is_map(argument) else None
        if value.size == 1:
            return constant_of(value.reshape(()))
        if value.ndim > rank:
            return None
        lifted = value.reshape(as_map((1,) * (rank - value.ndim) + value.shape))
        nhwc = np.ascontiguousarray(lifted.transpose(0, 2, 3, 1))
        if nhwc.shape[3] > 1:
            nhwc = np.pad(nhwc, [(0, 0)] * 3 + [(0, channels - nhwc.shape[3])])
        if view == "nhwc":
            return constant_of(nhwc)
        if nhwc.shape[:3] == (1, 1, 1):
            return constant_of(nhwc.reshape(1, -1))
        return None

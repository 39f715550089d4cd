"""NHWC end to end, and 1x1 convolutions as matrix products.

The importer gives NCHW. Channels-last lets every kernel be vectorised over channels whatever the map's
size, so the whole network is converted, and permutations remain only at its edges. A feature map has up to
three views, made when first asked for and then reused:

- `nchw` (N, C, H, W), as imported; operators unknown here use it; tensors of other ranks have no other view,
  but for (N, C, W), which are maps of height 1;
- `nhwc` (N, H, W, C), used by spatial operators;
- `flat` (N*H*W, C), used by 1x1 convolutions, which tune faster and end faster as matrix products; between
  `nhwc` and `flat` lies a reshape, which costs nothing at run time.

The channels-last views of what a convolution makes have their channels padded to whole vectors: 24 channels
are one and a half AVX-512 registers, which would be computed as three halves, at half the speed.

What padded channels hold is nobody's business: it may be anything, NaN and infinity included, since operators
make of zero what they like. The invariant is that **no kernel that mixes channels reads a padded one**.
Kernels that work on each channel alone (depthwise convolutions, pooling, reductions over pixels, elementwise
operators) carry the padding along; products and convolutions of all channels read the map's own channels
only (`_convolution`); all other operators get an exact view (`_narrow`, by `_original`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax

from ofa_tvm.compiler.constants import constant_of
from ofa_tvm.compiler.convolutions import convolution
from ofa_tvm.compiler.products import packed_product, packs

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
_CHANNELS_FIRST = {3: "NCW", 4: "NCHW"}
_RESHAPES = frozenset({"relax.reshape", "relax.squeeze", "relax.expand_dims"})
_REDUCTION = frozenset(f"relax.{name}" for name in ["mean", "sum", "max", "min", "variance", "std"])
_CONSTANT_OPS: dict[str, Callable[..., np.ndarray]] = {
    "relax.add": np.add,
    "relax.subtract": np.subtract,
    "relax.multiply": np.multiply,
    "relax.divide": np.divide,
    "relax.negative": np.negative,
    "relax.sqrt": np.sqrt,
}

Shape = tuple[int, ...]


def channels_last(mod: tvm.IRModule, lanes: int = 1, *, in_half: bool = False) -> tvm.IRModule:
    """Module whose `main` computes the same in NHWC, with constants folded.

    Channels of inner feature maps are padded to multiples of `lanes`, the values in a vector register.
    Products of float16 are added in float32, with `in_half` in blocks of float16.

    Only straight-line dataflow functions (what an ONNX import gives) are rewritten; a function with control
    flow is returned as it is.
    """
    plain = (relax.Call, relax.Var, relax.Tuple, relax.TupleGetItem, relax.ShapeExpr, tvm.ir.GenericConst)
    if not all(isinstance(binding.value, plain) for binding in bindings(mod["main"])):
        return mod
    return _Rewriter(mod, lanes, in_half).run()


def bindings(function: relax.Function) -> list[relax.Binding]:
    return [binding for block in function.body.blocks for binding in block.bindings]


def static_shape(expr: relax.Expr) -> Shape | None:
    """Shape of a tensor expression, None if it is not static."""
    return static_shape_of(expr.ty)


def static_shape_of(ty: tvm.ir.Type) -> Shape | None:
    """Shape of a tensor type, None if it is not static."""
    shape = getattr(ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr):
        return None
    values = [getattr(dim, "value", None) for dim in shape.values]
    known = tuple(int(v) for v in values if v is not None)
    return known if len(known) == len(values) else None


def _constant(expr: relax.Expr) -> np.ndarray | None:
    return expr.value.numpy() if isinstance(expr, tvm.ir.GenericConst) else None


def _ints(values: object) -> list[int]:
    return [int(v) for v in values]  # type: ignore[attr-defined]


class _Rewriter:
    """Walks `main` once, emitting each operator on the view that suits it."""

    def __init__(self, mod: tvm.IRModule, lanes: int, in_half: bool) -> None:
        self.lanes = lanes
        self.in_half = in_half
        self.function = mod["main"]
        others = {var: function for var, function in mod.functions.items() if var.name_hint != "main"}
        self.bb = relax.BlockBuilder(tvm.IRModule(others))
        self.views: dict[tuple[relax.Var, str], relax.Expr] = {}
        self.shapes: dict[relax.Var, Shape | None] = {}
        self.constants: dict[relax.Var, np.ndarray] = {}
        self.channels: dict[relax.Var, int] = {}  # of the channels-last views, padding included

    def run(self) -> tvm.IRModule:
        function = self.function
        with self.bb.function("main", list(function.params), attrs=dict(function.attrs or {})):
            with self.bb.dataflow():
                for param in function.params:
                    self._define(param, "nchw", param)
                for binding in bindings(function):
                    self._rewrite(binding.var, binding.value)
                result = self.bb.emit_output(self._original(function.body.body))
            self.bb.emit_func_output(result)
        mod = self.bb.finalize()
        return tvm.transform.Sequential(
            [relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination(["main"])]
        )(mod)

    # Views.

    def _define(self, var: relax.Var, view: str, expr: relax.Expr) -> None:
        self.shapes[var] = static_shape(var)
        self.views[var, view] = expr
        if view != "nchw":
            self.channels[var] = (static_shape(expr) or (0,))[-1]

    def _has(self, expr: relax.Expr, view: str) -> bool:
        return isinstance(expr, relax.Var) and (expr, view) in self.views

    def _is_map(self, expr: relax.Expr) -> bool:
        """Whether `expr` is a non-constant feature map of static shape."""
        if not isinstance(expr, relax.Var) or expr in self.constants:
            return False
        shape = self.shapes.get(expr)
        return shape is not None and len(shape) in _CHANNELS_FIRST

    def _rank(self, var: relax.Var) -> int:
        return len(self.shapes[var] or ())

    def _view(self, var: relax.Var, view: str) -> relax.Expr:
        if (var, view) not in self.views:
            n, c, h, w = self._shape(var)
            padded = self.channels.setdefault(var, c)
            if view == "nchw":
                self._narrow(var)
                expr = relax.op.permute_dims(self._view(var, "nhwc"), [0, 3, 1, 2])
                if self._rank(var) == 3:
                    expr = relax.op.reshape(self.bb.emit(expr), (n, c, w))
            elif view == "flat":
                expr = relax.op.reshape(self._view(var, "nhwc"), (n * h * w, padded))
            elif (var, "flat") in self.views:
                expr = relax.op.reshape(self.views[var, "flat"], (n, h, w, padded))
            else:
                imported = self.views[var, "nchw"]
                if self._rank(var) == 3:
                    imported = self.bb.emit(relax.op.reshape(imported, (n, c, h, w)))
                expr = relax.op.permute_dims(imported, [0, 2, 3, 1])
            self.views[var, view] = self.bb.emit(expr)
        return self.views[var, view]

    def _narrow(self, var: relax.Var) -> None:
        """From here on, the channels-last views of `var` have its own channels only."""
        c = self._shape(var)[1]
        if self.channels.get(var, c) == c:
            return
        exact = self.bb.emit(relax.op.strided_slice(self._view(var, "flat"), [1], [0], [c]))
        self.views.pop((var, "nhwc"), None)
        self.views[var, "flat"] = exact
        self.channels[var] = c

    def _padded(self, channels: int) -> int:
        """Whole vectors for `channels`; fewer than half a vector stay as they are."""
        return -(-channels // self.lanes) * self.lanes if channels > self.lanes // 2 else channels

    def _shape(self, var: relax.Var) -> tuple[int, int, int, int]:
        return _as_map(self.shapes[var] or ())

    def _original(self, expr: relax.Expr) -> relax.Expr:
        """The expression in the layout in which it was imported."""
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._original(field) for field in expr.fields])
        if not isinstance(expr, relax.Var):
            return expr
        if expr in self.constants:
            return constant_of(self.constants[expr])
        return self._view(expr, "nchw") if self._is_map(expr) else self.views[expr, "nchw"]

    def _value(self, expr: relax.Expr) -> np.ndarray | None:
        """Value of a constant expression, else None."""
        if isinstance(expr, relax.Var):
            return self.constants.get(expr)
        return _constant(expr)

    # Operators.

    def _rewrite(self, var: relax.Var, value: relax.Expr) -> None:
        if isinstance(value, relax.Var | tvm.ir.GenericConst):
            self._alias(var, value)
            return
        if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op):
            if self._fold(var, value):
                return
            value = self._without_zero_divisor(value)
            emitted = self._channels_last(value)
            if emitted is not None:
                view, expr = emitted
                self._define(var, view, self.bb.emit(expr))
                return
        self._define(var, "nchw", self.bb.emit(self._with_original_arguments(value)))

    def _alias(self, var: relax.Var, value: relax.Expr) -> None:
        constant = self._value(value)
        self.shapes[var] = static_shape(var)
        if constant is not None:
            self.constants[var] = constant
            return
        for view in ("nchw", "nhwc", "flat"):
            if (value, view) in self.views:
                self._define(var, view, self.views[value, view])

    def _with_original_arguments(self, value: relax.Expr) -> relax.Expr:
        if isinstance(value, relax.Call):
            arguments = [self._original(argument) for argument in value.args]
            return relax.Call(value.op, arguments, value.attrs, value.ty_args)
        if isinstance(value, relax.TupleGetItem):
            return relax.TupleGetItem(self._original(value.tuple_value), value.index)
        return self._original(value)

    def _fold(self, var: relax.Var, call: relax.Call) -> bool:
        """Compute an operator on constants here; TVM's own folding builds a kernel with LLVM for each."""
        operands = [a for a in call.args if not isinstance(a, relax.ShapeExpr)]
        values = [self._value(operand) for operand in operands]
        arrays = [v for v in values if v is not None]
        if not arrays or len(arrays) < len(values):
            return False
        shape = static_shape(var)
        name = call.op.name
        if name in _CONSTANT_OPS:
            result = _CONSTANT_OPS[name](*arrays)
        elif name == "relax.permute_dims":
            axes = call.attrs.axes
            result = np.transpose(arrays[0], None if axes is None else _ints(axes))
        elif name in ("relax.reshape", "relax.expand_dims", "relax.squeeze") and shape is not None:
            result = arrays[0].reshape(shape)
        else:
            return False
        self.shapes[var] = shape
        self.constants[var] = np.asarray(result, arrays[0].dtype, order="C")
        return True

    def _without_zero_divisor(self, call: relax.Call) -> relax.Call:
        """Floats over a scalar zero are what they are times infinity; TVM's simplifier stops at zero."""
        divisor = self._value(call.args[1]) if call.op.name == "relax.divide" else None
        if divisor is None or divisor.size > 1 or divisor.dtype.kind != "f" or (divisor != 0).any():
            return call
        with np.errstate(divide="ignore"):
            infinite = constant_of(1 / divisor)
        return self.bb.normalize(relax.op.multiply(call.args[0], infinite))

    def _channels_last(self, call: relax.Call) -> tuple[str, relax.Expr] | None:
        """(view, expression) in a channels-last view, or None where the imported form must be kept."""
        name = call.op.name
        if name in ("relax.nn.conv1d", "relax.nn.conv2d"):
            return self._convolution(call)
        if name in _BINARY:
            return self._binary(call)
        if not call.args or not self._is_map(call.args[0]):
            return None
        source = call.args[0]
        if name in _UNARY:
            view = self._preferred(source)
            if view == "nchw":
                return None
            arguments = [self._view(source, view), *call.args[1:]]
            return view, relax.Call(call.op, arguments, call.attrs, call.ty_args)
        if name in _POOLING:
            return self._pooling(call, source)
        if name in _REDUCTION and call.attrs.keepdims and call.attrs.axis is not None:
            rank = self._rank(source)
            axes = sorted(axis % rank for axis in _ints(call.attrs.axis))
            if axes != list(range(2, rank)) or self._preferred(source) == "nchw":
                return None
            reduce = getattr(relax.op, name.removeprefix("relax."))
            return "nhwc", reduce(self._view(source, "nhwc"), axis=[1, 2], keepdims=True)
        if name == "relax.permute_dims":
            return self._permuted(call, source)
        if name in _RESHAPES:
            return self._reshaped(call, source)
        return None

    def _preferred(self, *maps: relax.Var) -> str:
        for view in ("flat", "nhwc"):
            if any(self._has(var, view) for var in maps):
                return view
        return "nchw"

    def _permuted(self, call: relax.Call, source: relax.Var) -> tuple[str, relax.Expr] | None:
        """The user's own way to channels-last and back, which is where the views are already."""
        axes = [axis % self._rank(source) for axis in _ints(call.attrs.axes or [])]
        if axes in ([0, 2, 3, 1], [0, 2, 1]) and self._preferred(source) != "nchw":
            self._narrow(source)
            last = self._view(source, "nhwc")
            return "nchw", last if len(axes) == 4 else relax.op.reshape(last, static_shape(call))
        if axes == [0, 3, 1, 2] and (source, "nchw") in self.views:
            return "nhwc", self.views[source, "nchw"]
        return None

    def _reshaped(self, call: relax.Call, source: relax.Var) -> tuple[str, relax.Expr] | None:
        """(N, C, 1, 1) to (N, C), or (N, C, 1, W) to (N, C, W) and back: no permutation is needed."""
        view, shape = self._preferred(source), static_shape(call)
        if view == "nchw" or shape is None:
            return None
        if len(shape) in _CHANNELS_FIRST and _as_map(shape) == self._shape(source):
            return view, self._view(source, view)
        if self._shape(source)[2:] != (1, 1):
            return None
        self._narrow(source)
        return "nchw", relax.op.reshape(self._view(source, "flat"), shape)

    def _pooling(self, call: relax.Call, source: relax.Var) -> tuple[str, relax.Expr] | None:
        attributes = call.attrs
        if attributes.layout != _CHANNELS_FIRST[self._rank(source)]:
            return None
        operator = getattr(relax.op.nn, f"{call.op.name.removeprefix('relax.nn.')[:-2]}2d")
        data = self._view(source, "nhwc")
        if "adaptive" in call.op.name:
            size = attributes.output_size
            return "nhwc", operator(data, None if size is None else _of_map(_ints(size)), layout="NHWC")
        keywords = {
            "pool_size": _of_map(_ints(attributes.pool_size)),
            "strides": _of_map(_ints(attributes.strides)),
            "padding": _padding(_ints(attributes.padding)),
            "dilation": _of_map(_ints(attributes.dilation)),
            "ceil_mode": bool(attributes.ceil_mode),
            "count_include_pad": bool(attributes.count_include_pad),
        }
        return "nhwc", operator(data, layout="NHWC", **keywords)

    def _convolution(self, call: relax.Call) -> tuple[str, relax.Expr] | None:
        data, attributes = call.args[0], call.attrs
        weight = self._value(call.args[1])
        if not self._is_map(data) or weight is None:
            return None
        if attributes.data_layout != _CHANNELS_FIRST[self._rank(data)]:
            return None
        if weight.ndim == 3:
            weight = weight[:, :, np.newaxis]
        c_in = self._shape(data)[1]
        groups = int(attributes.groups)
        strides = _of_map(_ints(attributes.strides))
        padding = _padding(_ints(attributes.padding))
        depthwise = groups == c_in and weight.shape[1] == 1
        if groups != 1 and not depthwise:
            if self.lanes == 1:
                return None
            groups, weight = _merged(weight, groups, self.lanes)
            self._narrow(data)
        multiplied = depthwise and weight.shape[0] > c_in
        if multiplied:  # several outputs a channel lie side by side, so none can be put in between
            self._narrow(data)
        pointwise = groups == 1 and weight.shape[2:] == (1, 1) and strides == [1, 1] and not any(padding)
        view = self._view(data, "flat" if pointwise else "nhwc")
        if depthwise:
            groups = self.channels[data]
            weight = weight if multiplied else _zeros_to(weight, groups)
        elif groups == 1:
            weight = _zeros_to(weight, self._padded(weight.shape[0]))
        if pointwise:
            matrix = np.ascontiguousarray(weight[:, :, 0, 0].T)
            if packs(matrix, self.lanes):
                product = packed_product(self.bb, view, matrix, self.lanes, in_half=self.in_half)
                return "flat", self._as(data, product)
            self._narrow(data)
            return "flat", relax.op.matmul(self._view(data, "flat"), constant_of(matrix))
        spatial = np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
        dilation = _of_map(_ints(attributes.dilation))
        n, _, height, width = self._shape(data)
        upright = groups == 1 and height > 1 and (width, weight.shape[3]) == (1, 1) and not any(padding[1::2])
        if upright:  # laid on its side: a register tile's pixels lie along the last axis
            view = self.bb.emit(relax.op.reshape(view, (n, 1, height, self.channels[data])))
            spatial = np.ascontiguousarray(spatial.transpose(1, 0, 2, 3))
            strides, dilation, padding = strides[::-1], dilation[::-1], [0, padding[0], 0, padding[2]]
        if groups == 1 and self.channels[data] > c_in:
            sums = convolution(self.bb, view, spatial, strides, padding, dilation, in_half=self.in_half)
            return "nhwc", self._raised(self._as(data, sums), upright)
        sums = relax.op.nn.conv2d(
            view,
            constant_of(spatial),
            strides=strides,
            padding=padding,
            dilation=dilation,
            groups=groups,
            data_layout="NHWC",
            kernel_layout="HWIO",
            out_layout="NHWC",
        )
        return "nhwc", self._raised(sums, upright)

    def _raised(self, lying: relax.Expr, upright: bool) -> relax.Expr:
        """A map of width 1 that was laid on its side, upright again."""
        if not upright:
            return lying
        made = self.bb.emit(lying)
        n, _, height, channels = static_shape(made) or (1, 1, 1, 1)
        return relax.op.reshape(made, (n, height, 1, channels))

    def _as(self, like: relax.Var, sums: relax.Expr) -> relax.Expr:
        """Sums, which may be float32 where `like` is float16, in the type of `like`."""
        made = self.bb.normalize(sums)
        same = str(made.ty.dtype) == str(like.ty.dtype)
        return made if same else relax.op.astype(self.bb.emit(made), str(like.ty.dtype))

    def _binary(self, call: relax.Call) -> tuple[str, relax.Expr] | None:
        maps = [argument for argument in call.args if self._is_map(argument)]
        shape = static_shape(call)
        if not maps or shape is None or shape not in [self.shapes[var] for var in maps]:
            return None
        if any(self._rank(var) != len(shape) for var in maps):
            return None
        view = self._preferred(*maps)
        if view == "nchw":
            return None
        if view == "flat" and any(self.shapes[var] != self.shapes[maps[0]] for var in maps):
            view = "nhwc"  # an operand broadcast over the map, as in squeeze-and-excitation
        for var in maps:
            self._view(var, view)
        wide = [var for var in maps if self._shape(var)[1] > 1]
        uneven = len({self.channels[var] for var in wide}) > 1
        whole = np.dtype(str(call.ty.dtype)).kind in "iu"  # processors trap divisions of padding by padding
        if uneven or whole or len(wide) < len(maps):
            for var in maps:
                self._narrow(var)
        channels = max(self.channels[var] for var in maps)
        left, right = (self._operand(argument, len(shape), view, channels) for argument in call.args)
        if left is None or right is None:
            return None
        divisor = self._value(call.args[1])
        if call.op.name == "relax.divide" and divisor is not None and _inverts(divisor):
            # A vector division costs ten times a multiplication; hard-swish is full of division by 6.
            with np.errstate(divide="ignore"):  # padding
                return view, relax.op.multiply(left, constant_of(1 / right.value.numpy()))
        return view, relax.Call(call.op, [left, right], call.attrs, call.ty_args)

    def _operand(self, argument: relax.Expr, rank: int, view: str, channels: int) -> relax.Expr | None:
        """The operand in `view` of a binary operator on maps of so many axes, None if there is none.

        Constants with one value a channel are padded to `channels` with zeros.
        """
        value = self._value(argument)
        if value is None:
            return self._view(argument, view) if self._is_map(argument) else None
        if value.size == 1:
            return constant_of(value.reshape(()))
        if value.ndim > rank:
            return None
        lifted = value.reshape(_as_map((1,) * (rank - value.ndim) + value.shape))
        nhwc = np.ascontiguousarray(lifted.transpose(0, 2, 3, 1))
        if nhwc.shape[3] > 1:
            nhwc = np.pad(nhwc, [(0, 0)] * 3 + [(0, channels - nhwc.shape[3])])
        if view == "nhwc":
            return constant_of(nhwc)
        if nhwc.shape[:3] == (1, 1, 1):
            return constant_of(nhwc.reshape(1, -1))
        return None


def _as_map(shape: Shape) -> tuple[int, int, int, int]:
    """(N, C, H, W); without a height it is 1."""
    n, c, *h, w = shape
    return n, c, h[0] if h else 1, w


def _of_map(values: list[int]) -> list[int]:
    """A value for each of two axes, from those of one or two."""
    return values if len(values) == 2 else [1, *values]


def _padding(values: list[int]) -> list[int]:
    """(top, left, bottom, right)."""
    return values if len(values) == 4 else [0, values[0], 0, values[1]]


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


def _inverts(divisor: np.ndarray) -> bool:
    """Whether multiplying by the reciprocals is dividing but for rounding: all are normal numbers."""
    if divisor.dtype.kind != "f":
        return False
    with np.errstate(all="ignore"):
        reciprocal = np.abs(1 / divisor)
    limits = np.finfo(divisor.dtype)
    return bool(((reciprocal >= limits.tiny) & (reciprocal <= limits.max)).all())


def _zeros_to(weight: np.ndarray, out_channels: int) -> np.ndarray:
    """OIHW weights with zeros appended up to so many output channels."""
    return np.pad(weight, [(0, out_channels - weight.shape[0])] + [(0, 0)] * 3)

"""Convolutions and products of quantised feature maps as sums of integers.

What the importer gives computes in float between DequantizeLinear and QuantizeLinear. Here a sum over
(q - z) s_x times w s_w, q uint8 and w int8, becomes an int32 convolution or product of q and w, and s_x s_w
times that plus a constant for each channel, -z s_x s_w times the sum of its weights (Jacob et al., arXiv
1712.05877, section 2). Padding holds the zero point. A bias, and the scale of the QuantizeLinear behind a sum
or behind its relu, join the two constants. Everything that is left is elementwise, and TVM fuses it into the
kernel of the sum.

Where a processor multiplies signed bytes only, uint8 maps are stored as int8, 128 less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from ofa_tvm.compiler.constants import constant_of
from ofa_tvm.compiler.dataflow import Shape, bindings, is_straight, static_shape

_SUM_TYPE = "int32"
_SHIFT = 128  # between a map's uint8 and the int8 that it is stored as where bytes are signed
_SCALED = frozenset({"relax.add", "relax.subtract", "relax.multiply", "relax.quantize"})
_MOVES = frozenset(
    {"relax.reshape", "relax.permute_dims", "relax.squeeze", "relax.expand_dims", "relax.strided_slice"}
    | {"relax.flip", "relax.tile", "relax.concat", "relax.max", "relax.nn.max_pool2d"}
)  # what they make are values that they read


@dataclass(frozen=True)
class _Quantised:
    """Integers that stand for (values - zero) * scale.

    Attributes
    ----------
    values
        The integers.
    scale, zero
        Of the whole tensor.
    """

    values: relax.Expr
    scale: float
    zero: int


@dataclass(frozen=True)
class _Affine:
    """A float tensor that is `sums` * `scale` + `offset`, both broadcast over the sums' shape."""

    sums: relax.Expr
    scale: np.ndarray
    offset: np.ndarray


def integer_sums(mod: tvm.IRModule, *, signed: bool = False) -> tvm.IRModule:
    """The module with integer convolutions and products, and without quantize and dequantize.

    Parameters
    ----------
    mod
        As imported, NCHW. One without quantisation is returned as it is.
    signed
        Whether maps are stored as int8.
    """
    main = bindings(mod["main"])
    calls = [b.value for b in main if isinstance(b.value, relax.Call) and isinstance(b.value.op, tvm.ir.Op)]
    if not {call.op.name for call in calls} & {"relax.quantize", "relax.dequantize"}:
        return mod
    return _Rewriter(mod, signed).run() if is_straight(mod["main"]) else mod


class _Rewriter:
    """Walks `main` once; what a variable stands for is noted as it is made."""

    def __init__(self, mod: tvm.IRModule, signed: bool) -> None:
        self.signed = signed
        self.function = mod["main"]
        others = {var: function for var, function in mod.functions.items() if var.name_hint != "main"}
        self.bb = relax.BlockBuilder(tvm.IRModule(others))
        self.made: dict[relax.Var, relax.Expr] = {}  # of the imported variables
        self.quantised: dict[relax.Expr, _Quantised] = {}
        self.weights: dict[relax.Expr, tuple[np.ndarray, np.ndarray]] = {}  # int8 values, scales by channel
        self.affine: dict[relax.Expr, _Affine] = {}
        self.relu: dict[relax.Expr, _Affine] = {}
        self.constants: dict[relax.Expr, np.ndarray] = {}  # behind a reshape
        self.shifted: set[relax.Expr] = set()  # uint8 maps that are stored as int8

    def run(self) -> tvm.IRModule:
        function = self.function
        with self.bb.function("main", list(function.params), attrs=dict(function.attrs or {})):
            with self.bb.dataflow():
                for binding in bindings(function):
                    self.made[binding.var] = self._rewritten(binding.value)
                result = self.bb.emit_output(self._spelled_out(self._now(function.body.body)))
            self.bb.emit_func_output(result)
        return relax.transform.DeadCodeElimination(["main"])(self.bb.finalize())

    def _now(self, expr: relax.Expr) -> relax.Expr:
        """An operand in terms of what was made."""
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._now(field) for field in expr.fields])
        return self.made.get(expr, expr) if isinstance(expr, relax.Var) else expr

    def _rewritten(self, value: relax.Expr) -> relax.Expr:
        if isinstance(value, relax.TupleGetItem):
            return self._emit(relax.TupleGetItem(self._now(value.tuple_value), value.index))
        if not isinstance(value, relax.Call):
            now = self._spelled_out(self._now(value))
            return now if isinstance(now, relax.Var) else self._emit(now)
        arguments = [self._now(argument) for argument in value.args]
        call = relax.Call(value.op, arguments, value.attrs, value.ty_args)
        name = value.op.name if isinstance(value.op, tvm.ir.Op) else ""
        if name == "relax.dequantize":
            return self._dequantised(call, static_shape(value))
        affine = None
        if name == "relax.nn.conv2d":
            affine = self._convolution(call)
        elif name == "relax.matmul":
            affine = self._product(call)
        elif name == "relax.add":
            affine = self._shifted(call)
        if affine is not None:
            made = self._emit(self._of_affine(affine))
            self.affine[made] = affine
            return made
        if name == "relax.quantize":
            return self._quantised(call)
        if name in _MOVES and self._all_shifted(arguments[0]):
            made = self._emit(call)
            self.shifted.add(made)
            return made
        arguments = [self._spelled_out(argument) for argument in arguments]
        made = self._emit(relax.Call(value.op, arguments, value.attrs, value.ty_args))
        if name == "relax.nn.relu" and arguments[0] in self.affine:
            self.relu[made] = self.affine[arguments[0]]
        if name == "relax.reshape" and (constant := _value(arguments[0])) is not None:
            self.constants[made] = constant.reshape(static_shape(made) or (-1,))
        return made

    def _all_shifted(self, argument: relax.Expr) -> bool:
        fields = argument.fields if isinstance(argument, relax.Tuple) else [argument]
        return all(field in self.shifted for field in fields)

    def _spelled_out(self, argument: relax.Expr) -> relax.Expr:
        """A dequantised map in float operators: anew for each reader, into whose kernel they are fused."""
        if isinstance(argument, relax.Tuple):
            return relax.Tuple([self._spelled_out(field) for field in argument.fields])
        if argument in self.shifted:
            wide = self._emit(relax.op.astype(argument, "int32"))
            back = self._emit(relax.op.add(wide, constant_of(np.asarray(_SHIFT, np.int32))))
            return self._emit(relax.op.astype(back, "uint8"))
        found = self.quantised.get(argument) if isinstance(argument, relax.Var) else None
        return argument if found is None else self._emit(self._floats(found))

    def _emit(self, expr: relax.Expr) -> relax.Var:
        return self.bb.emit(expr)

    def _convolution(self, call: relax.Call) -> _Affine | None:
        data, weights = self._factors(call)
        attributes = call.attrs
        if data is None or weights is None or attributes.data_layout != "NCHW":
            return None
        values, scales = weights
        groups, channels = int(attributes.groups), (static_shape(data.values) or (0, 0))[1]
        depthwise = groups == channels == values.shape[0] and values.shape[1] == 1
        if (groups != 1 and not depthwise) or scales.size not in (1, values.shape[0]):
            return None
        padding, source = [int(v) for v in attributes.padding], data.values
        if any(padding) and data.zero:
            top, left, bottom, right = padding
            width = (0, 0, 0, 0, top, bottom, left, right)
            source = self._emit(relax.op.nn.pad(source, width, pad_value=float(data.zero)))
            padding = [0, 0, 0, 0]
        sums = relax.op.nn.conv2d(
            source,
            constant_of(values),
            strides=[int(v) for v in attributes.strides],
            padding=padding,
            dilation=[int(v) for v in attributes.dilation],
            groups=groups,
            data_layout="NCHW",
            kernel_layout="OIHW",
            out_dtype=_SUM_TYPE,
        )
        by_channel = values.reshape(values.shape[0], -1).sum(axis=1, dtype=np.int64).reshape(1, -1, 1, 1)
        return self._of_sums(sums, data, scales.reshape(-1, 1, 1)[None], by_channel)

    def _product(self, call: relax.Call) -> _Affine | None:
        data, weights = self._factors(call)
        if data is None or weights is None:
            return None
        values, scales = weights
        if values.ndim != 2 or scales.size not in (1, values.shape[1]):
            return None
        sums = relax.op.matmul(data.values, constant_of(values), out_dtype=_SUM_TYPE)
        return self._of_sums(sums, data, scales.reshape(1, -1), values.sum(axis=0, dtype=np.int64)[None])

    def _factors(self, call: relax.Call) -> tuple[_Quantised | None, tuple[np.ndarray, np.ndarray] | None]:
        left, right = call.args[:2]
        return self.quantised.get(left), self.weights.get(right)

    def _of_sums(
        self, sums: relax.Expr, data: _Quantised, scales: np.ndarray, by_channel: np.ndarray
    ) -> _Affine:
        scale = np.broadcast_to(data.scale * scales.astype(np.float64), by_channel.shape)
        return _Affine(self._emit(sums), scale, -data.zero * scale * by_channel)

    def _shifted(self, call: relax.Call) -> _Affine | None:
        """A bias, which joins the offset."""
        for term, other in (call.args, call.args[::-1]):
            found = self.affine.get(term)
            value = self._constant(other)
            if found is not None and value is not None and value.dtype.kind == "f":
                offset = found.offset + value
                if offset.ndim == found.offset.ndim and offset.size == found.offset.size:
                    return _Affine(found.sums, found.scale, offset)
        return None

    def _constant(self, expr: relax.Expr) -> np.ndarray | None:
        value = _value(expr)
        return self.constants.get(expr) if value is None else value

    def _of_affine(self, affine: _Affine) -> relax.Expr:
        """The affine function in float32 operators."""
        floats = self._emit(relax.op.astype(affine.sums, "float32"))
        scale, offset = (np.asarray(v, np.float32) for v in (affine.scale, affine.offset))
        return relax.op.add(self._emit(relax.op.multiply(floats, constant_of(scale))), constant_of(offset))

    def _floats(self, quantised: _Quantised) -> relax.Expr:
        floats = self._emit(relax.op.astype(quantised.values, "float32"))
        if quantised.zero:
            floats = self._emit(relax.op.subtract(floats, _scalar(quantised.zero)))
        return relax.op.multiply(floats, _scalar(quantised.scale))

    def _dequantised(self, call: relax.Call, shape: Shape | None) -> relax.Expr:
        """Note what it stands for; a map's floats are made where they are read, a constant's now."""
        data, (scale, zero) = call.args[0], (_value(argument) for argument in call.args[1:])
        if scale is None or zero is None:
            return self._emit(call)
        values, axis = _value(data), int(call.attrs.axis) % max(1, len(shape or ()))
        if values is None:
            made = self._emit(call)  # which is only read where nothing is known of it
            if scale.size == zero.size == 1:
                point = int(zero.reshape(())) - (_SHIFT if data in self.shifted else 0)
                self.quantised[made] = _Quantised(data, float(scale.reshape(())), point)
            return made
        scale, zero = (_along(v, values.ndim, axis) for v in (scale, zero))
        made = self._emit(constant_of(((values.astype(np.float64) - zero) * scale).astype(np.float32)))
        if values.dtype == np.int8 and not zero.any():
            self.weights[made] = values, scale
        return made

    def _quantised(self, call: relax.Call) -> relax.Expr:
        data, scale, zero = call.args[0], _value(call.args[1]), _value(call.args[2])
        dtype = str(call.attrs.out_dtype)
        if scale is None or zero is None or scale.size != 1 or zero.size != 1:
            arguments = [self._spelled_out(argument) for argument in call.args]
            return self._emit(relax.Call(call.op, arguments, call.attrs, call.ty_args))
        step, point = float(scale.reshape(())), int(zero.reshape(()))
        shifted = self.signed and dtype == "uint8"
        if shifted:
            dtype, point = "int8", point - _SHIFT
        made = self._of_step(data, step, point, dtype)
        if shifted:
            self.shifted.add(made)
        return made

    def _of_step(self, data: relax.Expr, step: float, point: int, dtype: str) -> relax.Expr:
        found = self.affine.get(data) or self.relu.get(data)
        if found is not None:
            scaled = self._emit(self._of_affine(_Affine(found.sums, found.scale / step, found.offset / step)))
            if data in self.relu:
                scaled = self._emit(relax.op.nn.relu(scaled))
        elif data in self.function.params:  # as exact as ONNX Runtime: its users may compare
            return self._emit(_rounded(data, step, point, dtype))
        else:
            scaled = self._emit(relax.op.multiply(self._spelled_out(data), _scalar(1 / step)))
        return self._emit(_rounded(scaled, 1.0, point, dtype))


def _rounded(data: relax.Expr, step: float, point: int, dtype: str) -> relax.Expr:
    zero = constant_of(np.asarray(point, dtype))
    return relax.op.quantize(data, _scalar(step), zero, axis=-1, out_dtype=dtype)


def _value(expr: relax.Expr) -> np.ndarray | None:
    return expr.value.numpy() if isinstance(expr, tvm.ir.GenericConst) else None


def _along(values: np.ndarray, rank: int, axis: int) -> np.ndarray:
    """One value, or one for each index of an axis, so that it broadcasts over a tensor."""
    shape = [1] * rank
    if values.size > 1:
        shape[axis] = values.size
    return values.reshape(shape)


def _scalar(value: float) -> relax.Expr:
    return constant_of(np.asarray(value, np.float32))


def scalars_as_parameters(mod: tvm.IRModule) -> tvm.IRModule:
    """The module with scales and zero points as parameters of its kernels.

    A scalar becomes part of a kernel's code. So each calibration would make kernels of its own, which no
    tuning log knows.

    Parameters
    ----------
    mod
        After layout. One without quantisation is returned as it is.
    """
    calls = [b.value for b in bindings(mod["main"]) if isinstance(b.value, relax.Call)]
    if not any(isinstance(call.op, tvm.ir.Op) and call.op.name == "relax.quantize" for call in calls):
        return mod
    mod = tvm.IRModule(dict(mod.functions))
    mod["main"] = _Parameters().visit_expr(mod["main"])
    return mod


@relax.expr_functor.mutator
class _Parameters(relax.PyExprMutator):
    """Gives scalars that are read by arithmetic an axis."""

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if not isinstance(call.op, tvm.ir.Op) or call.op.name not in _SCALED or not static_shape(call):
            return call  # of a scalar it would make an axis
        arguments = [self._with_axis(argument) for argument in call.args]
        return relax.Call(call.op, arguments, call.attrs, call.ty_args)

    @staticmethod
    def _with_axis(expr: relax.Expr) -> relax.Expr:
        value = _value(expr)
        if value is None or value.ndim or (value.dtype.kind == "f" and value == 1):  # a scale that is none
            return expr
        return constant_of(value.reshape(1))

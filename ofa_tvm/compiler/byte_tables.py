"""Functions of a quantised map's bytes as tables of their 256 values.

A hard-swish between a QuantizeLinear and the next is a dozen operators in float, though its argument is one
byte: it is computed once for each of them here, and looked up in the kernel. AVX512-VBMI has an instruction
for half of such a table, `vpermi2b` (Intel, Architectures Software Developer's Manual, volume 2), ARM one for
a quarter, `tbl` (Arm, A-profile A64 instruction set); elsewhere the operators cost less than loads of single
bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, te, tirx
from tvm.ir import Expr

from ofa_tvm.compiler.constants import constant_of
from ofa_tvm.compiler.dataflow import Shape, bindings, static_shape
from ofa_tvm.compiler.fusion import ELEMENTWISE, PATTERN, WITH_ELEMENTWISE
from ofa_tvm.compiler.rounding import quantized
from ofa_tvm.compiler.te_calls import call_te
from ofa_tvm.compiler.vectors import BYTES, lanes_of
from ofa_tvm.targets.tvm_target import cpu_features

REVISION = "tables-3"
"""Part of a cached object file's key: to be raised with every change of the code that this module makes."""

_QUANTIZE = "relax.quantize"
_VALUES = 256
_SOME = 127  # the largest number that all types of 8 bits have
_BYTES = 64  # in the register, or in the registers, that an instruction looks up in
_NEON_BYTES = 16  # that it looks up
_INTRINSIC = "llvm.x86.avx512.vpermi2var.qi.512"
_NEON_INTRINSICS = "llvm.aarch64.neon.tbl4.v16i8", "llvm.aarch64.neon.tbx4.v16i8"

_FUNCTIONS: Mapping[str, Callable[..., np.ndarray]] = {
    "relax.add": np.add,
    "relax.subtract": np.subtract,
    "relax.multiply": np.multiply,
    "relax.divide": np.divide,
    "relax.maximum": np.maximum,
    "relax.minimum": np.minimum,
    "relax.clip": np.clip,
    "relax.abs": np.abs,
    "relax.negative": np.negative,
    "relax.exp": np.exp,
    "relax.sqrt": np.sqrt,
    "relax.tanh": np.tanh,
    "relax.sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relax.nn.relu": lambda x: np.maximum(x, np.float32(0)),
}


@dataclass(frozen=True)
class _Function:
    """A map of floats that is a function of a map of bytes: its value for each, read as uint8; its shape."""

    of: relax.Var
    values: np.ndarray
    shape: Shape | None


def with_tables(mod: tvm.IRModule, *, lookups: bool) -> tvm.IRModule:
    """The module with averages of maps as sums of bytes, and functions of single bytes as tables.

    Parameters
    ----------
    mod
        After layout. One without quantisation is returned as it is.
    lookups
        Whether the target looks up bytes: functions from conversion to float to quantisation are tables then.
    """
    if not any(_name(binding.value) == _QUANTIZE for binding in bindings(mod["main"])):
        return mod
    tables = _Tables(mod, lookups)
    main = tables.visit_expr(mod["main"])
    result = tables.builder_.get()
    result["main"] = main
    return relax.transform.DeadCodeElimination(["main"])(result)


@relax.expr_functor.mutator
class _Tables(relax.PyExprMutator):
    """Follows what each variable is a function of."""

    def __init__(self, mod: tvm.IRModule, lookups: bool) -> None:
        super().__init__(mod)
        self.lookups = lookups
        self.functions: dict[relax.Var, _Function] = {}

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        value = binding.value
        average = self._average(value)
        if average is not None:
            binding = relax.VarBinding(binding.var, average)
        found = self._function(value)
        if found is not None and _name(value) == _QUANTIZE and self.lookups:
            table, source = constant_of(found.values), self._source(found)
            attributes = {PATTERN: ELEMENTWISE}
            value = call_te(self.builder_, _looked_up, source, table, name="lookup", attributes=attributes)
            binding = relax.VarBinding(binding.var, value)
        elif found is not None and _name(value) != _QUANTIZE:
            self.functions[binding.var] = found
        super().visit_var_binding_(binding)

    def _function(self, value: relax.Expr) -> _Function | None:
        """What a call makes, as a function of one map of bytes."""
        name = _name(value)
        if name == "relax.astype" and _dtype(value.args[0]) in BYTES and _dtype(value) == "float32":
            source = value.args[0]
            if not isinstance(source, relax.Var):
                return None
            return _Function(source, _numbers(_dtype(source)), static_shape(value))
        if name == "relax.reshape" and value.args[0] in self.functions:
            return replace(self.functions[value.args[0]], shape=static_shape(value))
        if name not in _FUNCTIONS and name != _QUANTIZE:
            return None
        known = [self.functions[argument] for argument in value.args if argument in self.functions]
        if not known or not all(other.of.same_as(known[0].of) for other in known):
            return None
        shape = static_shape(value)
        if any(function.shape != shape for function in known):
            return None
        arrays = []
        for argument in value.args:
            array = self.functions[argument].values if argument in self.functions else _scalar(argument)
            if array is None:
                return None
            arrays.append(array)
        with np.errstate(all="ignore"):
            if name == _QUANTIZE:
                data, scale, zero = arrays
                return replace(known[0], values=quantized(data, scale, zero, str(value.attrs.out_dtype)))
            return replace(known[0], values=_FUNCTIONS[name](*arrays).astype(np.float32))

    def _average(self, value: relax.Expr) -> relax.Expr | None:
        """The mean of a map's pixels by a sum of its bytes, where the map is an affine function of them."""
        if _name(value) != "relax.mean" or value.args[0] not in self.functions or not value.attrs.keepdims:
            return None
        function, shape = self.functions[value.args[0]], static_shape(value.args[0]) or ()
        axes = sorted(int(axis) % len(shape) for axis in value.attrs.axis or ())
        numbers, start = _numbers(_dtype(function.of)), function.values[0]
        slope = (function.values[_SOME] - start) / _SOME
        straight = start + slope * numbers
        if axes != [1, 2] or len(shape) != 4:
            return None
        if not np.allclose(function.values, straight, rtol=0, atol=abs(slope) / 64):
            return None
        source, scale = self._source(function), slope / (shape[1] * shape[2])
        sums = self.builder_.emit(self._summed(source))
        floats = self.builder_.emit(relax.op.astype(sums, "float32"))
        scaled = self.builder_.emit(relax.op.multiply(floats, constant_of(np.asarray(scale, np.float32))))
        return relax.op.add(scaled, constant_of(np.asarray(start, np.float32)))

    def _source(self, function: _Function) -> relax.Expr:
        """The bytes in the function's shape."""
        source = self.visit_expr(function.of)
        if function.shape in (None, static_shape(source)):
            return source
        return self.builder_.emit(relax.op.reshape(source, function.shape))

    def _summed(self, source: relax.Expr) -> relax.Expr:
        attributes = {PATTERN: WITH_ELEMENTWISE}
        return call_te(self.builder_, _summed, source, name="sum", attributes=attributes)


def _numbers(dtype: str) -> np.ndarray:
    """What each byte, read as uint8, stands for in a type of 8 bits."""
    return np.arange(_VALUES, dtype=np.uint8).view(dtype).astype(np.float32)


def _name(value: relax.Expr) -> str:
    return value.op.name if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op) else ""


def _dtype(expr: relax.Expr) -> str:
    return str(getattr(expr.ty, "dtype", ""))


def _scalar(expr: relax.Expr) -> np.ndarray | None:
    """A constant of one value."""
    if isinstance(expr, tirx.IntImm | tirx.FloatImm):
        return np.asarray(expr.value, np.float32)
    values = expr.value.numpy() if isinstance(expr, tvm.ir.GenericConst) else np.empty(0)
    return values.reshape(()) if values.size == 1 else None


def _summed(data: te.Tensor) -> te.Tensor:
    n, height, width, channels = data.shape
    y, x = te.reduce_axis((0, height), "y"), te.reduce_axis((0, width), "x")

    def value(b: tirx.Var, i: tirx.Var, j: tirx.Var, c: tirx.Var) -> Expr:
        return te.sum(data[b, y, x, c].astype("int32"), axis=[y, x])

    return te.compute((n, 1, 1, channels), value, name="summed")


def _looked_up(data: te.Tensor, table: te.Tensor) -> te.Tensor:
    def value(*at: tirx.Var) -> Expr:
        return table[data(*at).astype("uint8").astype("int32")]

    return te.compute(data.shape, value, name="looked_up")


def has_lookups(target: tvm.target.Target) -> bool:
    """Whether a CPU has instructions that look bytes up."""
    features = cpu_features(target)
    return "neon" in features or {"avx512vbmi", "avx512bw"} <= features


def with_lookups(function: tirx.PrimFunc, target: tvm.target.Target) -> tirx.PrimFunc:
    """A vectorized function for a CPU that looks bytes up by its instructions, where it has some.

    Parameters
    ----------
    function
        After vectorization.
    target
        What code is made for.
    """
    if not has_lookups(target):
        return function
    neon = "neon" in cpu_features(target)
    found, most = (_by_quarters, _NEON_BYTES) if neon else (_by_halves, _BYTES)

    def looked_up(load: tvm.ir.TensorLoad) -> Expr:
        index = load.indices[0]
        lanes = lanes_of(index)
        shape = [int(size) if isinstance(size, tirx.IntImm) else 0 for size in load.source.shape]
        bytes_ = str(load.source.dtype) in BYTES
        if not bytes_ or shape != [_VALUES] or isinstance(index, tirx.Ramp | tirx.Broadcast):
            return load
        if not 1 < lanes <= most or most % lanes:
            return load
        zeros = tirx.Broadcast(tirx.const(0, "uint8"), lanes)
        filled = [tirx.Cast(f"uint8x{lanes}", index)] + [zeros] * (most // lanes - 1)
        at = tirx.reinterpret(f"int8x{most}", tirx.Shuffle(filled, list(range(most))))
        result = tirx.Shuffle([found(load.source, at)], list(range(lanes)))
        return tirx.reinterpret(f"{load.source.dtype}x{lanes}", result)

    return function.with_body(tvm_ffi.structural_map(function.body, (tvm.ir.TensorLoad, looked_up)))


def _by_halves(table: tirx.Buffer, at: Expr) -> Expr:
    """Both halves of the table permuted by the indices, and of these the half in which each index lies."""
    quarters = [_vector(table, start, _BYTES) for start in range(0, _VALUES, _BYTES)]
    low, high = (
        tirx.call_llvm_pure_intrin(f"int8x{_BYTES}", _INTRINSIC, first, at, second)
        for first, second in (quarters[:2], quarters[2:])
    )
    return tirx.Select(at < tirx.Broadcast(tirx.const(0, "int8"), _BYTES), high, low)


def _by_quarters(table: tirx.Buffer, at: Expr) -> Expr:
    """Quarter by quarter; an index beyond one leaves what is there."""
    dtype = f"int8x{_NEON_BYTES}"
    found: list[Expr] = []
    first, later = _NEON_INTRINSICS
    for start in range(0, _VALUES, _BYTES):
        registers = [_vector(table, start + i, _NEON_BYTES) for i in range(0, _BYTES, _NEON_BYTES)]
        index = at - tirx.Broadcast(tirx.const(start - (_VALUES if start >= 128 else 0), "int8"), _NEON_BYTES)
        name = later if found else first
        found = [tirx.call_llvm_pure_intrin(dtype, name, *found, *registers, index)]
    return found[0]


def _vector(table: tirx.Buffer, start: int, lanes: int) -> Expr:
    load = tirx.BufferLoad(table, [tirx.Ramp(start, tirx.const(1, "int32"), lanes)])
    return tirx.reinterpret(f"int8x{lanes}", load)

"""From a Relax graph to fused kernels: own operator definitions, TVM's fusion."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, te, tirx, topi

from ofa_tvm.compiler import normalisation
from ofa_tvm.compiler.arg_extrema import legal_arg_extremum
from ofa_tvm.compiler.convolutions import convolution, depthwise, grouped
from ofa_tvm.compiler.dataflow import bindings, static_shape
from ofa_tvm.compiler.depthwise_kernels import depthwise_of_pairs
from ofa_tvm.compiler.dot_kernels import integer_product
from ofa_tvm.compiler.elementary import FUNCTIONS
from ofa_tvm.compiler.fusion import INJECTIVE, OPAQUE, fused_as_stated
from ofa_tvm.compiler.products import ProductForm, batched_product, packed_product, packs
from ofa_tvm.compiler.rounding import legal_quantize
from ofa_tvm.compiler.te_calls import call_te, elementwise_legalizers
from ofa_tvm.compiler.templates import templates_of
from ofa_tvm.compiler.vectors import BYTES

_CALL_TIR = tvm.ir.Op.get("relax.call_tir")
_LARGEST = 64  # operators that are inlined into one expression


def lower(mod: tvm.IRModule, target: tvm.target.Target, dtype: str = "float32") -> tvm.IRModule:
    """Legalize and fuse: afterwards `main` only calls kernels (PrimFuncs) and reshapes, which are views.

    `dtype` is that of weights and feature maps.
    """
    templates = templates_of(target)
    form = templates.products(dtype)
    own = elementwise_legalizers() | {
        "relax.nn.conv2d": partial(_conv2d, form),
        "relax.matmul": partial(_matmul, form),
        "relax.quantize": legal_quantize,
        "relax.take": _take,
    }
    if form.lanes:
        own |= dict.fromkeys(("relax.argmax", "relax.argmin"), legal_arg_extremum)
        own |= normalisation.legalizers(templates.lanes() or form.lanes)
    passes = tvm.transform.Sequential(
        [
            relax.backend.DispatchSortScan(),  # TopK, CumSum and such have no legalization
            relax.transform.LegalizeOps(own, skip_ops=["relax.reshape"]),
            relax.transform.AnnotateTIROpPattern(),
            fused_as_stated,
            *([_small_kernels] if form.lanes else []),
            relax.transform.DeadCodeElimination(["main"]),  # FuseOps warns of dead code on stderr
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            relax.transform.DeadCodeElimination(["main"]),
        ]
    )
    with target:
        return passes(mod)


@tvm.transform.module_pass(opt_level=0)
def _small_kernels(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
    """Keep kernels from growing beyond measure where elementwise operators are inlined into each other.

    A function such as exp becomes some twenty expressions that share values (`elementary`). A function of a
    function would take LLVM's code generator time that grows with their product: 38 s for a sigmoid of a
    sigmoid. And what reads a value twice holds its expression twice: ten maxima of x^2 and x + y, each of the
    one before, would be 3^10 expressions. Such operators become kernels of their own.
    """
    inlined: dict[relax.Var, _Inlined] = {}
    apart: dict[tvm.ir.GlobalVar, tvm.ir.GlobalVar] = {}
    separate: dict[relax.Var, tvm.ir.GlobalVar] = {}
    result = tvm.IRModule(dict(mod.functions))
    for binding in bindings(mod["main"]):
        value = binding.value
        kernel = value.args[0] if isinstance(value, relax.Call) and value.op == _CALL_TIR else None
        known = [inlined.get(v, _NOTHING) for v in _operands(value) if isinstance(v, relax.Var)]
        fed, size = any(made.by_function for made in known), 1 + sum(made.size for made in known)
        if kernel is None:
            inlined[binding.var] = _Inlined(fed, size)
            continue
        if int(mod[kernel].attrs["op_pattern"]) > INJECTIVE:
            continue  # its result is in memory
        calls = _calls_function(mod[kernel])
        if (fed and calls) or size > _LARGEST:
            if kernel not in apart:
                apart[kernel] = tvm.ir.GlobalVar(f"{kernel.name_hint}_apart")
                relax.expr._update_type(apart[kernel], kernel.ty)
                result[apart[kernel]] = mod[kernel].with_attr("op_pattern", OPAQUE)
            separate[binding.var] = apart[kernel]
        else:
            inlined[binding.var] = _Inlined(fed or calls, size)
    if separate:
        result["main"] = _Renamed(separate).visit_expr(mod["main"])
    return result.with_attrs(mod.attrs) if mod.attrs else result


@dataclass(frozen=True)
class _Inlined:
    """What a value is within the kernel that reads it: made by a function or not, of how many operators."""

    by_function: bool
    size: int


_NOTHING = _Inlined(False, 0)


@relax.expr_functor.mutator
class _Renamed(relax.PyExprMutator):
    """Calls other kernels for the given values."""

    def __init__(self, kernels: Mapping[relax.Var, tvm.ir.GlobalVar]) -> None:
        super().__init__()
        self.kernels = kernels

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        if binding.var in self.kernels:
            call = binding.value
            other = relax.Call(call.op, [self.kernels[binding.var], *call.args[1:]], call.attrs, call.ty_args)
            binding = relax.VarBinding(binding.var, other)
        super().visit_var_binding_(binding)


def _operands(value: relax.Expr) -> list[relax.Expr]:
    if isinstance(value, relax.TupleGetItem):
        return [value.tuple_value]
    if isinstance(value, relax.Tuple):
        return list(value.fields)
    if isinstance(value, relax.Call):
        return [f for a in value.args for f in (a.fields if isinstance(a, relax.Tuple) else [a])]
    return [value]


def _calls_function(kernel: tirx.PrimFunc) -> bool:
    found = []
    tvm_ffi.structural_walk(
        kernel.body, (tvm.ir.Call, lambda call: found.append(getattr(call.op, "name", "")))
    )
    return any(name.removeprefix("tirx.") in FUNCTIONS for name in found)


def _matmul(form: ProductForm, bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """On a CPU products with constant matrices on packed panels, and others of whole tiles; else TVM's."""
    left, right, lanes = call.args[0], call.args[1], form.lanes
    left_shape, right_shape, shape = static_shape(left), static_shape(right), static_shape(call)
    dtype, out_dtype = str(left.ty.dtype), str(call.attrs.out_dtype or left.ty.dtype)
    matrix = right.value.numpy() if isinstance(right, tvm.ir.GenericConst) else None
    ours = dtype.startswith("float") and out_dtype == ("float32" if dtype == "float16" else dtype)
    of_bytes = matrix is not None and matrix.ndim == 2 and matrix.dtype == np.int8 and dtype in BYTES
    if lanes and matrix is not None and of_bytes and len(left_shape or ()) > 1:
        return integer_product(bb, left, matrix, form)
    if lanes and ours and left_shape and right_shape and shape and len(left_shape) > 1:
        several = math.prod(shape[:-1]) > 1
        if matrix is not None and (packs(matrix, lanes) or (several and _is_wide(matrix, lanes))):
            return _widened(bb, packed_product(bb, left, matrix, form), out_dtype)
        if several and len(right_shape) > 1:
            return batched_product(bb, left, right, shape, lanes)
    return relax.transform.legalize_ops.linear_algebra._matmul(bb, call)


def _widened(bb: relax.BlockBuilder, sums: relax.Expr, dtype: str) -> relax.Expr:
    made = bb.normalize(sums)
    return made if str(made.ty.dtype) == dtype else call_te(bb, topi.cast, bb.emit(made), dtype)


def _is_wide(matrix: np.ndarray, lanes: int) -> bool:
    return matrix.ndim == 2 and 2 * matrix.shape[1] > lanes


def _take(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Gathering whose indices stay inside: constant ones are known to, computed ones are cut to the edges.

    TVM's own definition reads wherever an index points, and warns of it each time.
    """
    data, indices = call.args
    shape = static_shape(data)
    if call.attrs.axis is None or shape is None or static_shape(indices) is None:
        return relax.transform.legalize_ops.index._take(bb, call)
    axis = int(call.attrs.axis) % len(shape)
    inside = False
    if isinstance(indices, tvm.ir.GenericConst):
        values = indices.value.numpy()
        inside = bool(((values >= 0) & (values < shape[axis])).all())
    return call_te(bb, _gathered, data, indices, axis, inside, name="take")


def _gathered(data: te.Tensor, indices: te.Tensor, axis: int, inside: bool) -> te.Tensor:
    def element(*i: tirx.Var) -> tirx.Expr:
        index = indices[i[axis : axis + len(indices.shape)]]
        if not inside:
            index = tirx.max(tirx.min(index, data.shape[axis] - 1), tirx.const(0, indices.dtype))
        return data[(*i[:axis], index, *i[axis + len(indices.shape) :])]

    shape = [*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]]
    return te.compute(shape, element, name="take")


def _conv2d(form: ProductForm, bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """NHWC convolutions by our definitions, but for some dense ones (GPUs, computed weights): by TVM's."""
    attributes = call.attrs
    shape, dtype = static_shape(call.args[0]), str(call.args[0].ty.dtype)
    window = (
        [int(v) for v in attributes.strides],
        [int(v) for v in attributes.padding],
        [int(v) for v in attributes.dilation],
    )
    weight = call.args[1].value.numpy() if isinstance(call.args[1], tvm.ir.GenericConst) else None
    in_float32 = dtype == "float16" and str(attributes.out_dtype) == "float32"
    dense = attributes.data_layout == "NHWC" and int(attributes.groups) == 1
    if form.lanes and dense and weight is not None and (in_float32 or dtype == "float32"):
        sums = convolution(bb, call.args[0], weight, *window, form)
        return _widened(bb, sums, "float32")
    by_channel = (
        attributes.data_layout == "NHWC"
        and shape is not None
        and int(attributes.groups) == shape[3]
        and (static_shape(call.args[1]) or ())[2:] == (1, shape[3])
    )
    by_group = (
        attributes.data_layout == "NHWC"
        and shape is not None
        and int(attributes.groups) > 1
        and (static_shape(call.args[1]) or ())[2:3] != (1,)
    )
    if not by_channel and not by_group:
        return relax.transform.legalize_ops.nn._nn_conv2d(bb, call)
    out_dtype = str(attributes.out_dtype or dtype)
    of_pairs = form.in_pairs and form.pair_dots and dtype == "float32"
    if by_channel and of_pairs and weight is not None:
        return depthwise_of_pairs(bb, call.args[0], weight, *window)
    if by_channel:
        name = "depthwise_conv2d"
        return call_te(bb, depthwise, *call.args, *window, out_dtype, name=name)
    groups = int(attributes.groups)
    return call_te(bb, grouped, *call.args, groups, *window, out_dtype, name="conv2d")

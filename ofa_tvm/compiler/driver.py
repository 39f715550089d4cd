"""A network's kernels called one after the other by generated C, with a static memory plan.

TVM's virtual machine spends about 0.3 us on every kernel, tensor, view and release: a quarter of a small
network's latency, a few percent of a large one's. Where a lowered network is a straight line of kernels on
static shapes (every ONNX model without control flow is), its `main` becomes one function in C: the sequence
of calls, each on tensors whose place in one workspace was planned here. Its weights are a section of the
library, in the order of their use; see `driver.h` for what becomes of them in memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from ofa_tvm.compiler.dataflow import bindings, static_shape_of
from ofa_tvm.compiler.driver_source import driver_source
from ofa_tvm.compiler.memory_plan import Placed, Plan, Storage, place
from ofa_tvm.compiler.objects import ScheduledKernel


@dataclass(frozen=True)
class Driver:
    """The C function, and what the virtual machine has to hand it.

    Parameters
    ----------
    source
        C (also valid C++) source that defines the packed function `network`: inputs, then outputs.
    weights
        What its symbol `network_weights` stands for.
    outputs
        Types of its outputs.
    tuple_result
        Whether the network returns a tuple.
    calls
        Symbols of the kernels in order of execution.
    """

    source: str
    weights: bytes
    outputs: tuple[relax.TensorType, ...]
    tuple_result: bool
    calls: tuple[str, ...]


def make_driver(
    mod: tvm.IRModule, scheduled: dict[str, ScheduledKernel], *, profile: bool = False
) -> Driver | None:
    """Driver of a lowered module's `main`, or None if it is more than a straight line of kernels.

    Parameters
    ----------
    mod
        A lowered module.
    scheduled
        Its kernels by the names under which `main` calls them.
    profile
        Time every call as well: the packed function `kernel_seconds` then writes the seconds that each call
        took since it was last asked into a float64 tensor (calls,).
    """
    function = mod["main"]
    plan = Plan()
    for index, param in enumerate(function.params):
        if static_shape_of(param.ty) is None:
            return None
        plan.values[param] = (Storage(_bytes(param.ty), argument=index), param.ty)
    for binding in bindings(function):
        if not _step(plan, binding, scheduled):
            return None
    result = function.body.body
    is_tuple = isinstance(result, relax.Tuple) or result in plan.tuples
    outputs = _fields(plan, result if is_tuple else relax.Tuple([result]))
    if not outputs:
        return None
    own = [storage for storage, _ in outputs]
    if any(not s.computed for s in own) or len({id(s) for s in own}) < len(own):
        return None  # an input, a constant or one tensor twice is handed out: the virtual machine copies
    for index, storage in enumerate(own):
        storage.argument = len(function.params) + index
    size = place([s for s in plan.storages if s.computed])
    weights = plan.weights.content()
    return Driver(
        source=driver_source(plan, len(weights), size, profile=profile),
        weights=weights,
        outputs=tuple(ty for _, ty in outputs),
        tuple_result=is_tuple,
        calls=tuple(symbol for symbol, _ in plan.steps),
    )


def _bytes(ty: relax.TensorType) -> int:
    return math.prod(static_shape_of(ty) or ()) * np.dtype(str(ty.dtype)).itemsize


def _step(plan: Plan, binding: relax.Binding, scheduled: dict[str, ScheduledKernel]) -> bool:
    """Take one binding into the plan; False if it is something else than a kernel, a view or an alias."""
    var, value = binding.var, getattr(binding, "value", None)
    if isinstance(value, relax.Var) and value in plan.values:
        plan.values[var] = plan.values[value]
        return True
    if isinstance(value, relax.Tuple):
        fields = _fields(plan, value)
        if fields is not None:
            plan.tuples[var] = fields
        return fields is not None
    if isinstance(value, relax.TupleGetItem) and value.tuple_value in plan.tuples:
        plan.values[var] = plan.tuples[value.tuple_value][value.index]
        return True
    if not isinstance(value, relax.Call):
        return False
    if value.op == tvm.ir.Op.get("relax.reshape"):
        source = value.args[0]
        if source not in plan.values or static_shape_of(var.ty) is None:
            return False
        plan.values[var] = (plan.values[source][0], var.ty)
        return True
    if value.op != tvm.ir.Op.get("relax.call_tir") or len(value.args) > 2:
        return False
    now = len(plan.steps)
    arguments = [_argument(plan, argument, now) for argument in value.args[1].fields]
    (result,) = value.ty_args
    types = list(result.fields) if isinstance(result, relax.TupleType) else [result]
    if any(argument is None for argument in arguments) or any(static_shape_of(ty) is None for ty in types):
        return False
    made = [(Storage(_bytes(ty), first=now, last=now), ty) for ty in types]
    plan.storages += [storage for storage, _ in made]
    if isinstance(result, relax.TupleType):
        plan.tuples[var] = made
    else:
        plan.values[var] = made[0]
    known = [argument for argument in arguments if argument is not None]
    plan.steps.append((scheduled[value.args[0].name_hint].symbol, [*known, *made]))
    return True


def _fields(plan: Plan, expr: relax.Expr) -> list[Placed] | None:
    """Where the parts of a tuple lie; None if one of them is no tensor that lies anywhere yet."""
    if expr in plan.tuples:
        return plan.tuples[expr]
    if all(isinstance(field, relax.Var) and field in plan.values for field in expr.fields):
        return [plan.values[field] for field in expr.fields]
    return None


def _argument(plan: Plan, expr: relax.Expr, now: int) -> Placed | None:
    if isinstance(expr, relax.Var):
        known = plan.values.get(expr)
        if known is not None:
            known[0].last = max(known[0].last, now)
        return known
    if not isinstance(expr, tvm.ir.GenericConst):
        return None
    return Storage(_bytes(expr.ty), weight=plan.weights.place(expr.value.numpy())), expr.ty

"""A network's kernels called one after the other by generated C, with a static memory plan.

TVM's virtual machine spends about 0.3 us on every kernel, tensor, view and release: a quarter of a small
network's latency, a few percent of a large one's. Where a lowered network is a straight line of kernels on
static shapes (every ONNX model without control flow is), its `main` becomes one function in C: the sequence
of calls, each on tensors whose place in one workspace was planned here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import tvm
from tvm import relax

from ofa_tvm.compiler.dataflow import bindings, static_shape_of
from ofa_tvm.compiler.objects import ScheduledKernel
from ofa_tvm.measurement.profile import TIMES

SYMBOL = "network"
_ALIGNMENT = 128  # bytes; kernels assume 64, and two cache lines are fetched together

_PRELUDE = """\
#include <stdint.h>
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif
typedef struct { int32_t type, id; } Device;
typedef struct { uint8_t code, bits; uint16_t lanes; } DType;
/* DLTensor of DLPack */
typedef struct {
  void *data; Device device; int32_t ndim; DType dtype; int64_t *shape, *strides; uint64_t byte_offset;
} Tensor;
/* TVMFFIAny; a tensor object is a 24-byte header followed by its DLTensor */
typedef struct { int32_t kind; uint32_t padding; union { int64_t i; void *p; } value; } Any;
enum { TENSOR_POINTER = 7, HEADER = 24 };
void *TVMBackendAllocWorkspace(int, int, uint64_t, int, int);
int TVMBackendFreeWorkspace(int, int, void *);
static Tensor *tensor_of(const Any *a) {
  return (Tensor *)(a->kind == TENSOR_POINTER ? a->value.p : (void *)((char *)a->value.p + HEADER));
}
static void view(Tensor *t, void *data, uint64_t offset, const int64_t *dims, int32_t ndim, DType dtype) {
  t->data = data; t->device.type = 1; t->device.id = 0; t->ndim = ndim; t->dtype = dtype;
  t->shape = (int64_t *)dims; t->strides = (int64_t *)dims + ndim; t->byte_offset = offset;
}
static void pointer(Any *a, Tensor *t) { a->kind = TENSOR_POINTER; a->padding = 0; a->value.p = t; }
"""
_CLOCK = """\
#include <time.h>
static double seconds[STEPS];
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
"""
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}  # DLPack's type codes by numpy's kind


@dataclass(frozen=True)
class Driver:
    """The C function, and what the virtual machine has to hand it.

    Parameters
    ----------
    source
        C (also valid C++) source that defines the packed function `network`: inputs, constants, outputs.
    constants
        The constants, in the order of its arguments.
    outputs
        Types of its outputs.
    tuple_result
        Whether the network returns a tuple.
    calls
        Symbols of the kernels in order of execution.
    """

    source: str
    constants: tuple[relax.Expr, ...]
    outputs: tuple[relax.TensorType, ...]
    tuple_result: bool
    calls: tuple[str, ...]


@dataclass
class _Storage:
    """Memory of one tensor: an argument of the function, or a piece of the workspace alive for some steps."""

    bytes: int
    argument: int | None = None
    first: int = 0
    last: int = 0
    offset: int = 0


@dataclass
class _Plan:
    inputs: int
    values: dict[relax.Var, tuple[_Storage, relax.TensorType]] = field(default_factory=dict)
    tuples: dict[relax.Var, list[tuple[_Storage, relax.TensorType]]] = field(default_factory=dict)
    constants: list[relax.Expr] = field(default_factory=list)
    steps: list[tuple[str, list[tuple[_Storage, relax.TensorType]]]] = field(default_factory=list)
    storages: list[_Storage] = field(default_factory=list)


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
    plan = _Plan(inputs=len(function.params))
    for index, param in enumerate(function.params):
        if static_shape_of(param.ty) is None:
            return None
        plan.values[param] = (_Storage(_bytes(param.ty), argument=index), param.ty)
    for binding in bindings(function):
        if not _step(plan, binding, scheduled):
            return None
    result = function.body.body
    fields = list(result.fields) if isinstance(result, relax.Tuple) else [result]
    if not fields or any(f not in plan.values for f in fields):
        return None
    outputs = [plan.values[f] for f in fields]
    own = [storage for storage, _ in outputs]
    if any(s.argument is not None for s in own) or len({id(s) for s in own}) < len(own):
        return None  # an input, a constant or one tensor twice is handed out: the virtual machine copies
    first_output = len(function.params) + len(plan.constants)
    for index, storage in enumerate(own):
        storage.argument = first_output + index
    size = _place([s for s in plan.storages if s.argument is None])
    return Driver(
        source=_emit(plan, size, profile),
        constants=tuple(plan.constants),
        outputs=tuple(ty for _, ty in outputs),
        tuple_result=isinstance(result, relax.Tuple),
        calls=tuple(symbol for symbol, _ in plan.steps),
    )


def _bytes(ty: relax.TensorType) -> int:
    return math.prod(static_shape_of(ty) or ()) * np.dtype(str(ty.dtype)).itemsize


def _step(plan: _Plan, binding: relax.Binding, scheduled: dict[str, ScheduledKernel]) -> bool:
    """Take one binding into the plan; False if it is something else than a kernel, a view or an alias."""
    var, value = binding.var, getattr(binding, "value", None)
    if isinstance(value, relax.Var) and value in plan.values:
        plan.values[var] = plan.values[value]
        return True
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
    made = [(_Storage(_bytes(ty), first=now, last=now), ty) for ty in types]
    plan.storages += [storage for storage, _ in made]
    if isinstance(result, relax.TupleType):
        plan.tuples[var] = made
    else:
        plan.values[var] = made[0]
    known = [argument for argument in arguments if argument is not None]
    plan.steps.append((scheduled[value.args[0].name_hint].symbol, [*known, *made]))
    return True


def _argument(plan: _Plan, expr: relax.Expr, now: int) -> tuple[_Storage, relax.TensorType] | None:
    if isinstance(expr, relax.Var):
        known = plan.values.get(expr)
        if known is not None:
            known[0].last = max(known[0].last, now)
        return known
    if not isinstance(expr, tvm.ir.GenericConst):
        return None
    storage = _Storage(_bytes(expr.ty), argument=plan.inputs + len(plan.constants))
    plan.constants.append(expr)
    return storage, expr.ty


def _place(storages: list[_Storage]) -> int:
    """Set offsets so that pieces alive at the same step do not overlap; returns the bytes of all.

    Largest first, each at the lowest free place.
    """
    placed: list[_Storage] = []
    for storage in sorted(storages, key=lambda s: -s.bytes):
        offset = 0
        rivals = [o for o in placed if o.first <= storage.last and storage.first <= o.last]
        for other in sorted(rivals, key=lambda s: s.offset):
            if offset + storage.bytes <= other.offset:
                break
            offset = max(offset, -(-(other.offset + other.bytes) // _ALIGNMENT) * _ALIGNMENT)
        storage.offset = offset
        placed.append(storage)
    return max((s.offset + s.bytes for s in storages), default=0)


def _emit(plan: _Plan, size: int, profile: bool) -> str:
    shapes: dict[tuple[int, ...], str] = {}
    views: dict[tuple[int, tuple[int, ...], str], int] = {}
    setup: list[str] = []
    calls: list[str] = []
    symbols: dict[str, None] = {}
    for step, (symbol, arguments) in enumerate(plan.steps):
        symbols.setdefault(symbol)
        fill = []
        for position, (storage, ty) in enumerate(arguments):
            dims = static_shape_of(ty) or ()
            key = (id(storage), dims, str(ty.dtype))
            if key not in views:
                views[key] = len(views)
                name = shapes.setdefault(dims, f"d{len(shapes)}")
                if storage.argument is None:
                    where = f"w + {storage.offset}, 0"
                else:
                    source = f"tensor_of(args + {storage.argument})"
                    where = f"{source}->data, {source}->byte_offset"
                setup.append(
                    f"  view(t + {views[key]}, {where}, {name}, {len(dims)}, {_dtype(str(ty.dtype))});"
                )
            fill.append(f"pointer(a + {position}, t + {views[key]});")
        if profile:
            fill.append(
                f"begin = now(); seconds[{step}] -= begin;" if step == 0 else f"seconds[{step}] -= begin;"
            )
        calls.append(
            f"  {' '.join(fill)}\n  if ((code = __tvm_ffi_{symbol}(0, a, {len(arguments)}, &none))) goto end;"
        )
        if profile:
            calls.append(f"  begin = now(); seconds[{step}] += begin;")
    types = sorted({str(ty.dtype) for _, arguments in plan.steps for _, ty in arguments})
    most = max((len(arguments) for _, arguments in plan.steps), default=1)
    lines = [
        _PRELUDE,
        *([_CLOCK.replace("STEPS", str(max(1, len(plan.steps))))] if profile else ()),
        *(f"int32_t __tvm_ffi_{symbol}(void *, const Any *, int32_t, Any *);" for symbol in symbols),
        *(f"static const DType {_dtype(name)} = {{{_dtype_fields(name)}}};" for name in types),
        *(f"static const int64_t {name}[] = {{{_dims(dims)}}};" for dims, name in shapes.items()),
        f"int32_t __tvm_ffi_{SYMBOL}(void *self, const Any *args, int32_t count, Any *result) {{",
        f"  Tensor t[{max(1, len(views))}];",
        f"  Any a[{most}], none;",
        "  int32_t code = 0;",
        *(["  double begin;"] if profile else ()),
        f"  char *w = (char *)TVMBackendAllocWorkspace(1, 0, {max(size, 1)}, 2, 32);",
        "  (void)self; (void)count; (void)result;",
        "  if (!w) return -1;",
        "  none.kind = 0; none.padding = 0; none.value.i = 0;",
        *setup,
        *calls,
        "end:",
        "  TVMBackendFreeWorkspace(1, 0, w);",
        "  return code;",
        "}",
        *(_times_function(len(plan.steps)) if profile else ()),
        "#ifdef __cplusplus",
        "}",
        "#endif",
        "",
    ]
    return "\n".join(lines)


def _times_function(steps: int) -> list[str]:
    return [
        f"int32_t __tvm_ffi_{TIMES}(void *self, const Any *args, int32_t count, Any *result) {{",
        "  double *out = (double *)tensor_of(args)->data;",
        f"  for (int i = 0; i < {steps}; ++i) {{ out[i] = seconds[i]; seconds[i] = 0; }}",
        "  (void)self; (void)count; (void)result;",
        "  return 0;",
        "}",
    ]


def _dims(dims: tuple[int, ...]) -> str:
    """Extents, then the strides of a compact tensor."""
    strides = [math.prod(dims[i + 1 :]) for i in range(len(dims))]
    return ", ".join(map(str, [*dims, *strides])) or "0"


def _dtype(name: str) -> str:
    return f"type_{name}"


def _dtype_fields(name: str) -> str:
    dtype = np.dtype(name)
    return f"{_CODES[dtype.kind]}, {8 * dtype.itemsize}, 1"

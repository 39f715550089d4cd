"""A driver as C source: tables of a network's kernel calls between `driver.h` and `driver.c`."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ofa_tvm.compiler.dataflow import static_shape_of
from ofa_tvm.compiler.memory_plan import Plan, Storage
from ofa_tvm.measurement.profile import TIMES

SYMBOL = "network"
_BEGIN, _END = (Path(__file__).with_name(f"driver.{kind}") for kind in "hc")
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}  # DLPack's type codes by numpy's kind


def driver_source(plan: Plan, weight_bytes: int, workspace_bytes: int, *, profile: bool) -> str:
    """C (also valid C++) source of the packed function `network`: inputs, then outputs.

    Parameters
    ----------
    plan
        What is called on what.
    weight_bytes, workspace_bytes
        Sizes of both.
    profile
        Define `kernel_seconds` as well.
    """
    shapes: dict[tuple[int, ...], str] = {}
    operands = []
    for _, arguments in plan.steps:
        for storage, ty in arguments:
            dims = static_shape_of(ty) or ()
            name = shapes.setdefault(dims, f"d{len(shapes)}")
            place, offset = _place(storage)
            operands.append(f"{{{offset}, {name}, {len(dims)}, {place}, {{{_dtype(str(ty.dtype))}}}}}")
    symbols = dict.fromkeys(symbol for symbol, _ in plan.steps)
    steps = [f"{{__tvm_ffi_{symbol}, {len(arguments)}}}" for symbol, arguments in plan.steps]
    lines = [
        f"#define WEIGHT_BYTES {weight_bytes}",
        f"#define WORKSPACE_BYTES {max(workspace_bytes, 1)}",
        f"#define STEPS {len(steps)}",
        f"#define MOST {max((len(arguments) for _, arguments in plan.steps), default=1)}",
        f"#define NETWORK __tvm_ffi_{SYMBOL}",
        *([f"#define PROFILE __tvm_ffi_{TIMES}"] if profile else ()),
        _BEGIN.read_text(),
        *(f"Kernel __tvm_ffi_{symbol};" for symbol in symbols),
        *(f"static const int64_t {name}[] = {{{_dims(dims)}}};" for dims, name in shapes.items()),
        f"static const Operand operands[] = {{{', '.join(operands) or '{0}'}}};",
        f"static const Step steps[] = {{{', '.join(steps) or '{0}'}}};",
        _END.read_text(),
    ]
    return "\n".join(lines)


def _place(storage: Storage) -> tuple[str, int]:
    """Where a tensor lies, as `driver.h` says it."""
    if storage.weight is not None:
        return "WEIGHTS", storage.weight
    return ("WORKSPACE", storage.offset) if storage.argument is None else (str(storage.argument), 0)


def _dims(dims: tuple[int, ...]) -> str:
    """Extents, then the strides of a compact tensor."""
    strides = [math.prod(dims[i + 1 :]) for i in range(len(dims))]
    return ", ".join(map(str, [*dims, *strides])) or "0"


def _dtype(name: str) -> str:
    if name == "bfloat16":  # which numpy knows by a package of its own, as a kind without a name
        return "4, 16, 1"
    dtype = np.dtype(name)
    return f"{_CODES[dtype.kind]}, {8 * dtype.itemsize}, 1"

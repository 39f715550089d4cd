"""How a kernel of a network is scheduled: as its best record says, else as the template proposes.

Of CPU kernels it is kept which object a choice led to: scheduling them takes half of the time of a network
whose objects are all there.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import astuple
from functools import cache
from pathlib import Path
from typing import Any

import tvm
from tvm.s_tir import Schedule

from ofa_tvm.compiler.kernels import Kernel
from ofa_tvm.compiler.network import KernelUse, Origin
from ofa_tvm.compiler.objects import ScheduledKernel, code_key, objects_folder, scheduled_kernel
from ofa_tvm.compiler.templates import templates_of
from ofa_tvm.compiler.toolchain import on_cpu
from ofa_tvm.compiler.traces import scheduled_by_trace
from ofa_tvm.compiler.transfer import Transfer
from ofa_tvm.errors import UserError
from ofa_tvm.files import read_sealed, write_sealed
from ofa_tvm.logs import KernelTable, Record
from ofa_tvm.sources import sources_digest

_SOURCES = ("compiler", "targets", "number_formats.py")  # by which schedules are made
_PACKAGES = ("apache-tvm",)


def choose(
    kernel: Kernel, table: KernelTable, transfer: Transfer, target: tvm.target.Target
) -> tuple[ScheduledKernel, KernelUse]:
    """A kernel with its schedule, and how it got it.

    Parameters
    ----------
    kernel
        The kernel.
    table
        Records that serve the target; those that other versions of the compiler made are passed over.
    transfer
        What records tell of kernels that have none.
    target
        TVM's target.
    """
    best = table.best(kernel.key)
    basis = best.trace if best else [astuple(hint) for hint in transfer.hints(kernel)]
    place = _place(kernel, basis, target) if on_cpu(target) else None
    kept = read_sealed(place) if place else None
    record: Record | None
    if kept is not None:
        symbol, origin = json.loads(kept)
        record = best
        scheduled = ScheduledKernel(
            symbol, lambda: scheduled_kernel(_scheduled(kernel, table, transfer, target)[0], target).function
        )
    else:
        schedule, origin, record = _scheduled(kernel, table, transfer, target)
        scheduled = scheduled_kernel(schedule, target)
        if place and record is best:
            with suppress(UserError):  # the objects' cache says what is wrong with the folder
                write_sealed(place, json.dumps([scheduled.symbol, origin]).encode())
    machines = frozenset(table.machines.get(kernel.key, ())) if record else frozenset()
    cost = record.cost if record else None
    return scheduled, KernelUse(kernel.signature, kernel.calls, origin, cost, machines)


def _scheduled(
    kernel: Kernel, table: KernelTable, transfer: Transfer, target: tvm.target.Target
) -> tuple[Schedule, Origin, Record | None]:
    """The schedule of the first record that fits, else the template's first choice, else plain loops."""
    for record in table.records.get(kernel.key, ()):
        with suppress(ValueError):  # made by another version of the compiler
            return scheduled_by_trace(kernel.mod, record.trace), "tuned", record
    hints = transfer.hints(kernel)
    default = next(templates_of(target).ranked(kernel.mod, hints), None)
    if default is not None:
        return default, "transferred" if hints else "default", None
    return Schedule(kernel.mod), "none", None


def _place(kernel: Kernel, basis: Any, target: tvm.target.Target) -> Path:
    """Where it is kept what became of a kernel with this trace, or with these tilings of similar ones."""
    digest = hashlib.sha256(json.dumps([code_key(kernel.mod["main"]), basis]).encode()).hexdigest()[:32]
    return objects_folder(target) / _version() / digest


@cache
def _version() -> str:
    return sources_digest(_SOURCES, _PACKAGES)

"""Schedules as traces in JSON form: what tuning logs store and compilation replays."""

from __future__ import annotations

from typing import Any

import tvm
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import Trace


def trace_json(sch: Schedule) -> Any:
    """A schedule's trace as plain JSON data."""
    return _plain(sch.trace.as_json())


def scheduled_by_trace(mod: tvm.IRModule, trace: Any) -> Schedule:
    """Schedule of `mod` rebuilt from a trace in JSON form.

    Raises
    ------
    ValueError
        If the trace does not fit the kernel.
    """
    sch = Schedule(mod)
    try:
        Trace.apply_json_to_schedule(trace, sch)
    except (RuntimeError, TypeError, LookupError) as error:  # TVM's errors are RuntimeErrors
        raise ValueError("the schedule does not fit the kernel") from error
    return sch


def _plain(value: Any) -> Any:
    """TVM's containers and integers as Python's own."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool | int | float) or value is None:
        return value
    if hasattr(value, "items"):
        return {str(k): _plain(v) for k, v in value.items()}
    if hasattr(value, "__iter__"):
        return [_plain(v) for v in value]
    return _plain(value.value)

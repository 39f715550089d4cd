"""Times on the command line: how they are typed, and how they are said."""

from __future__ import annotations

import re
from typing import Any

import click

from ofa_tvm.errors import shown

_TYPED = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(s|min|m|h)")
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


class _Duration(click.ParamType):
    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = _TYPED.fullmatch(str(value).strip())
        seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
        if not 0 < seconds <= 1e9:
            self.fail(f"{shown(value)} is not a time; type for example 90s, 10m or 2h", param, ctx)
        return seconds


time_limit_option = click.option(
    "--time-limit",
    type=_Duration(),
    help="End after about this time, 90s, 10m or 2h, with what there is by then; the same command goes on.",
)
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Only say what there is to do and how long it takes: one of it is timed."
)

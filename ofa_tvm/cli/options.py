"""Options that several verbs share, and how their values are read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from ofa_tvm.errors import UserError, shorten, shown
from ofa_tvm.files import data_dir, require_file
from ofa_tvm.number_formats import DTYPES
from ofa_tvm.targets.schema import MOST_IMAGES


class _PathOf(click.ParamType):
    """A path whose kind is looked at while the command line is read: before hours of work, not after."""

    name = "path"

    def __init__(self, *, written: bool) -> None:
        self._written = written

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(value)
        try:
            require_file(path)
            if self._written and (problem := _unwritable(path)):
                raise UserError(f"cannot write {shorten(str(path), 100)}: {problem}")
        except UserError as error:
            self.fail(str(error), param, ctx)
        return path

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


def _unwritable(path: Path) -> str:
    """Why nothing can be written to a path, as far as can be told without trying; "" if nothing says so."""
    place = path if path.is_dir() else path.parent
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        return f"{place} is a file"
    if os.access(place, os.W_OK | os.X_OK):
        return ""
    return f"the folder {place.absolute()} is read-only, or another user's"


INPUT_PATH, OUTPUT_PATH = _PathOf(written=False), _PathOf(written=True)


def complete_target(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of targets that ship, and of devices that stand for one, by their files alone; else a file."""
    folder = data_dir("targets")
    devices = [path for path in folder.glob("devices/*.yaml") if "\ntarget: " in path.read_text()]
    names = sorted({"x86", "arm", "cuda", *(path.stem for path in [*folder.glob("*.yaml"), *devices])})
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def _complete_space(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from ofa_tvm.spaces import list_spaces

    return [CompletionItem(name) for name in list_spaces() if name.startswith(incomplete)]


target_option = click.option(
    "-t",
    "--target",
    default="x86",
    show_default=True,
    shell_complete=complete_target,
    help="A target's or a device's name, or a YAML file.",
)
threads_option = click.option(
    "--threads", type=click.IntRange(min=1), help="Of the compiled module; by default the target's (1)."
)


dtype_option = click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    help="Of weights and feature maps; by default the target's (float32).",
)
batch_option = click.option(
    "--batch",
    type=click.IntRange(1, MOST_IMAGES),
    help="Images a call; by default 1. A latency is that of the whole call.",
)
space_option = click.option(
    "--space",
    shell_complete=_complete_space,
    help="Search space; by default the nearest ofa-tvm.yaml's, else ofa_mbv3_w1.0.",
)


class _Resolutions(click.ParamType):
    name = "R,R,.."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(
                f"{shown(value)} is not a list of resolutions; type for example 160,192,224", param, ctx
            )


resolutions_option = click.option(
    "--resolutions",
    type=_Resolutions(),
    help="Input sides; by default the nearest ofa-tvm.yaml's, else the space's default ones.",
)


class _Shape(click.ParamType):
    name = "INPUT=1x3x224x224"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int, ...]]:
        if isinstance(value, tuple):
            return value
        name, _, dims = str(value).rpartition("=")
        try:
            sizes = tuple(int(part) for part in dims.split("x"))
        except ValueError:
            sizes = ()
        if not name or not sizes or min(sizes) < 1:
            self.fail(f"{shown(value)} is not a shape; type for example input=1x3x224x224", param, ctx)
        return name, sizes


shape_option = click.option(
    "--shape",
    "shapes",
    type=_Shape(),
    multiple=True,
    help="Size of a dynamic input shape; again for each input.",
)

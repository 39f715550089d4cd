"""Options that the verbs of `ofa-tvm predictor` share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ofa_tvm.cli.options import INPUT_PATH

R = TypeVar("R")

column_option = click.option(
    "--target-column", help="Heading of the column (as x86_ms) or its target; by default all or the only one."
)
space_of_table = click.option("--space", help="Search space; by default the file's or the model's.")
classes_option = click.option(
    "--classes",
    type=click.IntRange(min=1),
    help="Of the networks that were measured; by default as noted beside the table, else as is usual in the "
    "space.",
)
targets_dir_option = click.option(
    "--targets-dir", type=INPUT_PATH, help="Folder of device files and targets; by default those that ship."
)
source_option = click.option(
    "--source",
    help="Data set whose way of measuring is meant, of those that `predictor sources` lists; by default the "
    "likeliest.",
)
model_option = click.option(
    "--model",
    type=INPUT_PATH,
    help="Model file that `fit` or `adapt` wrote; by default the one over many devices that ships.",
)


def device_options(*options: Callable[[Any], Any]) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Options that say which device and space is meant; the verb takes them as `device`."""
    names = ("target", "batch", "threads", "space", "classes", "targets_dir", "source")

    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> R:
            from ofa_tvm.workflow.asked import Device

            given = {name: kwargs.pop(name) for name in names if name in kwargs}
            given["batch"] = given.get("batch") or 1
            return function(*args, device=Device(**given), **kwargs)

        for option in reversed(options):
            wrapped = option(wrapped)
        return wrapped

    return decorate

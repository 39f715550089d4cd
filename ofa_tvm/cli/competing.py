"""Number formats that compete in one search: `--dtype auto`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import click

from ofa_tvm.number_formats import DTYPES, DType, competing

if TYPE_CHECKING:
    from ofa_tvm.cli.console import Console
    from ofa_tvm.targets import Target

DTypeChoice = DType | Literal["auto"] | None

dtype_or_auto_option = click.option(
    "--dtype",
    type=click.Choice([*DTYPES, "auto"]),
    help="Of weights and feature maps; by default the target's (float32). auto lets those compete that the "
    "target has instructions for.",
)


def say_if_only_stored(console: Console, target: Target) -> None:
    """Note that a target has no instructions for its number format, before time is spent on it."""
    if target.dtype in ("float16", "bfloat16") and target.dtypes.get(target.dtype) == "storage":
        console.say(
            f"note: {target.name} has no instructions for {target.dtype}: values are stored in it and "
            "computed in float32, which takes half the bytes and is slower than float32, not faster"
        )


def formats_of(targets: Sequence[Target], dtype: DTypeChoice) -> tuple[DType | None, ...]:
    """The formats that a choice stands for; None is each target's own."""
    if dtype != "auto":
        return (dtype,)
    common = [set(competing(target.dtypes)) for target in targets]
    return tuple(name for name in DTYPES if all(name in formats for formats in common))

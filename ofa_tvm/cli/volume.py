"""How much is said: an option of every verb, and of none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

R = TypeVar("R")


def volume_options(function: Callable[..., R]) -> Callable[..., R]:
    """Add --quiet and --verbose, to a verb or before it."""
    quiet = click.option("-q", "--quiet", is_flag=True, help="Results and errors only: no notes, no bars.")
    verbose = click.option(
        "-v", "--verbose", is_flag=True, help="All settings, and how long every step took."
    )
    return quiet(verbose(function))

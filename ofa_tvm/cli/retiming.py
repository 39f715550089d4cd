"""The one line, and the entry for scripts, that say when timing a module's schedules here would help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ofa_tvm.cli.console import Console
from ofa_tvm.progress import duration

if TYPE_CHECKING:
    from ofa_tvm.workflow.retiming import Retiming


def show_retiming(console: Console, found: Retiming | None, arguments: str) -> dict[str, Any] | None:
    """Print what timing again would do, if it would do something; returns it as plain data.

    Parameters
    ----------
    console
        Where to.
    found
        What it would do, for one module.
    arguments
        Of `ofa-tvm tune --retime`.
    """
    if found is None:
        return None
    command = f"ofa-tvm tune --retime {arguments}"
    console.print(
        f"the schedules of {found.kernels} of {found.of} kernels were never timed on this CPU; the best of "
        f"those known, and their times here: {command}, about {duration(found.seconds)}"
    )
    return {"kernels": found.kernels, "estimated_seconds": round(found.seconds, 1), "command": command}

"""Whether a module's schedules should be timed on this machine, and how long that takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ofa_tvm.compiler import KernelUse
from ofa_tvm.logs import timed_on
from ofa_tvm.targets import Target, detect_machine
from ofa_tvm.targets.kinds import KINDS
from ofa_tvm.tuning import timing_device
from ofa_tvm.workflow.tune import START_S, campaign_workers

KERNEL_S = 0.3
"""Of one kernel in one worker: `ofa_mbv3_w1.0`'s kernels on a Zen 5."""


@dataclass(frozen=True)
class Retiming:
    """What `ofa-tvm tune --retime` would do for a module.

    Parameters
    ----------
    kernels
        Distinct ones whose schedules come from a log, but were never timed on this CPU.
    of
        Distinct ones of the module.
    seconds
        Estimated time.
    """

    kernels: int
    of: int
    seconds: float


def retiming(uses: Iterable[KernelUse], target: Target) -> Retiming | None:
    """What timing a module's schedules here would be; None where they were, or this is not the device.

    Parameters
    ----------
    uses
        The module's kernels.
    target
        What it was compiled for. Only a CPU target that runs in this process is timed on this CPU.
    """
    machine = detect_machine()
    if not KINDS[target.kind].family or target.runs_on(machine):
        return None
    uses, device = list(uses), timing_device(target, machine)
    untimed = sum(use.origin == "tuned" and not timed_on(device, use.machines) for use in uses)
    if not untimed:
        return None
    return Retiming(untimed, len(uses), START_S + untimed * KERNEL_S / campaign_workers(target))

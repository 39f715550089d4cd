"""A network whose kernels have schedules, and how it becomes a library of host code or of device code."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import tvm

from ofa_tvm.compiler.cpu import cpu_executable
from ofa_tvm.compiler.driver import make_driver
from ofa_tvm.compiler.gpu import gpu_executable, refuse_source_only
from ofa_tvm.compiler.linking import link_library
from ofa_tvm.compiler.objects import ScheduledKernel, object_files
from ofa_tvm.errors import UserError
from ofa_tvm.logs import Signature
from ofa_tvm.targets import Target

Origin = Literal["tuned", "transferred", "default", "none"]


@dataclass(frozen=True)
class KernelUse:
    """A kernel as a compiled network uses it.

    Parameters
    ----------
    signature
        What it computes.
    calls
        Times it runs in one inference.
    origin
        "tuned": its schedule comes from a record; "transferred": from the most similar kernel that has one;
        "default": the template's first choice; "none": TVM's plain loops, where no template applies.
    cost
        Recorded cost of one call in the target's unit (ms or Minstr), None without a record.
    machines
        Those that timed its recorded schedules (`ofa_tvm.logs.KernelTable.machines`).
    """

    signature: Signature
    calls: int
    origin: Origin
    cost: float | None
    machines: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """What it computes, for people."""
        return str(self.signature)


@dataclass(frozen=True)
class Network:
    """A lowered network whose kernels have schedules.

    Parameters
    ----------
    mod
        The lowered module.
    scheduled
        Its kernels by the names under which `main` calls them.
    uses
        How they are used, in the same order.
    metadata
        What its library says of itself.
    source
        What to call the network in errors.
    """

    mod: tvm.IRModule
    scheduled: dict[str, ScheduledKernel]
    uses: tuple[KernelUse, ...]
    metadata: dict[str, Any]
    source: str

    @property
    def text(self) -> bytes:
        """The metadata as JSON."""
        return json.dumps(self.metadata, sort_keys=True).encode()


def device_library(
    network: Network, target: Target, *, cuda_graph: bool, profile: bool
) -> Callable[..., None]:
    """What links a network whose kernels are device code, given the target, the path and the size.

    Raises
    ------
    UserError
        If it cannot be built, or is to be profiled.
    """
    if profile:
        raise UserError(f"{network.source} cannot be profiled for {target.name}: only CPU networks can")
    executable = gpu_executable(
        network.mod, network.scheduled, network.text, target.tvm_target(), cuda_graph=cuda_graph
    )
    check = refuse_source_only if target.kind == "cuda" else None
    return partial(link_library, executable, (), None, check=check)


def host_library(network: Network, target: Target, *, profile: bool) -> Callable[..., None]:
    """What links a network whose kernels are host code in object files, given target, path and size.

    Raises
    ------
    UserError
        If it is to be profiled and cannot be.
    """
    tvm_target, scheduled = target.tvm_target(), network.scheduled
    objects = object_files(scheduled, tvm_target)
    driver = make_driver(network.mod, scheduled, profile=profile)
    if profile:
        if driver is None:
            raise UserError(f"{network.source} cannot be profiled: only straight-line networks can")
        named = {
            kernel.symbol: use.signature.to_json()
            for kernel, use in zip(scheduled.values(), network.uses, strict=True)
        }
        network = replace(
            network, metadata=network.metadata | {"kernel_calls": [named[s] for s in driver.calls]}
        )
    executable = cpu_executable(network.mod, scheduled, driver, network.text, tvm_target)
    return partial(link_library, executable, objects, driver)

"""Skips: what this machine cannot compile for or run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from emulated import arm_target
from opencl_device import skip_without_opencl

from ofa_tvm.compiler import nvrtc
from ofa_tvm.errors import UserError
from ofa_tvm.native import has_cuda
from ofa_tvm.targets import Target, detect_machine, get_target


@contextmanager
def skipped_without_compiler(target: Target) -> Iterator[None]:
    """What compiles for a target is run inside."""
    if target.kind == "cuda":
        arch = str(target.tvm["arch"])
        if nvrtc.find_nvrtc(arch) is None and nvrtc.find_nvcc() is None:
            pytest.skip(f"no compiler for {arch}: {nvrtc.install_hint(arch)}")
    try:
        target.link.find()
    except UserError as error:
        pytest.skip(str(error))
    try:
        yield
    except UserError as error:
        if "Unsupported gpu architecture" not in str(error):
            raise
        pytest.skip(str(error).splitlines()[0])  # by an nvcc that is newer than the GPU


def runnable(name: str) -> Target:
    """A target by its name; the test is skipped where this machine cannot run its code."""
    target = get_target(name)
    skip_unless_it_runs_here(target)
    return target


def skip_unless_it_runs_here(target: Target) -> None:
    """In this process, or emulated."""
    if target.emulated:
        arm_target(target.name)
    elif reason := target.runs_on(detect_machine()):
        pytest.skip(reason)
    elif target.kind == "opencl":
        skip_without_opencl()
    elif target.kind == "cuda" and not has_cuda():
        pytest.skip("no NVIDIA GPU and driver here")

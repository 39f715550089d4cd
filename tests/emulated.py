"""The emulated ARM device for tests, where this machine has what it takes."""

from __future__ import annotations

import pytest

from ofa_tvm.errors import UserError
from ofa_tvm.files import data_dir
from ofa_tvm.targets import Target, load_target
from ofa_tvm.targets.readiness import missing_emulator


def arm_target(name: str = "cortex-a72") -> Target:
    """A target that runs in the emulator; the test is skipped where that or the cross compiler is missing."""
    target = load_target(data_dir("targets") / f"{name}.yaml")
    if missing_emulator(target):
        pytest.skip("no emulated ARM device: apt-get install qemu-user g++-aarch64-linux-gnu")
    try:
        target.link.find()
    except UserError:
        pytest.skip("no compiler for AArch64: apt-get install g++-aarch64-linux-gnu")
    return target

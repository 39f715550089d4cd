"""When timing a module's schedules on this machine would help."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ofa_tvm.compiler import KernelUse
from ofa_tvm.logs import Signature
from ofa_tvm.targets import Target, detect_machine, get_target
from ofa_tvm.workflow.retiming import retiming

HERE, THERE = f"{detect_machine().name}, 3 cores", "a CPU of somebody else, 2 cores"

SIGNATURE = Signature(("multiply",), ((1, 8), (1, 8), (1, 8)), ("float32",) * 3)


def use(*machines: str, origin: str = "tuned") -> KernelUse:
    return KernelUse(SIGNATURE, 1, origin, None, frozenset(machines))  # type: ignore[arg-type]


@pytest.fixture
def target() -> Target:
    return get_target("x86")


def test_schedules_of_another_machine_are_worth_timing(target: Target) -> None:
    found = retiming([use(THERE), use(THERE), use(HERE), use(HERE, THERE)], target)
    assert found is not None and (found.kernels, found.of) == (2, 4)


def test_the_estimate_grows_with_the_kernels(target: Target) -> None:
    few, many = (retiming([use(THERE)] * count, target) for count in (10, 700))
    assert few is not None and many is not None
    assert 1 < few.seconds < 30 and 0.1 * 690 / 64 < many.seconds - few.seconds < 690


def test_nothing_is_said_where_nothing_would_change(target: Target) -> None:
    assert retiming([use(HERE), use(HERE, THERE)], target) is None
    assert retiming([use(origin="default"), use(origin="transferred")], target) is None, "nothing to time"
    assert retiming([], target) is None


@pytest.mark.parametrize("name", ["arm", "cortex-a72", "cuda-sm80", "opencl-pocl"])
def test_other_devices_are_left_alone(name: str) -> None:
    assert retiming([use(THERE)], get_target(name)) is None


def test_a_target_that_does_not_run_here_is_left_alone(target: Target) -> None:
    assert retiming([use(THERE)], replace(target, features=("no-cpu-has-this",))) is None

"""The contract of runners, and the rules that all of them share.

A runner builds schedules of one kernel and times them on one kind of device: this process's CPU (`local`), a
GPU of this machine (`gpu`), a device of a tracker or an emulated one (`rpc`).
"""

from __future__ import annotations

import statistics
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import tvm
from tvm.s_tir import Schedule

from ofa_tvm.agreement import relative_difference, tolerance
from ofa_tvm.compiler.code import kernel_code
from ofa_tvm.compiler.final import final_form
from ofa_tvm.compiler.kernels import shapes
from ofa_tvm.devices.tracker import TrackerUnreachable
from ofa_tvm.errors import UserError
from ofa_tvm.random_arrays import random_array

SAMPLES = 3  # of a trial
SAMPLE_S = 2e-3  # that the calls of a sample fill
TRIES_ON_DEVICES = 2
"""How often a schedule runs on devices that may fail by themselves before it is blamed."""

_HOPELESS, _SHORTEST_HOPELESS_S = 3.0, 50e-6
_LEAST = 1e-6  # largest value of a kernel's result, below which differences are not worth a refusal

Array = npt.NDArray[Any]


def is_hopeless(once_s: float, best_s: float) -> bool:
    """Whether a first call is so much slower than the best schedule that no more samples are taken."""
    return once_s > _HOPELESS * best_s and once_s > _SHORTEST_HOPELESS_S


def random_arguments(function: tvm.tirx.PrimFunc) -> list[Array]:
    """A positive `random_array` for each parameter of a kernel, the same in every process."""
    rng = np.random.default_rng(0)
    return [
        random_array(shape, str(buffer.dtype), rng, positive=True)
        for shape, buffer in zip(shapes(function), function.params, strict=True)
    ]


def deviation(got: Array, expected: Array) -> float:
    """Largest difference as a share of the largest value; 0 where it is as small as a kernel's may be."""
    if expected.dtype.kind not in "fiu":
        return 0.0
    worst = relative_difference(expected, got, _LEAST)
    return worst if worst > tolerance("kernel", str(expected.dtype)) else 0.0


def reason(error: Exception) -> str:
    """What an error says last: TVM puts its own stack before."""
    return (str(error).strip() or repr(error)).splitlines()[-1]


def stays_hot(what: str) -> str:
    """What is told once of a machine that was waited for in vain."""
    return (
        f"{what} stays throttled although it was waited for: kernels are timed all the same and seem slower "
        "than they are; cool it, and mend that by `tune --retime`"
    )


class WrongAnswer(Exception):
    """A schedule computes something else than the kernel."""


@dataclass(frozen=True)
class Outcome:
    """What a trial gave.

    Parameters
    ----------
    seconds
        Of one call: some samples, or one if the schedule is hopeless (an instruction of an emulated device
        as 1 ns).
    program
        The loaded schedule, None if it is hopeless.
    """

    seconds: tuple[float, ...]
    program: Any


class Runner(ABC):
    """Builds schedules of one kernel for a target and times them; a context manager that frees its device.

    A trial builds the schedule, loads it, calls it once, checks what it computes, and takes samples unless it
    is hopeless. Concrete runners say how each of these steps goes on their device.

    Parameters
    ----------
    target
        TVM's target.
    best_s
        Of one call of the best schedule known so far.
    expected
        What the kernel computes; None: whatever its first schedule does.

    Attributes
    ----------
    tries
        How often a schedule runs before it is blamed for what a device may have done, see `fault_of_device`.
    takes_turns
        Whether several schedules can be timed in turns, see `in_turns`.
    throttled
        Whether the device was too hot for its best while the last schedule was timed.
    """

    tries: ClassVar[int] = 1
    takes_turns: ClassVar[bool] = True

    def __init__(
        self, target: tvm.target.Target, best_s: float = float("inf"), expected: list[Array] | None = None
    ) -> None:
        self.target, self.best_s = target, best_s
        self._expected = expected
        self.throttled = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def build(self, sch: Schedule) -> Any:
        """Machine code of a schedule, as `load` takes it."""
        return kernel_code(final_form(sch.mod, self.target), self.target)

    @abstractmethod
    def load(self, library: Any) -> Any:
        """The built schedule as a program on the device."""

    @abstractmethod
    def first_call(self, program: Any) -> float:
        """Seconds of a call, after one that warms up; a rough figure."""

    @abstractmethod
    def samples(self, program: Any, once_s: float, count: int) -> list[float]:
        """Seconds a call, `count` samples, of a program whose call takes about `once_s`."""

    @abstractmethod
    def results(self) -> list[Array]:
        """What the last call computed."""

    def close(self) -> None:  # noqa: B027  (a local runner holds nothing)
        """Give the device back."""

    def fault_of_device(self, _error: Exception) -> UserError | None:
        """What to raise if a trial ends so on the last try, too; None where it is the schedule's fault."""
        return None

    def recover(self) -> None:
        """Make ready for another try, after what a device may be to blame for."""
        self.close()

    def run(self, sch: Schedule) -> Outcome:
        """One trial.

        Raises
        ------
        TrackerUnreachable
            If there is no device to be had.
        Exception
            Of whatever kind, if the schedule cannot be built, fails or computes wrongly.
        """
        library = self.build(sch)
        fault: UserError | None = None
        for _ in range(self.tries):
            try:
                return self._timed(self.load(library))
            except TrackerUnreachable:
                raise
            except Exception as error:
                fault = self.fault_of_device(error)
                if fault is None:
                    raise
            self.recover()  # here, where the error and the programs that it holds are gone
        raise fault or UserError("a schedule is tried at least once")

    def in_turns(self, programs: Sequence[Any], rounds: int) -> list[list[float]]:
        """Samples of several programs taken in turns, so that drift meets all alike."""
        once = [self.first_call(program) for program in programs]
        found: list[list[float]] = [[] for _ in programs]
        for _ in range(rounds):
            for samples, program, seconds in zip(found, programs, once, strict=True):
                samples += self.samples(program, seconds, 1)
        return found

    def checked(self, program: Any) -> float:
        """Seconds of a first call whose results were compared with the kernel's.

        Raises
        ------
        WrongAnswer
            If they differ.
        """
        once = self.first_call(program)
        results = self.results()
        if self._expected is None:
            self._expected = results
        for got, expected in zip(results, self._expected, strict=True):
            if off := deviation(got, expected):
                raise WrongAnswer(f"it computes wrongly (off by {off:.1g} of the largest value)")
        return once

    def _timed(self, program: Any) -> Outcome:
        once = self.checked(program)
        if is_hopeless(once, self.best_s):
            return Outcome((once,), None)
        seconds = self.samples(program, once, SAMPLES)
        self.best_s = min(self.best_s, statistics.median(seconds))
        return Outcome(tuple(seconds), program)

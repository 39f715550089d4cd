"""What a campaign asks of its workers, and what they report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class DeviceRequest:
    """Where trials run, if not on this machine.

    Parameters
    ----------
    place
        Tracker and key (`ofa_tvm.devices.place.Place`).
    link
        Command that links for the target.
    emulated
        Whether the devices have to be emulated ones, which count instructions, or must not be.
    wait_s
        How long to wait for a device before giving up.
    """

    place: str
    link: Sequence[str]
    emulated: bool
    wait_s: float


@dataclass(frozen=True)
class TuningRequest:
    """One kernel to tune, or to time again.

    Parameters
    ----------
    mod
        The kernel's module in TVM's JSON.
    target
        TVM's target dict.
    l2_bytes
        Size of a core's L2 cache on this machine.
    known
        Traces of the schedules so far, best first, with the microseconds of a call.
    failed
        Traces of the schedules that failed.
    hints
        Tilings of similar kernels (`ofa_tvm.compiler.tilings.Tiling`), nearest first.
    trials
        How many to make.
    seconds
        Time limit, None for none.
    seed
        Of the search.
    again
        Time the known schedules instead of searching.
    device
        None: this machine.
    """

    mod: str
    target: Mapping[str, Any]
    l2_bytes: int
    known: Sequence[tuple[Any, float]]
    failed: Sequence[Any]
    hints: Sequence[Sequence[Any]]
    trials: int
    seconds: float | None
    seed: int
    again: bool = False
    device: DeviceRequest | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain dict."""
        return vars(self) | {"device": None if self.device is None else asdict(self.device)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`."""
        device = content["device"]
        return cls(**{**content, "device": None if device is None else DeviceRequest(**device)})


@dataclass(frozen=True)
class Trying:
    """A schedule is about to run: what a worker that dies now died of."""

    trace: Any


@dataclass(frozen=True)
class Tried:
    """A schedule was timed, or failed.

    Parameters
    ----------
    trace
        Of the schedule.
    times_us
        Microseconds a call (an instruction of an emulated device as 1 ns); empty if it failed.
    error
        Why it failed, else "".
    counts
        Whether it is a trial of its own, not the second timing of one.
    throttled
        Whether the device was too hot to run as fast as it can.
    """

    trace: Any
    times_us: Sequence[float]
    error: str = ""
    counts: bool = True
    throttled: bool = False


@dataclass(frozen=True)
class Note:
    """Something that people should hear of."""

    message: str


@dataclass(frozen=True)
class GaveUp:
    """The kernel's work ended early.

    Parameters
    ----------
    error
        Why.
    no_device
        Whether there was no device to be had, so that the kernel is another's to go on with.
    """

    error: str
    no_device: bool = False


Report = Trying | Tried | Note | GaveUp
_REPORTS: dict[str, type[Report]] = {"trying": Trying, "tried": Tried, "note": Note, "failed": GaveUp}
_EVENTS = {kind: name for name, kind in _REPORTS.items()}


def to_event(report: Report) -> dict[str, Any]:
    """A report as the event of a worker's pipe (`ofa_tvm.process.EventPipe.send`)."""
    return {"event": _EVENTS[type(report)], **vars(report)}


def from_event(event: Mapping[str, Any]) -> Report | None:
    """Inverse of `to_event`; None for an event that only says that the worker is alive, or done."""
    kind = _REPORTS.get(event["event"])
    return None if kind is None else kind(**{name: event[name] for name in kind.__dataclass_fields__})

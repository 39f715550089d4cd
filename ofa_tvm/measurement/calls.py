"""What calls took one by one: their distribution, and how many images a second that makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ofa_tvm.measurement.other_work import OtherWork
from ofa_tvm.measurement.protocol import Timing

PERCENTILES = (5, 50, 90, 95, 99)
_FAR = 2.5  # from the middle half, in its widths: four standard deviations of normal values

Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RunnerCalls:
    """The calls of one runner.

    Attributes
    ----------
    cpus
        That it was pinned to.
    times_ms
        Of each call, in order.
    seconds
        From the first call's start to the last one's end.
    """

    cpus: tuple[int, ...]
    times_ms: Times
    seconds: float

    @property
    def per_s(self) -> float:
        """Calls a second."""
        return len(self.times_ms) / self.seconds

    def timing(self, sample_ms: float) -> Timing:
        """The calls as the protocol's samples: means of as many in a row as fill `sample_ms`."""
        size = max(1, round(sample_ms / float(np.median(self.times_ms))))
        size = min(size, len(self.times_ms))
        whole = self.times_ms[: len(self.times_ms) // size * size].reshape(-1, size)
        return Timing(tuple(whole.mean(axis=1).tolist()), size, 1)


@dataclass(frozen=True)
class CallTimes:
    """The calls of all runners, which ran at the same time.

    Attributes
    ----------
    runners
        Each with its calls.
    threads
        Of a runner.
    images
        A call, None of a network that takes none.
    warm_up_s, warm_up_calls
        What every runner did at least before calls counted, and the fewest calls that were.
    others
        What other programs did meanwhile, None where the system does not say.
    cold_ms
        Median of single calls of one runner after the caches were emptied.
    sample_ms
        See `noisy`.
    target, machine, date
        Target's name, processor's name, and UTC time in ISO format.
    """

    runners: tuple[RunnerCalls, ...]
    threads: int
    images: int | None
    warm_up_s: float
    warm_up_calls: int
    others: OtherWork | None
    cold_ms: float
    sample_ms: float
    target: str
    machine: str
    date: str

    @cached_property
    def times_ms(self) -> Times:
        """Of all runners' calls."""
        return np.concatenate([runner.times_ms for runner in self.runners])

    @property
    def cpus(self) -> tuple[int, ...]:
        """Of all runners."""
        return tuple(cpu for runner in self.runners for cpu in runner.cpus)

    @property
    def seconds(self) -> float:
        """Of the runner that took longest."""
        return max(runner.seconds for runner in self.runners)

    @property
    def per_s(self) -> float:
        """Images a second of all runners together; calls, of a network that takes no images."""
        return (self.images or 1) * sum(runner.per_s for runner in self.runners)

    @property
    def mad_ms(self) -> float:
        """Median absolute deviation of the calls."""
        return float(np.median(np.abs(self.times_ms - np.median(self.times_ms))))

    @property
    def noisy(self) -> bool:
        """Whether a runner's samples (see `RunnerCalls.timing`) scatter more than `measure` accepts."""
        return any(runner.timing(self.sample_ms).noisy for runner in self.runners)

    def to_json(self) -> dict[str, Any]:
        """All figures as plain types, JSON serialisable."""
        counts, edges = np.histogram(self.times_ms, bins=_edges(self.times_ms))
        return {
            **spread(self.times_ms),
            "mad_ms": round(self.mad_ms, 7),
            "cold_ms": self.cold_ms,
            "images": self.images,
            "images_per_s": None if self.images is None else self.per_s,
            "calls_per_s": sum(runner.per_s for runner in self.runners),
            "calls": len(self.times_ms),
            "seconds": self.seconds,
            "warm_up_s": self.warm_up_s,
            "warm_up_calls": self.warm_up_calls,
            "runners": [
                {
                    **spread(runner.times_ms),
                    "calls": len(runner.times_ms),
                    "calls_per_s": runner.per_s,
                    "cpus": list(runner.cpus),
                }
                for runner in self.runners
            ],
            "threads": self.threads,
            "cpus": list(self.cpus),
            "noisy": self.noisy,
            "others": None if self.others is None else _others(self.others),
            "histogram": {"edges_ms": edges.round(7).tolist(), "calls": counts.tolist()},
            "unit": "ms",
            "instructions": None,
            "target": self.target,
            "machine": self.machine,
            "date": self.date,
        }


def spread(times_ms: Sequence[float] | Times) -> dict[str, float]:
    """Median, percentiles and extremes of times, by the names that JSON has for them."""
    values = np.percentile(times_ms, PERCENTILES).round(7).tolist()
    named = {f"p{q}_ms": value for q, value in zip(PERCENTILES, values, strict=True)}
    return {
        "median_ms": named["p50_ms"],
        "min_ms": round(float(np.min(times_ms)), 7),
        **named,
        "max_ms": round(float(np.max(times_ms)), 7),
    }


def _others(others: OtherWork) -> dict[str, Any]:
    return {"share_of_these_cpus": others.here, "cpus_of_the_machine": others.machine, "busy": others.busy}


def body(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Between which values most lie: the quartiles and some of their distance, as far as there are values."""
    first, third = map(float, np.percentile(values, (25, 75)))
    far = _FAR * (third - first)
    low, high = max(float(values.min()), first - far), min(float(values.max()), third + far)
    return low, max(high, low * 1.0001)


def _edges(times_ms: Times) -> Times:
    """Of 100 bins where most times lie, and one for those below and above, if there are any."""
    low, high = body(times_ms)
    ends = np.array([float(times_ms.min()), float(times_ms.max())])
    return np.concatenate([ends[:1][ends[:1] < low], np.linspace(low, high, 101), ends[1:][ends[1:] > high]])

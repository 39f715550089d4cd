"""What devices of one kind share: how far from its roofline each kernel class is, and what launches cost.

    latency = ((f (sum_c e_c roofline_c + floor kernels))^p + (host kernels)^p)^(1/p)

with f the product of a factor of the data set (software and way of timing) and one of the device. All are
fitted together in log space, the device's factor pulled to 1, so that a device left out is predicted with 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from ofa_tvm.estimators.files import between, record
from ofa_tvm.latency.features import KERNEL_CLASSES
from ofa_tvm.latency.roofline import rooflines
from ofa_tvm.latency.series import Series
from ofa_tvm.spaces.blocks import BlockStructure, block_structure, stacked_contexts
from ofa_tvm.targets.devices import Platform

OVERLAP = 4.0  # p above: host and device overlap almost perfectly
SPREAD_SOURCE = 0.7  # standard deviation of a data set's log factor, expected beforehand
_ROWS = 80  # of each series: a roofline has few unknowns
_EXPONENTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_EXPECTED_EXPONENT, _EXPONENT_SPREAD = 0.5, 0.2
# Standard deviations of logarithms expected beforehand.
_SPREAD_EFFICIENCY, _SPREAD_HOST, _SPREAD_FIT = 3.0, 0.4, 0.05
# On a GPU smaller networks tell of launches, not of rooflines; with them others are predicted worse.
_LEAST_GPU_PIXELS = 64
_SPREAD_DEVICE = {"gpu": 0.05, "cpu": 0.3}

_EFFICIENCIES = {"type": "array", "items": between(0, 1e9)}
# Of a `Family` in a model file.
FAMILY_SCHEMA = record(
    {
        "efficiency": _EFFICIENCIES | {"minItems": len(KERNEL_CLASSES), "maxItems": len(KERNEL_CLASSES)},
        "floor_ms": between(0, 1e6),
        "host_ms": between(0, 1e6),
        "exponent": between(-10, 10),
        "sources": {"type": "object", "minProperties": 1, "additionalProperties": between(-50, 50)},
        "spread": between(0, 100),
    }
)


@dataclass(frozen=True)
class Family:
    """What devices of one kind share.

    Attributes
    ----------
    efficiency : (n_classes,) array
        Times the roofline's time that a kernel class takes.
    floor_ms, host_ms : a kernel's least time on the device, and its launch on the host
    exponent : of the cache's power law
    sources : log factor of each data set
    spread : standard deviation of the log latency of a device that was left out
    """

    efficiency: np.ndarray
    floor_ms: float
    host_ms: float
    exponent: float
    sources: dict[str, float]
    spread: float = 0.5

    def parts(
        self, structure: BlockStructure, platform: Platform, source: str | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Time of each kernel class of every context on the device, (n_contexts, n_classes + 1) with the
        floor last, and the host's time (n_contexts,), in ms."""
        times, kernels = rooflines(structure, platform, self.exponent)
        average = float(np.mean(list(self.sources.values())))
        factor = np.exp(self.sources.get("" if source is None else source, average))
        device = factor * np.column_stack([times * self.efficiency, self.floor_ms * kernels])
        return device, self.host_ms * kernels


def slower(device: np.ndarray, host: np.ndarray) -> np.ndarray:
    """The p-norm above, safe where one of them is 0."""
    larger = np.maximum(device, host)
    return larger * (((device / larger) ** OVERLAP + (host / larger) ** OVERLAP) ** (1 / OVERLAP))


@dataclass(frozen=True)
class _Rows:
    """Rows of the series of a family, and to which source, device and host each series belongs.

    `host_of` counts pairs of source and device: the same device may have several hosts.
    """

    series: tuple[Series, ...]
    rows: tuple[np.ndarray, ...]
    logs: tuple[np.ndarray, ...]
    sources: tuple[str, ...]
    source_of: np.ndarray
    device_of: np.ndarray
    host_of: np.ndarray

    @classmethod
    def of(cls, series: Sequence[Series]) -> _Rows:
        rng = np.random.default_rng(0)
        rows = [rng.permutation(len(s.ms))[:_ROWS] for s in series]
        sources = sorted({s.source for s in series})
        devices = sorted({s.platform.device.identity for s in series})
        hosts = sorted({(s.source, s.platform.device.identity) for s in series})
        return cls(
            tuple(series),
            tuple(rows),
            tuple(np.log(s.ms[r]) for s, r in zip(series, rows, strict=True)),
            tuple(sources),
            np.array([sources.index(s.source) for s in series]),
            np.array([devices.index(s.platform.device.identity) for s in series]),
            np.array([hosts.index((s.source, s.platform.device.identity)) for s in series]),
        )

    def rooflines(self, exponent: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Least times (rows, n_classes) and numbers of kernels (rows,) of each series' subnets."""
        times, kernels = [], []
        for s, r in zip(self.series, self.rows, strict=True):
            structure = block_structure(s.space, s.n_classes)
            index = stacked_contexts(structure, s.genes[r])
            t, k = rooflines(structure, s.platform, exponent)
            times.append(t[index].sum(axis=1))
            kernels.append(k[index].sum(axis=1))
        return times, kernels


class _Problem:
    """Residuals of a family at one exponent, as a function of the logarithms of its parameters.

    These are: the classes' efficiencies, the kernels' floor, the host's time, then a factor of each source,
    of each device, and of each host.
    """

    def __init__(self, rows: _Rows, family: str, exponent: float) -> None:
        self._rows, self._gpu, self._exponent = rows, family == "gpu", exponent
        self._spread = _SPREAD_DEVICE[family]
        self._times, self._kernels = rows.rooflines(exponent)
        n_classes, n_devices = len(KERNEL_CLASSES), 1 + int(rows.device_of.max())
        self._ends = np.cumsum([n_classes, 1, 1, len(rows.sources), n_devices])
        # Every class is expected to take an equal part of half the latency.
        shares = np.mean(
            [(t / np.exp(y)[:, None]).mean(axis=0) for t, y in zip(self._times, rows.logs, strict=True)],
            axis=0,
        )
        self._centre = np.clip(np.log(0.5 / n_classes / np.maximum(shares, 1e-9)), -6.0, 6.0)

    def split(self, q: np.ndarray) -> list[np.ndarray]:
        return np.split(q, self._ends)

    @property
    def start(self) -> np.ndarray:
        n_factors = int(self._ends[-1] - self._ends[2]) + 1 + int(self._rows.host_of.max())
        return np.concatenate([self._centre, [np.log(0.01), np.log(0.05)], np.zeros(n_factors)])

    def __call__(self, q: np.ndarray) -> np.ndarray:
        efficiency, floor, host, source, device, hosts = self.split(q)
        rows, out = self._rows, []
        for i, (t, k, y) in enumerate(zip(self._times, self._kernels, rows.logs, strict=True)):
            busy = np.log(t @ np.exp(efficiency) + np.exp(floor) * k)
            busy = busy + source[rows.source_of[i]] + device[rows.device_of[i]]
            if self._gpu:
                waiting = np.log(k) + host + hosts[rows.host_of[i]]
                busy = np.logaddexp(OVERLAP * busy, OVERLAP * waiting) / OVERLAP
            # Rows of one series are not independent: four of them count.
            out.append((busy - y) / _SPREAD_FIT * 2 / np.sqrt(len(y)))
        beliefs = [
            (efficiency - self._centre) / _SPREAD_EFFICIENCY,
            (floor - np.log(0.01)),
            (host - np.log(0.05)) / 2,
            source / SPREAD_SOURCE,
            device / self._spread,
            hosts / _SPREAD_HOST,
            [(self._exponent - _EXPECTED_EXPONENT) / _EXPONENT_SPREAD if self._gpu else 0.0],
        ]
        return np.concatenate([*out, *beliefs])


def _fit_family(series: Sequence[Series], family: str) -> Family:
    """What the devices of one kind, "gpu" or "cpu", share; the series are all of that kind."""
    gpu = family == "gpu"
    if gpu:
        series = [s for s in series if max(s.space.resolutions) >= _LEAST_GPU_PIXELS] or series
    rows = _Rows.of(series)
    fits = []
    for exponent in _EXPONENTS if gpu else (0.0,):
        problem = _Problem(rows, family, exponent)
        fits.append((least_squares(problem, problem.start, max_nfev=100), problem, exponent))
    found, problem, exponent = min(fits, key=lambda fit: float(fit[0].cost))
    efficiency, floor, host, source, _, _ = problem.split(found.x)
    return Family(
        np.exp(efficiency),
        float(np.exp(floor[0])),
        float(np.exp(host[0])) if gpu else 0.0,
        exponent,
        dict(zip(rows.sources, source.tolist(), strict=True)),
    )


def fit_families(series: Sequence[Series]) -> dict[str, Family]:
    """What the devices of each kind, "gpu" or "cpu", among the series share."""
    return {
        family: _fit_family(members, family)
        for family in ("gpu", "cpu")
        if (members := [s for s in series if s.family == family])
    }

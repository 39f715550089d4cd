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
    """Rows of the series of a family, one series after the other.

    Attributes
    ----------
    index : sequence of (rows, n_blocks) arrays
        Of each series: where the contexts of its subnets' blocks are, see `stacked_contexts`.
    logs : (n,) array
        Logarithms of the latencies in ms.
    size : (n,) array
        Rows of the series that a row belongs to.
    source, device, host : (n,) int arrays
        That a row belongs to; hosts are pairs of source and device: the same device may have several.
    sources : names of the sources
    """

    series: tuple[Series, ...]
    index: tuple[np.ndarray, ...]
    logs: np.ndarray
    size: np.ndarray
    source: np.ndarray
    device: np.ndarray
    host: np.ndarray
    sources: tuple[str, ...]

    @classmethod
    def of(cls, series: Sequence[Series]) -> _Rows:
        rng = np.random.default_rng(0)
        rows = [rng.permutation(len(s.ms))[:_ROWS] for s in series]
        size = np.array([len(r) for r in rows])
        sources, source = np.unique([s.source for s in series], return_inverse=True)
        _, device = np.unique([s.platform.device.identity for s in series], return_inverse=True)
        _, host = np.unique(source * len(series) + device, return_inverse=True)
        chosen = list(zip(series, rows, strict=True))
        return cls(
            series=tuple(series),
            index=tuple(
                stacked_contexts(block_structure(s.space, s.n_classes), s.genes[r]) for s, r in chosen
            ),
            logs=np.log(np.concatenate([s.ms[r] for s, r in chosen])),
            size=np.repeat(size, size),
            source=np.repeat(source, size),
            device=np.repeat(device, size),
            host=np.repeat(host, size),
            sources=tuple(sources.tolist()),
        )

    def rooflines(self, exponent: float) -> tuple[np.ndarray, np.ndarray]:
        """Least times (n, n_classes) and numbers of kernels (n,) of all rows' subnets."""
        times, kernels = [], []
        for s, index in zip(self.series, self.index, strict=True):
            t, k = rooflines(block_structure(s.space, s.n_classes), s.platform, exponent)
            times.append(t[index].sum(axis=1))
            kernels.append(k[index].sum(axis=1))
        return np.concatenate(times), np.concatenate(kernels)


class _Problem:
    """Residuals of a family at one exponent, as a function of the logarithms of its parameters.

    These are: the classes' efficiencies, the kernels' floor, the host's time, then a factor of each source,
    of each device, and of each host.
    """

    def __init__(self, rows: _Rows, family: str, exponent: float) -> None:
        self._rows, self._gpu = rows, family == "gpu"
        self._times, self._kernels = rows.rooflines(exponent)
        n_classes = len(KERNEL_CLASSES)
        counts = [n_classes, 1, 1, len(rows.sources), 1 + int(rows.device.max()), 1 + int(rows.host.max())]
        self._ends = np.cumsum(counts)
        # Every class is expected to take an equal part of half the latency. Series count alike.
        shares = np.average(self._times / np.exp(rows.logs)[:, None], axis=0, weights=1 / rows.size)
        efficiency = np.clip(np.log(0.5 / n_classes / np.maximum(shares, 1e-9)), -6.0, 6.0)
        self.start = np.zeros(self._ends[-1])
        self.start[: n_classes + 2] = [*efficiency, np.log(0.01), np.log(0.05)]
        spreads = [_SPREAD_EFFICIENCY, 1.0, 2.0, SPREAD_SOURCE, _SPREAD_DEVICE[family], _SPREAD_HOST]
        self._spreads = np.repeat(spreads, counts)
        self._exponent = (exponent - _EXPECTED_EXPONENT) / _EXPONENT_SPREAD if self._gpu else 0.0
        # Rows of one series are not independent: four of them count.
        self._weights = 2 / _SPREAD_FIT / np.sqrt(rows.size)

    def split(self, q: np.ndarray) -> list[np.ndarray]:
        return np.split(q, self._ends[:-1])

    def _terms(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Log latency of every row (n,); shares of the classes and the floor in the device's time
        (n, n_classes + 1); how much of the latency follows the device (n,), the rest follows the host."""
        efficiency, floor, host, source, device, hosts = self.split(q)
        parts = np.column_stack([self._times * np.exp(efficiency), self._kernels * np.exp(floor)])
        work = parts.sum(axis=1)
        busy = np.log(work) + source[self._rows.source] + device[self._rows.device]
        follows = np.ones(len(busy))
        if self._gpu:
            waiting = np.log(self._kernels) + host + hosts[self._rows.host]
            latency = np.logaddexp(OVERLAP * busy, OVERLAP * waiting) / OVERLAP
            follows = np.exp(OVERLAP * (busy - latency))
            busy = latency
        return busy, parts / work[:, None], follows

    def __call__(self, q: np.ndarray) -> np.ndarray:
        latency = self._terms(q)[0]
        beliefs = (q - self.start) / self._spreads
        return np.concatenate([(latency - self._rows.logs) * self._weights, beliefs, [self._exponent]])

    def jacobian(self, q: np.ndarray) -> np.ndarray:
        """Of the residuals by the parameters."""
        _, shares, follows = self._terms(q)
        n, rows = len(follows), self._rows
        out = np.zeros((n + len(q) + 1, len(q)))
        device, host = follows * self._weights, (1 - follows) * self._weights
        _, hosts, sources, devices, host_factors = self._ends[:-1]
        at = np.arange(n)
        out[:n, :hosts] = device[:, None] * shares
        out[:n, hosts] = host
        out[at, sources + rows.source] = device
        out[at, devices + rows.device] = device
        out[at, host_factors + rows.host] = host
        out[n + np.arange(len(q)), np.arange(len(q))] = 1 / self._spreads
        return out


def _fit_family(series: Sequence[Series], family: str) -> Family:
    """What the devices of one kind, "gpu" or "cpu", share; the series are all of that kind."""
    gpu = family == "gpu"
    if gpu:
        series = [s for s in series if max(s.space.resolutions) >= _LEAST_GPU_PIXELS] or series
    rows = _Rows.of(series)
    fits = []
    for exponent in _EXPONENTS if gpu else (0.0,):
        problem = _Problem(rows, family, exponent)
        found = least_squares(problem, problem.start, problem.jacobian, max_nfev=100)
        fits.append((found, problem, exponent))
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

"""Latency on hardware that was never measured, from its descriptor; a few measurements then adapt it.

The device's time is a sum of rooflines, each kernel class with an efficiency that all devices of a family
share; a GPU's host launches kernels meanwhile, and the slower of the two decides:

    latency = ((f (sum_c e_c roofline_c + floor kernels))^p + (host kernels)^p)^(1/p)

with f the product of a factor of the data set (software and way of timing) and one of the device. All are
fitted together in log space, the device's factor pulled to 1, so that a device left out is predicted with 1.

Where other targets were measured in the same space, their tables say in which directions devices differ. They
are handed to `LatencyRegressor` as variations, which is why ten measurements can go a long way.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.estimators.contract import FunctionCost
from ofa_tvm.estimators.files import (
    CLASSES,
    COUNT,
    SCORES,
    TEXT,
    damaged,
    read_model,
    space_of,
    tables_array,
    tables_of,
    write_model,
)
from ofa_tvm.estimators.metrics import errors
from ofa_tvm.latency.dataset import LatencyTable
from ofa_tvm.latency.features import FEATURE_NAMES, KERNEL_CLASSES, context_features
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.latency.roofline import is_cpu, rooflines
from ofa_tvm.spaces import LayeredSpace, get_layered_space
from ofa_tvm.spaces.blocks import (
    BlockStructure,
    BlockTables,
    block_structure,
    resolution_of_contexts,
    stacked_contexts,
)
from ofa_tvm.targets.devices import Device, Platform, find_platform

KIND = "generalized_latency"


def _between(least: float, most: float) -> dict[str, Any]:
    return {"type": "number", "minimum": least, "maximum": most}


def _table(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": sorted(properties),
        "additionalProperties": False,
    }


_EFFICIENCIES = {"type": "array", "items": _between(0, 1e9)}
_FAMILY = _table(
    {
        "efficiency": _EFFICIENCIES | {"minItems": len(KERNEL_CLASSES), "maxItems": len(KERNEL_CLASSES)},
        "floor_ms": _between(0, 1e6),
        "host_ms": _between(0, 1e6),
        "exponent": _between(-10, 10),
        "sources": {"type": "object", "minProperties": 1, "additionalProperties": _between(-50, 50)},
        "spread": _between(0, 100),
    }
)
_REFERENCE = _table(
    {
        "name": TEXT,
        "device": TEXT,
        "batch": COUNT,
        "space": TEXT,
        "n_classes": CLASSES,
        "rows": COUNT,
        "deviation_ms": _between(0, 1e9),
    }
)
_HEADER = {
    "families": {"type": "object", "additionalProperties": _FAMILY},
    "references": {"type": "array", "items": _REFERENCE},
    "validation": {"type": "object", "additionalProperties": SCORES},
    "data_sha256": TEXT,
}
_ROWS = 80  # of each series: a roofline has few unknowns
_MOST_ROWS = 7000  # of a reference
_OVERLAP = 4.0  # p above: host and device overlap almost perfectly
_EXPONENTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_EXPECTED_EXPONENT, _EXPONENT_SPREAD = 0.5, 0.2
# Standard deviations of logarithms expected beforehand.
_SPREAD_EFFICIENCY, _SPREAD_SOURCE, _SPREAD_HOST, _SPREAD_FIT = 3.0, 0.7, 0.4, 0.05
# On a GPU smaller networks tell of launches, not of rooflines; with them others are predicted worse.
_LEAST_GPU_PIXELS = 64
_SPREAD_DEVICE = {"gpu": 0.05, "cpu": 0.3}
# What is free in a new target where nothing else is known: an efficiency, and the cost of a kernel.
_FREE_EFFICIENCY, _FREE_KERNEL = 0.3, 0.5
# A space's mean subnet may have so many times more or less work than those that were measured.
_BEYOND = 2.0


def family_of(platform: Platform) -> str:
    """Devices that share efficiencies: "gpu", "cpu", or "other" (each of its own kind)."""
    if platform.device.kind in ("asic", "fpga"):
        return "other"
    return "cpu" if is_cpu(platform) else "gpu"


@dataclass(frozen=True)
class Series:
    """Measured latencies of one platform: a column of a latency table.

    Attributes
    ----------
    source : who measured with which software, e.g. the file's name; tables of one source share a factor
    """

    name: str
    platform: Platform
    space: LayeredSpace
    genes: np.ndarray
    ms: np.ndarray
    source: str = ""
    n_classes: int = 1000

    @property
    def family(self) -> str:
        return family_of(self.platform)


def series_of(
    table: LatencyTable, devices: list[Device], name: str | None = None, source: str | None = None
) -> list[Series]:
    """The columns of a latency table with the hardware behind them.

    Parameters
    ----------
    name : only this column
    source : default what the file is called, so that tables of one file share a factor

    Raises
    ------
    UserError
        If no descriptor claims a column.
    UsageError
        If there is no such column, or one counts instructions of an emulator or is of float16 networks.
    """
    chosen = table.columns if name is None else (table.column(name)[0],)
    genes = table.space.encode(table.archs)
    series = []
    for column in chosen:
        if column.unit != "ms":
            raise UsageError(
                f"{table.path}: {column.name} counts instructions of an emulator, which hardware does not "
                "predict; choose columns in ms with --target-column"
            )
        if column.dtype != "float32":
            raise UsageError(
                f"{table.path}: {column.name} is of {column.dtype} networks, and a generalized model knows "
                "only the float32 peak of devices; choose float32 columns with --target-column, or "
                "`predictor adapt` to this one"
            )
        series.append(
            Series(
                column.series,
                find_platform(column.target, column.batch, devices),
                table.space,
                genes,
                table.column(column.name)[1],
                Path(table.path).name.split(".")[0] if source is None else source,
                table.n_classes,
            )
        )
    return series


def shipped_model() -> GeneralizedLatency:
    """The model that comes with the package; `benchmarks/latency/fit_shipped.py` says from which data."""
    return GeneralizedLatency.load(Path(__file__).parent / "data" / "generalized.model")


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


def _slower(device: np.ndarray, host: np.ndarray) -> np.ndarray:
    """The p-norm above, safe where one of them is 0."""
    larger = np.maximum(device, host)
    return larger * (((device / larger) ** _OVERLAP + (host / larger) ** _OVERLAP) ** (1 / _OVERLAP))


def _fit_family(series: Sequence[Series], family: str) -> Family:
    if family == "gpu":
        series = [s for s in series if max(s.space.resolutions) >= _LEAST_GPU_PIXELS] or series
    rng = np.random.default_rng(0)
    rows = [rng.permutation(len(s.ms))[:_ROWS] for s in series]
    logs = [np.log(s.ms[r]) for s, r in zip(series, rows, strict=True)]
    sources = sorted({s.source for s in series})
    devices = sorted({s.platform.device.identity for s in series})
    hosts = sorted({(s.source, s.platform.device.identity) for s in series})
    source_of = np.array([sources.index(s.source) for s in series])
    device_of = np.array([devices.index(s.platform.device.identity) for s in series])
    host_of = np.array([hosts.index((s.source, s.platform.device.identity)) for s in series])
    spread = _SPREAD_DEVICE[family]
    gpu = family == "gpu"
    n_classes = len(KERNEL_CLASSES)
    ends = np.cumsum([n_classes, 1, 1, len(sources), len(devices)])
    best: tuple[float, float, np.ndarray] | None = None
    for exponent in _EXPONENTS if gpu else (0.0,):
        times, kernels = [], []
        for s, r in zip(series, rows, strict=True):
            structure = block_structure(s.space, s.n_classes)
            index = stacked_contexts(structure, s.genes[r])
            t, k = rooflines(structure, s.platform, exponent)
            times.append(t[index].sum(axis=1))
            kernels.append(k[index].sum(axis=1))
        # Every class is expected to take an equal part of half the latency.
        shares = np.mean(
            [(t / np.exp(y)[:, None]).mean(axis=0) for t, y in zip(times, logs, strict=True)], axis=0
        )
        centre = np.clip(np.log(0.5 / n_classes / np.maximum(shares, 1e-9)), -6.0, 6.0)

        def residuals(
            q: np.ndarray,
            times: list[np.ndarray] = times,
            kernels: list[np.ndarray] = kernels,
            centre: np.ndarray = centre,
            exponent: float = exponent,
        ) -> np.ndarray:
            efficiency, floor, host, source, device, hosts_ = np.split(q, ends)
            out = []
            for i, (t, k, y) in enumerate(zip(times, kernels, logs, strict=True)):
                busy = np.log(t @ np.exp(efficiency) + np.exp(floor) * k)
                busy = busy + source[source_of[i]] + device[device_of[i]]
                if gpu:
                    waiting = np.log(k) + host + hosts_[host_of[i]]
                    busy = np.logaddexp(_OVERLAP * busy, _OVERLAP * waiting) / _OVERLAP
                # Rows of one series are not independent: four of them count.
                out.append((busy - y) / _SPREAD_FIT * 2 / np.sqrt(len(y)))
            beliefs = [
                (efficiency - centre) / _SPREAD_EFFICIENCY,
                (floor - np.log(0.01)),
                (host - np.log(0.05)) / 2,
                source / _SPREAD_SOURCE,
                device / spread,
                hosts_ / _SPREAD_HOST,
                [(exponent - _EXPECTED_EXPONENT) / _EXPONENT_SPREAD if gpu else 0.0],
            ]
            return np.concatenate([*out, *beliefs])

        start = np.concatenate(
            [centre, [np.log(0.01), np.log(0.05)], np.zeros(len(sources) + len(devices) + len(hosts))]
        )
        found = least_squares(residuals, start, max_nfev=100)
        if best is None or found.cost < best[0]:
            best = (float(found.cost), exponent, found.x)
    assert best is not None  # there is at least one exponent
    _, exponent, q = best
    efficiency, floor, host, source, _, _ = np.split(q, ends)
    return Family(
        np.exp(efficiency),
        float(np.exp(floor[0])),
        float(np.exp(host[0])) if gpu else 0.0,
        exponent,
        dict(zip(sources, source.tolist(), strict=True)),
    )


def fit_families(series: Sequence[Series]) -> dict[str, Family]:
    """What the devices of each kind among the series share."""
    return {
        family: _fit_family(members, family)
        for family in ("gpu", "cpu")
        if (members := [s for s in series if s.family == family])
    }


@dataclass(frozen=True)
class Reference:
    """A measured series as tables over its space, and on what it was measured.

    `deviation_ms` is how far a row is from its prediction by all others, as a standard deviation.
    """

    name: str
    device: str
    batch: int
    space: str
    n_classes: int
    rows: int
    deviation_ms: float
    tables: BlockTables = field(repr=False)


@dataclass(frozen=True, eq=False)
class Estimate(FunctionCost):
    """Latencies of a device that was not measured; `spread` is their logarithm's standard deviation."""

    spread: float = 0.0

    @property
    def factor(self) -> float:
        """In 95 % of cases the true latency is at most so many times more or less."""
        return float(np.exp(1.96 * self.spread))


class GeneralizedLatency:
    """Latency from hardware descriptors; see the module.

    Attributes
    ----------
    families : dict of str to Family
        "gpu" and "cpu", as far as there were series of them.
    references : tuple of Reference
    validation_ : dict
        For each device, what leaving it out gives: per series mape and Spearman's correlation.
    data_sha256_ : str
    """

    families: dict[str, Family]
    references: tuple[Reference, ...]
    validation_: dict[str, dict[str, float]]
    data_sha256_: str

    def fit(
        self, series: Sequence[Series], *, validate: bool = True, rows_used: int = _MOST_ROWS
    ) -> GeneralizedLatency:
        """Fit to the series of many platforms.

        Parameters
        ----------
        series : sequence of Series
        validate : bool
            Leave out each device in turn, to know how far off an unseen one is.
        rows_used : int
            Rows of each series that its own tables are fitted to, at most.

        Raises
        ------
        UserError
            If there are no series, or a descriptor lacks its peak.
        """
        if not series:
            raise UserError("a generalized model needs at least one column of latencies")
        self.families, self.validation_ = {}, {}
        for family in ("gpu", "cpu"):
            members = [s for s in series if s.family == family]
            if not members:
                continue
            fitted = _fit_family(members, family)
            if validate:
                fitted = self._validate(members, family, fitted)
            self.families[family] = fitted
        self.references = tuple(reference_of(s, rows_used) for s in series)
        digest = hashlib.sha256()
        for s in series:
            digest.update(f"{s.name} {s.space.name} {s.source}".encode())
            digest.update(np.ascontiguousarray(s.genes, dtype="<i2").tobytes())
            digest.update(np.ascontiguousarray(s.ms, dtype="<f8").tobytes())
        self.data_sha256_ = digest.hexdigest()
        return self

    def _validate(self, members: Sequence[Series], family: str, fitted: Family) -> Family:
        gaps = []
        for device in sorted({s.platform.device.identity for s in members}):
            rest = [s for s in members if s.platform.device.identity != device]
            if not rest:
                continue
            other = GeneralizedLatency()
            other.families, other.references = {family: _fit_family(rest, family)}, ()
            for s in members:
                if s.platform.device.identity == device:
                    predicted = other.zero_shot(s.space, s.platform, s.source, s.n_classes)(s.genes)
                    scores = errors(predicted, s.ms)
                    self.validation_[f"{s.space.name}/{s.source}/{s.name}"] = {
                        key: scores[key] for key in ("n", "mape", "spearman")
                    }
                    gaps.append(np.sqrt(np.mean(np.log(predicted / s.ms) ** 2)))
        if not gaps:
            return fitted
        spread = float(np.sqrt(np.mean(np.square(gaps))))
        return Family(
            fitted.efficiency,
            fitted.floor_ms,
            fitted.host_ms,
            fitted.exponent,
            fitted.sources,
            spread,
        )

    def _family(self, platform: Platform) -> Family:
        name = family_of(platform)
        if name not in self.families:
            kind = platform.device.kind if name == "other" else name
            raise UserError(
                f"the model was fitted to no {kind.upper()}, so it knows nothing of {platform.device.name}; "
                "measure at least one subnet and use `ofa-tvm predictor adapt`"
            )
        return self.families[name]

    def zero_shot(
        self,
        space: LayeredSpace,
        platform: Platform,
        source: str | None = None,
        n_classes: int = 1000,
    ) -> BlockTables:
        """Latency in ms from the descriptor alone, as tables.

        The norm of device and host is replaced by its tangent at each resolution's mean subnet, where it is
        exact (it is homogeneous, so the tangent has no constant).

        Parameters
        ----------
        source : data set whose way of measuring is meant; None: an average one

        Raises
        ------
        UserError
            If the model knows no device of this kind, or the descriptor lacks its peak.
        """
        return self._parts(self._family(platform), space, platform, source, n_classes)[0]

    def known(
        self, space: LayeredSpace, platform: Platform, name: str | None = None, n_classes: int = 1000
    ) -> Reference | None:
        """The reference of a device at a batch size in a space, or of a column of that name; None if it was
        not measured there."""
        for r in self.references:
            if (r.space, r.n_classes, r.device) != (space.name, n_classes, platform.device.identity):
                continue
            if r.batch == platform.batch and name in (None, r.name):
                return r
        return None

    def _parts(
        self,
        family: Family,
        space: LayeredSpace,
        platform: Platform,
        source: str | None,
        n_classes: int,
    ) -> tuple[BlockTables, list[BlockTables]]:
        """The tables, and the parts that they are the sum of: a kernel class each, then the kernels' own."""
        structure = block_structure(space, n_classes)
        device, host = family.parts(structure, platform, source)
        at = resolution_of_contexts(structure)
        slopes = np.ones((len(space.resolutions), 2))
        if family.host_ms:
            rng = np.random.default_rng(0)
            genes = space.sample_genes(rng, 64 * len(space.resolutions))
            genes[:, -1] = np.arange(len(genes)) % len(space.resolutions)
            index = stacked_contexts(structure, genes)
            for i in range(len(space.resolutions)):
                rows = index[genes[:, -1] == i]
                d = float(device.sum(axis=1)[rows].sum(axis=1).mean())
                h = float(host[rows].sum(axis=1).mean())
                total = float(_slower(np.array(d), np.array(h)))
                slopes[i] = (d / total) ** (_OVERLAP - 1), (h / total) ** (_OVERLAP - 1)
        device = device * slopes[at, :1]
        kernels = device[:, -1] + host * slopes[at, 1]
        columns = [*device[:, :-1].T, kernels]
        parts = [structure.unstacked(column) for column in columns]
        return structure.unstacked(np.sum(columns, axis=0)), parts

    def spread(self, platform: Platform, source: str | None = None) -> float:
        """Standard deviation of the logarithm of an unseen device's latency around `zero_shot`.

        Of software that the model was not fitted to, the level is not known either.
        """
        family = self._family(platform)
        if source in family.sources:
            return family.spread
        levels = np.array(list(family.sources.values()))
        # What is expected beforehand counts as one data set more.
        software = (_SPREAD_SOURCE**2 + ((levels - levels.mean()) ** 2).sum()) / len(levels)
        return float(np.sqrt(family.spread**2 + software))

    def estimate(self, space: LayeredSpace, platform: Platform, n_classes: int = 1000) -> Estimate:
        """`zero_shot` for spaces like those that the model was fitted to.

        Raises
        ------
        UserError
            As `zero_shot`, and if the space's networks are smaller than any that the model was fitted to or
            do other work.
        """
        tables = self.zero_shot(space, platform, n_classes=n_classes)
        seen = {r.space: _work(get_layered_space(r.space), r.n_classes) for r in self.references}
        work = _work(space, n_classes)
        least = min(w.sum() for w in seen.values()) / _BEYOND
        most = _BEYOND * np.max(list(seen.values()), axis=0)
        if space.name not in seen and (work.sum() < least or (work > most).any()):
            raise UserError(
                f"the model was fitted to networks like those of {', '.join(sorted(seen))}, and the space "
                f"{space.name} is unlike them"
            )
        return Estimate(space, tables, n_classes=n_classes, spread=self.spread(platform))

    def prior(
        self,
        space: LayeredSpace,
        platform: Platform,
        source: str | None = None,
        n_classes: int = 1000,
    ) -> LatencyRegressor:
        """An estimator to be fitted to the first measurements of a target.

        Raises
        ------
        UserError
            As `zero_shot`.
        """
        # A scale and every efficiency are free, so that any family does for a device of its own kind.
        family = self.families.get(family_of(platform)) or next(reversed(self.families.values()))
        guess, parts = self._parts(family, space, platform, source, n_classes)
        sample = space.sample_genes(np.random.default_rng(1), 512)
        level = float(guess(sample).mean())
        guess = guess.scaled(1 / level)
        free = [_FREE_EFFICIENCY] * (len(parts) - 1) + [_FREE_KERNEL]
        variations = [part.scaled(f / level) for part, f in zip(parts, free, strict=True)]
        known = [r for r in self.references if r.space == space.name and r.n_classes == n_classes]
        for reference in known:
            values = reference.tables(sample)
            shape = reference.tables.scaled(1 / (float(values.mean()) * np.sqrt(len(known))))
            variations.append(shape + guess.scaled(-1 / np.sqrt(len(known))))
        return LatencyRegressor(
            space,
            guess.scaled(level),
            target=platform.device.name,
            n_classes=n_classes,
            variations=variations,
        )

    # ---- files ----

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model as an npz file without pickles.

        Raises
        ------
        UserError
            If the file cannot be written.
        """
        header = {
            "features": list(KERNEL_CLASSES),
            "families": {
                name: {
                    "efficiency": f.efficiency.tolist(),
                    "floor_ms": f.floor_ms,
                    "host_ms": f.host_ms,
                    "exponent": f.exponent,
                    "sources": f.sources,
                    "spread": f.spread,
                }
                for name, f in self.families.items()
            },
            "references": [
                {
                    "name": r.name,
                    "device": r.device,
                    "batch": r.batch,
                    "space": r.space,
                    "n_classes": r.n_classes,
                    "rows": r.rows,
                    "deviation_ms": r.deviation_ms,
                }
                for r in self.references
            ],
            "validation": self.validation_,
            "data_sha256": self.data_sha256_,
        }
        tables = [tables_array(r.tables).astype(np.float32) for r in self.references]
        write_model(path, KIND, header, {f"reference{i}": table for i, table in enumerate(tables)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GeneralizedLatency:
        """Read what `save` wrote.

        Raises
        ------
        UserError
            If the file is missing, damaged, or no such model.
        """
        header, arrays = read_model(path, KIND, _HEADER)
        model = cls()
        model.families = {
            name: Family(np.array(fields.pop("efficiency"), dtype=np.float64), **fields)
            for name, fields in header["families"].items()
        }
        references = []
        for i, fields in enumerate(header["references"]):
            if f"reference{i}" not in arrays:
                raise damaged(path, f"it lacks reference{i}")
            structure = block_structure(space_of(path, fields, get_layered_space), fields["n_classes"])
            references.append(Reference(**fields, tables=tables_of(structure, arrays[f"reference{i}"], path)))
        model.references = tuple(references)
        model.validation_, model.data_sha256_ = header["validation"], header["data_sha256"]
        return model


def _work(space: LayeredSpace, n_classes: int) -> np.ndarray:
    """Millions of multiply-adds of a mean subnet in each kernel class."""
    structure = block_structure(space, n_classes)
    genes = space.sample_genes(np.random.default_rng(0), 64)
    features = np.concatenate(context_features(structure))[stacked_contexts(structure, genes)]
    macs = [FEATURE_NAMES.index(f"{kind}_macs") for kind in KERNEL_CLASSES]
    return np.asarray(features[..., macs].sum(axis=1).mean(axis=0))


def reference_of(s: Series, rows_used: int = _MOST_ROWS) -> Reference:
    """Fit tables to a series, or to random rows of it."""
    rows = np.random.default_rng(0).permutation(len(s.ms))[:rows_used]
    model = LatencyRegressor(s.space, n_classes=s.n_classes).fit(s.genes[rows], s.ms[rows])
    return Reference(
        s.name,
        s.platform.device.identity,
        s.platform.batch,
        s.space.name,
        s.n_classes,
        len(rows),
        model.validation_.get("rmse", 0.0),
        model.tables,
    )

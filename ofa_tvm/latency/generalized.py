"""Latency on hardware that was never measured, from its descriptor; a few measurements then adapt it.

The device's time is a sum of rooflines, each kernel class with an efficiency that all devices of a family
share; a GPU's host launches kernels meanwhile, and the slower of the two decides (see `families`).

Where other targets were measured in the same space, their tables say in which directions devices differ
(see `references`). They are handed to `LatencyRegressor` as variations, which is why ten measurements can go
a long way.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from scipy.stats import t as student
from threadpoolctl import threadpool_limits

from ofa_tvm.errors import UserError
from ofa_tvm.estimators.base import Arrays, Estimator, Header
from ofa_tvm.estimators.files import SCORES, TEXT, damaged, space_of, tables_array, tables_of
from ofa_tvm.estimators.metrics import errors
from ofa_tvm.latency.dataset import same_series
from ofa_tvm.latency.families import FAMILY_SCHEMA, OVERLAP, SPREAD_SOURCE, Family, fit_families, slower
from ofa_tvm.latency.features import KERNEL_CLASSES
from ofa_tvm.latency.references import MOST_ROWS, REFERENCE_SCHEMA, Reference, reference_of
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.latency.series import Series, family_of
from ofa_tvm.progress import SILENT, Progress, Task
from ofa_tvm.spaces import LayeredSpace, get_layered_space
from ofa_tvm.spaces.blocks import BlockTables, block_structure, resolution_of_contexts, stacked_contexts
from ofa_tvm.targets.devices import Platform

# What is free in a new target where nothing else is known: an efficiency, and the cost of a kernel.
_FREE_EFFICIENCY, _FREE_KERNEL = 0.3, 0.5


def shipped_model() -> GeneralizedLatency:
    """The model that comes with the package; `benchmarks/latency/fit_shipped.py` says from which data."""
    return GeneralizedLatency.load(Path(__file__).parent / "data" / "generalized.model")


class GeneralizedLatency(Estimator):
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

    KIND = "generalized_latency"
    FEATURES = KERNEL_CLASSES
    HEADER: ClassVar = {
        "families": {"type": "object", "additionalProperties": FAMILY_SCHEMA},
        "references": {"type": "array", "items": REFERENCE_SCHEMA},
        "validation": {"type": "object", "additionalProperties": SCORES},
        "data_sha256": TEXT,
    }

    families: dict[str, Family]
    references: tuple[Reference, ...]
    validation_: dict[str, dict[str, float]]
    data_sha256_: str = ""

    def fit(
        self,
        series: Sequence[Series],
        *,
        validate: bool = True,
        rows_used: int = MOST_ROWS,
        progress: Progress = SILENT,
    ) -> Self:
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
        self.validation_ = {}
        devices = {s.platform.device.identity for s in series if s.family != "other"} if validate else set()
        # Matrices are too small to share between threads.
        with progress.task("fit", len(series) + len(devices)) as task, threadpool_limits(1, user_api="blas"):
            self.families = fit_families(series)
            if validate:
                self.families = {
                    name: self._validate([s for s in series if s.family == name], family, task)
                    for name, family in self.families.items()
                }
            references = []
            for s in series:
                references.append(reference_of(s, rows_used))
                task.advance(note=s.name)
            self.references = tuple(references)
        digest = hashlib.sha256()
        for s in series:
            digest.update(f"{s.name} {s.space.name} {s.source}".encode())
            digest.update(np.ascontiguousarray(s.genes, dtype="<i2").tobytes())
            digest.update(np.ascontiguousarray(s.ms, dtype="<f8").tobytes())
        self.data_sha256_ = digest.hexdigest()
        return self

    def _validate(self, members: Sequence[Series], fitted: Family, task: Task) -> Family:
        """The family with the spread that leaving out each of its devices gives."""
        gaps = []
        for device in sorted({s.platform.device.identity for s in members}):
            task.advance(note=f"without {device}")
            rest = [s for s in members if s.platform.device.identity != device]
            if not rest:
                continue
            other = GeneralizedLatency()
            other.families, other.references = fit_families(rest), ()
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
        return replace(fitted, spread=float(np.sqrt(np.mean(np.square(gaps)))))

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
        n_classes: int | None = None,
    ) -> BlockTables:
        """Latency in ms from the descriptor alone, as tables.

        The norm of device and host is replaced by its tangent at each resolution's mean subnet, where it is
        exact (it is homogeneous, so the tangent has no constant).

        Parameters
        ----------
        source : data set whose way of measuring is meant; None: an average one
        n_classes : of the networks; None: as is usual in the space

        Raises
        ------
        UserError
            If the model knows no device of this kind, or the descriptor lacks its peak.
        """
        return self._parts(self._family(platform), space, platform, source, n_classes)[0]

    def known(
        self,
        space: LayeredSpace,
        platform: Platform,
        name: str | None = None,
        n_classes: int | None = None,
        source: str | None = None,
    ) -> Reference | None:
        """The reference of a device at a batch size in a space, or of a column of that name, or of a source;
        None if it was not measured there."""
        wanted = (space.name, n_classes or space.usual_classes, platform.device.identity, platform.batch)
        for r in self.references:
            asked = source in (None, r.source) and (name is None or same_series(name, r.name))
            if asked and (r.space, r.n_classes, r.device, r.batch) == wanted:
                return r
        return None

    def without(self, device: str) -> GeneralizedLatency:
        """The same model without the tables of a device; what devices share stays as it is."""
        other = GeneralizedLatency()
        other.families, other.validation_, other.data_sha256_ = self.families, {}, self.data_sha256_
        other.references = tuple(r for r in self.references if r.device != device)
        return other

    def _parts(
        self,
        family: Family,
        space: LayeredSpace,
        platform: Platform,
        source: str | None,
        n_classes: int | None,
    ) -> tuple[BlockTables, list[BlockTables]]:
        """The tables, and the parts that they are the sum of: a kernel class each, then the kernels' own."""
        structure = block_structure(space, n_classes or space.usual_classes)
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
                total = float(slower(np.array(d), np.array(h)))
                slopes[i] = (d / total) ** (OVERLAP - 1), (h / total) ** (OVERLAP - 1)
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
        software = (SPREAD_SOURCE**2 + ((levels - levels.mean()) ** 2).sum()) / len(levels)
        return float(np.sqrt(family.spread**2 + software))

    def deviation(self, platform: Platform, source: str | None = None) -> float:
        """`spread`, widened so that 95 % of unseen devices are within 1.96 times of it.

        Few devices were left out to find it, and tell little of how far off another may be: Student's t.
        """
        family = family_of(platform)
        devices = {r.device for r in self.references if r.family in (family, "")}
        return self.spread(platform, source) * float(student.ppf(0.975, max(1, len(devices)))) / 1.96

    def expectation(self, space: LayeredSpace, platform: Platform) -> str:
        """How well devices of a platform's kind were predicted that were left out, as part of a sentence."""
        family = family_of(platform)
        left_out = [
            (r, scores)
            for r in self.references
            if r.family == family
            and (scores := self.validation_.get(f"{r.space}/{r.source}/{r.name}")) is not None
        ]
        for seen in (
            [scores for r, scores in left_out if (r.space, r.batch) == (space.name, platform.batch)],
            [scores for r, scores in left_out if r.space == space.name],
            [scores for _, scores in left_out],
        ):
            if len(seen) > 1:
                break
        if not seen:
            return "how far off that may be was not found out"
        off, ranks = ([scores[what] for scores in seen] for what in ("mape", "spearman"))
        return (
            f"{len(seen)} columns of {family.upper()}s that were left out were "
            f"{min(off):.0%} to {max(off):.0%} off, with rank correlations of {min(ranks):.2f} to "
            f"{max(ranks):.2f}"
        )

    def prior(
        self,
        space: LayeredSpace,
        platform: Platform,
        source: str | None = None,
        n_classes: int | None = None,
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
        known = [r for r in self.references if r.space == space.name]
        for reference in known:
            # Other numbers of classes change one entry of the tables, by little.
            tables = guess.structure.unstacked(reference.tables.stacked, reference.tables.constant)
            shape = tables.scaled(1 / (float(tables(sample).mean()) * np.sqrt(len(known))))
            variations.append(shape + guess.scaled(-1 / np.sqrt(len(known))))
        return LatencyRegressor(
            space,
            guess.scaled(level),
            target=platform.device.name,
            n_classes=n_classes or space.usual_classes,
            variations=variations,
        )

    # ---- files ----

    def _stored(self) -> tuple[Header, Arrays]:
        families = {
            name: asdict(family) | {"efficiency": family.efficiency.tolist()}
            for name, family in self.families.items()
        }
        header = {
            "families": families,
            "references": [reference.fields for reference in self.references],
            "validation": self.validation_,
            "data_sha256": self.data_sha256_,
        }
        tables = [tables_array(r.tables).astype(np.float32) for r in self.references]
        return header, {f"reference{i}": table for i, table in enumerate(tables)}

    @classmethod
    def _restored(
        cls, path: str | os.PathLike[str], header: Header, arrays: Arrays, space: LayeredSpace | None
    ) -> Self:
        model = cls()
        model.families = {
            name: Family(np.array(fields.pop("efficiency"), dtype=np.float64), **fields)
            for name, fields in header["families"].items()
        }
        references = []
        for i, fields in enumerate(header["references"]):
            if f"reference{i}" not in arrays:
                raise damaged(path, f"it lacks reference{i}")
            fields.setdefault("source", _source_of(fields, header["validation"]))
            structure = block_structure(space_of(path, fields, get_layered_space, space), fields["n_classes"])
            references.append(Reference(**fields, tables=tables_of(structure, arrays[f"reference{i}"], path)))
        model.references = tuple(references)
        model.validation_, model.data_sha256_ = header["validation"], header["data_sha256"]
        return model


def _source_of(fields: Mapping[str, Any], validation: Mapping[str, Any]) -> str:
    """Of a reference in a file of a version that did not note it: as the validation calls its column."""
    for key in validation:
        space, _, rest = key.partition("/")
        source, _, name = rest.rpartition("/")
        if (space, name) == (fields["space"], fields["name"]):
            return source
    return ""

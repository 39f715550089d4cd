"""What `ofa-tvm predictor` does: latency models from tables and logs, of one target or over many devices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ofa_tvm.errors import UsageError
from ofa_tvm.estimators.base import kind_among
from ofa_tvm.estimators.metrics import errors, within95
from ofa_tvm.latency.adaptation import adapted
from ofa_tvm.latency.dataset import Column, LatencyTable, read_table, same_series
from ofa_tvm.latency.generalized import GeneralizedLatency, shipped_model
from ofa_tvm.latency.kernel_sum import KernelSum
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.latency.series import series_of
from ofa_tvm.latency.sources import choose_source, require_source
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.spaces import LayeredSpace
from ofa_tvm.spaces.archs_file import read_archs
from ofa_tvm.targets.devices import Platform, list_devices
from ofa_tvm.workflow.asked import Device, archs_of, chosen_space, table_of


@dataclass(frozen=True)
class Scores:
    """How well a model predicts a column of a table, and what there is to say of it."""

    name: str
    unit: str
    values: Mapping[str, float]
    remark: str = ""


@dataclass(frozen=True)
class Prediction:
    """Costs and their standard deviations, both (n,), of a target, and what they rest on."""

    space: LayeredSpace
    target: str
    unit: str
    mean: np.ndarray
    deviation: np.ndarray
    basis: str


class LatencyModel(ABC):
    """A stored latency model as the verbs ask it; `name` is for messages."""

    name: str

    @abstractmethod
    def archs(self, path: Path, device: Device) -> tuple[LayeredSpace, list[Any], str]:
        """A file's architectures, their space, and what is to be said of it."""

    @abstractmethod
    def table(self, data: Path, device: Device) -> tuple[LatencyTable, str]:
        """A table that it can be compared with or adapted to, and what is to be said of it."""

    @abstractmethod
    def scores(self, table: LatencyTable, target_column: str | None, device: Device) -> list[Scores]:
        """Its errors on the columns of a table, or on one of them."""

    @abstractmethod
    def adapted(
        self, table: LatencyTable, column: Column, values: np.ndarray, device: Device
    ) -> tuple[LatencyRegressor, list[str]]:
        """An estimator that starts from it, fitted to a column of a table, and what it started from."""

    @abstractmethod
    def regressor(self, device: Device) -> LatencyRegressor:
        """An estimator that knows which subnets would tell most."""

    @abstractmethod
    def predict(self, space: LayeredSpace, archs: Sequence[Any], device: Device) -> Prediction:
        """Costs of architectures of its space."""


@dataclass(frozen=True)
class OneTarget(LatencyModel):
    """A model of one target, in its own space."""

    name: str
    model: LatencyRegressor

    def archs(self, path: Path, device: Device) -> tuple[LayeredSpace, list[Any], str]:
        """Of its space."""
        return self.model.space, read_archs(path, self.model.space), ""

    def table(self, data: Path, device: Device) -> tuple[LatencyTable, str]:
        """A table of its space, of networks with its number of classes unless the notes say otherwise."""
        own = self.model.space
        table = read_table(data, device.space or own, device.classes)
        if table.space.name != own.name:
            raise UsageError(f"{self.name} is for {own.name}, {data} for {table.space.name}")
        return table, ""

    def scores(self, table: LatencyTable, target_column: str | None, device: Device) -> list[Scores]:
        """On one column: the named one, the only one, or its own target's."""
        model = self.model
        if target_column is None and len(table.columns) > 1:
            own = (c.name for c in table.columns if same_series(c.series, model.target))
            target_column = next(own, None)
        column, values = table.column(target_column)
        if column.unit != model.unit:
            raise UsageError(f"{self.name} predicts {model.unit}, but {column.name} is in {column.unit}")
        seen = set(model.space.decode(model.genes_))
        repeated = sum(arch in seen for arch in table.archs)
        remark = (
            f"column {column.name}; the model is of {model.target} in {model.space.name}, fitted to "
            f"{len(model.genes_)} subnets"
            + (f"; {repeated} of them are among those that it was fitted to" if repeated else "")
        )
        mean, deviation = model.predict(table.archs, return_std=True)
        found = errors(mean, values) | {"within95": within95(mean, deviation, values)}
        return [Scores(column.series, column.unit, found, remark)]

    def adapted(
        self, table: LatencyTable, column: Column, values: np.ndarray, device: Device
    ) -> tuple[LatencyRegressor, list[str]]:
        """With its tables as the first guess."""
        model = self.model
        start = LatencyRegressor(
            model.space, model.tables, target=column.series, unit=column.unit, n_classes=model.n_classes
        )
        return start.fit(table.archs, values), [f"it starts from the model of {model.target}"]

    def regressor(self, device: Device) -> LatencyRegressor:
        """The model itself."""
        return self.model

    def predict(self, space: LayeredSpace, archs: Sequence[Any], device: Device) -> Prediction:
        """On its target."""
        model = self.model
        mean, deviation = model.predict(archs, return_std=True)
        return Prediction(model.space, model.target, model.unit, mean, deviation, model.target)


@dataclass(frozen=True)
class ManyDevices(LatencyModel):
    """A model over many devices, which is asked about one of them and a space."""

    name: str
    model: GeneralizedLatency

    def archs(self, path: Path, device: Device) -> tuple[LayeredSpace, list[Any], str]:
        """Of the space that is named, else of one that the model knows."""
        return archs_of(self.model, path, device.space)

    def table(self, data: Path, device: Device) -> tuple[LatencyTable, str]:
        """A table of any space."""
        return table_of(self.model, data, device)

    def scores(self, table: LatencyTable, target_column: str | None, device: Device) -> list[Scores]:
        """On all columns: of those that it was fitted to by their tables, of others by their descriptor."""
        scores = []
        for s in series_of(table, device.known, target_column):
            source = self._source(table.space, s.platform, table.n_classes, device)
            known = self.model.known(s.space, s.platform, s.name, s.n_classes, device.source)
            if known is None:
                remark = (
                    f"{s.name} is none of the model's columns: predicted from its descriptor alone, "
                    f"{self._as_measured(source, device)}; {self.model.expectation(s.space, s.platform)}"
                )
                mean = self.model.zero_shot(s.space, s.platform, source, s.n_classes)(s.genes)
                inside = np.abs(np.log(mean / s.ms)) < 1.96 * self.model.deviation(s.platform, device.source)
                within = float(inside.mean())
            else:
                mean, remark = known.tables(s.genes), ""
                within = within95(mean, np.full(len(mean), known.deviation_ms), s.ms)
            scores.append(Scores(s.name, "ms", errors(mean, s.ms) | {"within95": within}, remark))
        return scores

    def adapted(
        self, table: LatencyTable, column: Column, values: np.ndarray, device: Device
    ) -> tuple[LatencyRegressor, list[str]]:
        """With what the column's hardware and the devices measured in the table's space say."""
        require_ms(column)
        platform = replace(device, target=column.target, batch=column.batch).platform
        genes = table.space.encode(table.archs)
        source = self._source(table.space, platform, table.n_classes, device, (genes, values))
        model = adapted(
            self.model,
            table.space,
            platform,
            genes,
            values,
            source=source,
            n_classes=table.n_classes,
            devices=device.known,
            target=column.series,
        )
        used = [r.name for r in self.model.references if r.space == table.space.name]
        others = sorted({r.space for r in self.model.references} - {table.space.name})
        return model, [
            f"it starts from {platform.device.name}, batch {platform.batch}, "
            f"{self._as_measured(source, device)}, and from how {len(used)} columns of {table.space.name} "
            f"differ ({', '.join(used) or 'none was measured there'})",
            f"not from {len(self.model.references) - len(used)} columns of other spaces "
            f"({', '.join(others)})" if others else "",
        ]  # fmt: skip

    def regressor(self, device: Device) -> LatencyRegressor:
        """With what the device's hardware says."""
        return self.model.prior(
            chosen_space(self.model, device.space), device.platform, n_classes=device.classes
        )

    def predict(self, space: LayeredSpace, archs: Sequence[Any], device: Device) -> Prediction:
        """On a device that it was fitted to from its measurements, on others from their hardware."""
        platform, classes = device.platform, device.classes
        source = self._source(space, platform, classes, device)
        genes = space.encode(archs)
        known = self.model.known(space, platform, n_classes=classes, source=device.source)
        basis = f"{platform.device.name}, batch {platform.batch}, "
        if known is not None:
            mean, deviation = known.tables(genes), np.full(len(genes), known.deviation_ms)
            basis += f"from {known.rows} measurements"
        else:
            mean = self.model.zero_shot(space, platform, source, classes)(genes)
            # Whose software is meant is a guess unless it was said.
            deviation = mean * self.model.deviation(platform, device.source)
            basis += (
                f"by descriptor alone, {self._as_measured(source, device)}; "
                f"{self.model.expectation(space, platform)}"
            )
        return Prediction(space, platform.device.name, "ms", mean, deviation, basis)

    def _source(
        self,
        space: LayeredSpace,
        platform: Platform,
        n_classes: int | None,
        device: Device,
        measured: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> str | None:
        if device.source is None:
            return choose_source(self.model, space, platform, n_classes, measured)
        require_source(self.model, device.source, space, platform)
        return device.source

    def _as_measured(self, source: str | None, device: Device) -> str:
        if source is None:
            return "as the model's data sets measure on average"
        chosen = "" if device.source else " (the likeliest; `predictor sources` lists them)"
        return f"as {source} measures{chosen}"


def open_model(path: Path | None) -> LatencyModel:
    """A stored model of either kind; without a path the one that ships.

    Raises
    ------
    UserError
        If the file is missing or damaged.
    UsageError
        If it holds another model.
    """
    if path is None:
        return ManyDevices("the model that ships", shipped_model())
    kinds: list[type[LatencyRegressor | GeneralizedLatency]] = [LatencyRegressor, GeneralizedLatency]
    if kind_among(path, kinds) is GeneralizedLatency:
        return ManyDevices(str(path), GeneralizedLatency.load(path))
    return OneTarget(str(path), LatencyRegressor.load(path))


def fit_column(
    table: LatencyTable, column: Column, values: np.ndarray, prior: KernelSum | None
) -> LatencyRegressor:
    """A model of one column of a table; a kernel sum, if there is one, is fitted to it first."""
    guess = None if prior is None else prior.fit(table.archs, values).tables
    return LatencyRegressor(
        table.space, guess, target=column.series, unit=column.unit, n_classes=table.n_classes
    ).fit(table.archs, values)


def fit_devices(
    tables: Sequence[LatencyTable],
    target_column: str | None,
    targets_dir: Path | None,
    progress: Progress = SILENT,
) -> tuple[GeneralizedLatency, list[str]]:
    """A model over the devices of all columns, and the columns' names."""
    devices = list_devices(targets_dir)
    series = [s for table in tables for s in series_of(table, devices, target_column)]
    return GeneralizedLatency().fit(series, progress=progress), [s.name for s in series]


def require_ms(column: Column) -> None:
    """Refuse a column that is no latency of hardware.

    Raises
    ------
    UsageError
        If it counts instructions.
    """
    if column.unit != "ms":
        raise UsageError(f"{column.name} counts instructions of an emulator, which hardware does not predict")

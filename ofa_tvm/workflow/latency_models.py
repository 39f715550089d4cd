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
from ofa_tvm.estimators.metrics import errors
from ofa_tvm.latency.dataset import Column, LatencyTable, read_table
from ofa_tvm.latency.generalized import GeneralizedLatency, shipped_model
from ofa_tvm.latency.kernel_sum import KernelSum
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.latency.series import series_of
from ofa_tvm.spaces import LayeredSpace, get_layered_space
from ofa_tvm.targets.devices import Platform, find_platform, list_devices


@dataclass(frozen=True)
class Device:
    """Which device and space a model over many devices is asked about; a model of one target knows its own.

    Attributes
    ----------
    target : str or None
        Name of a device, a column or a target.
    batch, threads : int
    space : str or None
    targets_dir : Path or None
        Folder of device files and targets; None for those that ship.
    source : str or None
        Data set whose way of measuring is meant.
    """

    target: str | None = None
    batch: int = 1
    threads: int | None = None
    space: str | None = None
    targets_dir: Path | None = None
    source: str | None = None

    @property
    def platform(self) -> Platform:
        """The hardware.

        Raises
        ------
        UsageError
            If no device is named.
        UserError
            If no descriptor claims the name.
        """
        name, devices = _needed(self.target, "--target"), list_devices(self.targets_dir)
        named = next((device for device in devices if device.name == name), None)
        if named is not None:
            return Platform(named, self.batch, self.threads)
        return replace(find_platform(name, self.batch, devices), threads=self.threads)

    @property
    def searched(self) -> LayeredSpace:
        """The space; raises UsageError if none is named."""
        return get_layered_space(_needed(self.space, "--space"))


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
    def space(self, device: Device) -> LayeredSpace:
        """The space that it is asked about."""

    @abstractmethod
    def table(self, data: Path, space: str | None) -> LatencyTable:
        """A table that it can be compared with or adapted to."""

    @abstractmethod
    def scores(self, table: LatencyTable, target_column: str | None, device: Device) -> list[Scores]:
        """Its errors on the columns of a table, or on one of them."""

    @abstractmethod
    def starting(self, table: LatencyTable, column: Column, device: Device) -> LatencyRegressor:
        """An estimator that starts from it, to be fitted to a column of a table."""

    @abstractmethod
    def regressor(self, device: Device) -> LatencyRegressor:
        """An estimator that knows which subnets would tell most."""

    @abstractmethod
    def predict(self, archs: Sequence[Any], device: Device) -> Prediction:
        """Costs of architectures of its space."""


@dataclass(frozen=True)
class OneTarget(LatencyModel):
    """A model of one target, in its own space."""

    name: str
    model: LatencyRegressor

    def space(self, device: Device) -> LayeredSpace:
        """The one that it was fitted in."""
        return self.model.space

    def table(self, data: Path, space: str | None) -> LatencyTable:
        """A table of its space."""
        own = self.model.space
        table = read_table(data, own if space is None else space)
        if table.space.name != own.name:
            raise UsageError(f"{self.name} is for {own.name}, {data} for {table.space.name}")
        return table

    def scores(self, table: LatencyTable, target_column: str | None, device: Device) -> list[Scores]:
        """On one column: the named one, the only one, or its own target's."""
        model = self.model
        if target_column is None and len(table.columns) > 1:
            target_column = next((c.name for c in table.columns if c.series == model.target), None)
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
        return [Scores(column.series, column.unit, errors(model.predict(table.archs), values), remark)]

    def starting(self, table: LatencyTable, column: Column, device: Device) -> LatencyRegressor:
        """With its tables as the first guess."""
        model = self.model
        return LatencyRegressor(
            model.space, model.tables, target=column.series, unit=column.unit, n_classes=model.n_classes
        )

    def regressor(self, device: Device) -> LatencyRegressor:
        """The model itself."""
        return self.model

    def predict(self, archs: Sequence[Any], device: Device) -> Prediction:
        """On its target."""
        model = self.model
        mean, deviation = model.predict(archs, return_std=True)
        return Prediction(model.space, model.target, model.unit, mean, deviation, model.target)


@dataclass(frozen=True)
class ManyDevices(LatencyModel):
    """A model over many devices, which is asked about one of them and a space."""

    name: str
    model: GeneralizedLatency

    def space(self, device: Device) -> LayeredSpace:
        """The one that is named."""
        return device.searched

    def table(self, data: Path, space: str | None) -> LatencyTable:
        """A table of any space."""
        return read_table(data, space)

    def scores(self, table: LatencyTable, target_column: str | None, device: Device) -> list[Scores]:
        """On all columns: of those that it was fitted to by their tables, of others by their descriptor."""
        scores = []
        for s in series_of(table, list_devices(device.targets_dir), target_column):
            known, remark = self.model.known(s.space, s.platform, s.name, s.n_classes), ""
            if known is None:
                remark = f"{s.name} is none of the model's columns: predicted from its descriptor alone"
                predicted = self.model.zero_shot(s.space, s.platform, device.source, s.n_classes)(s.genes)
            else:
                predicted = known.tables(s.genes)
            scores.append(Scores(s.name, "ms", errors(predicted, s.ms), remark))
        return scores

    def starting(self, table: LatencyTable, column: Column, device: Device) -> LatencyRegressor:
        """With what the column's hardware and the devices measured in the table's space say."""
        require_ms(column)
        platform = replace(device, target=column.target, batch=column.batch).platform
        prior = self.model.prior(table.space, platform, device.source, table.n_classes)
        return prior.clone(target=column.series)

    def regressor(self, device: Device) -> LatencyRegressor:
        """With what the device's hardware says."""
        platform = device.platform
        return self.model.prior(device.searched, platform)

    def predict(self, archs: Sequence[Any], device: Device) -> Prediction:
        """On a device that it was fitted to from its measurements, on others from their hardware."""
        platform, space = device.platform, device.searched
        genes, known = space.encode(archs), self.model.known(space, platform)
        basis = f"{platform.device.name}, batch {platform.batch}, "
        if known is not None:
            mean, deviation = known.tables(genes), np.full(len(genes), known.deviation_ms)
            basis += f"from {known.rows} measurements"
        else:
            mean = self.model.zero_shot(space, platform, device.source)(genes)
            deviation = mean * self.model.spread(platform, device.source)
            basis += "by descriptor alone"
        return Prediction(space, platform.device.name, "ms", mean, deviation, basis)


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
    tables: Sequence[LatencyTable], target_column: str | None, targets_dir: Path | None
) -> tuple[GeneralizedLatency, list[str]]:
    """A model over the devices of all columns, and the columns' names."""
    devices = list_devices(targets_dir)
    series = [s for table in tables for s in series_of(table, devices, target_column)]
    return GeneralizedLatency().fit(series), [s.name for s in series]


def _needed(value: str | None, option: str) -> str:
    if value is None:
        raise UsageError(f"a generalized model needs {option}")
    return value


def require_ms(column: Column) -> None:
    """Refuse a column that is no latency of hardware.

    Raises
    ------
    UsageError
        If it counts instructions.
    """
    if column.unit != "ms":
        raise UsageError(f"{column.name} counts instructions of an emulator, which hardware does not predict")

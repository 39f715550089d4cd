"""Which device and which space a latency model is asked about, as far as options and files tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.latency.dataset import LatencyTable, columns_of, noted_space, read_table, same_series
from ofa_tvm.latency.generalized import GeneralizedLatency
from ofa_tvm.spaces import LayeredSpace, get_layered_space
from ofa_tvm.spaces.archs_file import read_archs
from ofa_tvm.targets.devices import Device as Hardware
from ofa_tvm.targets.devices import Platform, find_platform, list_devices
from ofa_tvm.workflow.project import find_project

T = TypeVar("T")


@dataclass(frozen=True)
class Device:
    """Which device and space a model over many devices is asked about; a model of one target knows its own.

    Attributes
    ----------
    target : str or None
        Name of a device, a column or a target.
    batch, threads : int
    space : str or None
    classes : int or None
        Of the networks; None for what the table's notes say, else as is usual in the space.
    targets_dir : Path or None
        Folder of device files and targets; None for those that ship.
    source : str or None
        Data set whose way of measuring is meant.
    """

    target: str | None = None
    batch: int = 1
    threads: int | None = None
    space: str | None = None
    classes: int | None = None
    targets_dir: Path | None = None
    source: str | None = None

    @property
    def known(self) -> list[Hardware]:
        """The devices and targets that have descriptors."""
        return list_devices(self.targets_dir)

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
        if self.target is None:
            raise UsageError("a generalized model needs --target: the device that is asked about")
        devices = self.known
        named = next((device for device in devices if device.name == self.target), None)
        if named is not None:
            return Platform(named, self.batch, self.threads)
        return replace(find_platform(self.target, self.batch, devices), threads=self.threads)


def spaces_of(model: GeneralizedLatency) -> list[str]:
    """Spaces that a model was fitted in, those with the most columns first; the project's leads."""
    counts: dict[str, int] = {}
    for reference in model.references:
        counts[reference.space] = counts.get(reference.space, 0) + 1
    project = find_project().space
    return sorted(counts, key=lambda name: (name != project, -counts[name]))


def chosen_space(model: GeneralizedLatency, named: str | None) -> LayeredSpace:
    """The space that is named, else the model's only one, else the project's."""
    if named is None:
        own = spaces_of(model)
        named = own[0] if len(own) == 1 else find_project().space
    return get_layered_space(named)


def archs_of(model: GeneralizedLatency, path: Path, named: str | None) -> tuple[LayeredSpace, list[Any], str]:
    """A file's architectures, their space, and what is to be said of how it was found ("" for nothing)."""

    def read(name: str) -> tuple[LayeredSpace, list[Any]]:
        space = get_layered_space(name)
        return space, read_archs(path, space)

    if named is not None:
        return *read(named), ""
    (space, archs), remark = _in_one_of(spaces_of(model), read)
    return space, archs, remark


def table_of(model: GeneralizedLatency, path: Path, asked: Device) -> tuple[LatencyTable, str]:
    """A latency table, in the space that is named, noted beside it, or that the model knows."""

    def read(name: str) -> LatencyTable:
        return read_table(path, name, asked.classes)

    named = asked.space or noted_space(path)
    if named is not None:
        return read(named), ""
    names, headings = spaces_of(model), columns_of(path)

    def fitted(name: str) -> bool:
        """Whether the model was fitted to one of the table's columns there."""
        own = [r.name for r in model.references if r.space == name]
        return any(same_series(column.series, series) for column in headings for series in own)

    return _in_one_of(sorted(names, key=lambda name: not fitted(name)), read)


def _in_one_of(names: Sequence[str], read: Callable[[str], T]) -> tuple[T, str]:
    found: dict[str, T] = {}
    problems = []
    for name in names:
        try:
            found[name] = read(name)
        except UserError as error:
            problems.append(error)
    if not found:
        raise problems[0]
    first, *others = found
    remark = f"space {first}"
    if others:
        remark += f" (the architectures fit {', '.join(others)} as well: --space says otherwise)"
    return found[first], remark

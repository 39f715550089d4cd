"""Hardware of devices that latencies were measured on: data only, nothing is compiled for these files.

Each is a YAML file with the `hardware` section of a target's descriptor, and the names under which latency
tables have columns of the device.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ofa_tvm.errors import UserError, shorten, shown
from ofa_tvm.files import data_dir
from ofa_tvm.targets.load import get_target, load_target, target_names
from ofa_tvm.targets.schema import DESCRIPTOR_SCHEMA, DEVICE_SCHEMA
from ofa_tvm.targets.target import Hardware, Target
from ofa_tvm.yamlfile import read_yaml

DeviceKind = Literal["x86", "arm", "cuda", "opencl", "asic", "fpga"]


@dataclass(frozen=True)
class Device:
    """A device and what is known of it.

    Attributes
    ----------
    columns : names that stand for it in the headings of latency tables, without batch and unit
    """

    name: str
    kind: DeviceKind
    hardware: Hardware
    summary: str = ""
    columns: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """What makes two descriptors the same physical device, for splitting data."""
        return self.hardware.device or self.name


@dataclass(frozen=True)
class Platform:
    """A device as it is used: `threads` of a CPU (None: all its cores) and images a batch."""

    device: Device
    batch: int = 1
    threads: int | None = None

    @classmethod
    def of(cls, target: Target) -> Platform:
        """A target as it measures: its batch, its threads."""
        device = Device(target.name, target.kind, target.hardware, target.summary)
        return cls(device, target.batch, target.threads)


def load_device(path: str | os.PathLike[str]) -> Device:
    """Read a device file, or a target's descriptor, whose hardware is then meant.

    Raises
    ------
    UserError
        If the file is missing or breaks the schema (with line, key and what is allowed there).
    """
    file = Path(path)
    content: dict[str, Any] = read_yaml(file, {"type": "object"})
    if "tvm" in content:
        read_yaml(file, DESCRIPTOR_SCHEMA)
        target = load_target(file)
        return Device(target.name, target.kind, target.hardware, target.summary, (target.name,))
    content = read_yaml(file, DEVICE_SCHEMA)
    return Device(
        content["name"],
        content["kind"],
        Hardware(**content["hardware"]),
        content["summary"],
        tuple(content["columns"]),
    )


def list_devices(folder: str | os.PathLike[str] | None = None) -> list[Device]:
    """Devices and targets of a folder and its folder `devices`; by default of those that ship.

    Raises
    ------
    UserError
        If the folder does not exist, or a file in it is wrong.
    """
    root = data_dir("targets") if folder is None else Path(folder)
    if not root.is_dir():
        raise UserError(f"there is no folder of descriptors {root}")
    devices = [load_device(path) for path in sorted([*root.glob("devices/*.yaml"), *root.glob("*.yaml")])]
    known: dict[str, str] = {}
    for device in devices:
        for column in device.columns:
            if known.setdefault(column, device.name) != device.name:
                raise UserError(f"{root}: both {known[column]} and {device.name} claim the column {column}")
    return devices


def find_platform(series: str, batch: int = 1, devices: list[Device] | None = None) -> Platform:
    """Device and batch behind a column such as `titan_xp_32` or `gold_6226`.

    A name that some device claims as it stands is that device; else a number at its end is the batch.

    Parameters
    ----------
    series : heading without unit and without the `_b<N>` that `batch` comes from
    batch : what the heading's `_b<N>` said
    devices : default those that ship, and this machine as `x86`

    Raises
    ------
    UserError
        If no descriptor claims the column.
    """
    known = {column: device for device in (devices or list_devices()) for column in device.columns}
    if series in known:
        return Platform(known[series], batch)
    match = re.fullmatch(r"(.+)_([1-9]\d*)", series)
    if match and match[1] in known:
        return Platform(known[match[1]], int(match[2]))
    if match is None and series in target_names()[:1]:
        return replace(Platform.of(get_target(series)), batch=batch, threads=None)
    raise UserError(
        f"no descriptor claims the column {shown(series)}, so its hardware is unknown; write a device file "
        f"with `columns: [{shorten(series, 40)}]` (see targets/README.md) and name its folder with "
        "--targets-dir"
    )

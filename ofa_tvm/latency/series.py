"""Latencies of many platforms in many spaces: columns of latency tables with the hardware behind them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ofa_tvm.errors import UsageError
from ofa_tvm.latency.dataset import LatencyTable
from ofa_tvm.latency.roofline import is_cpu
from ofa_tvm.spaces import LayeredSpace
from ofa_tvm.targets.devices import Device, Platform, find_platform


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

"""The tuning log as a latency table: kernel sums for predictors, and lookup tables in the official format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ofa_tvm.errors import UsageError
from ofa_tvm.latency.dataset import Column, LatencyTable, read_table
from ofa_tvm.latency.kernel_sum import KernelSum
from ofa_tvm.latency.log_model import kernel_sum_from_log
from ofa_tvm.latency.lookup_table import table_entries, write_tables
from ofa_tvm.logs import find_records
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.tuning import kernel_union
from ofa_tvm.workflow.latency_models import require_ms
from ofa_tvm.workflow.settings import Settings, resolve


@dataclass(frozen=True)
class LogTimes:
    """What a tuning log says of the times of a space's kernels.

    Attributes
    ----------
    sums
        A subnet's latency as the sum of its kernels' times.
    kernels, timed_here
        How many kernels the space has, and of how many the log has times of the settings' own device. Times
        in logs that ship, or of compatible targets, are another device's, whatever is made of them.
    """

    sums: KernelSum
    kernels: int
    timed_here: int

    def remark(self, target: str, *, fitted: bool) -> str:
        """What a table of them lacks, for people; "" where it lacks nothing.

        Parameters
        ----------
        target
            Its name.
        fitted
            Whether the sums were fitted to whole networks that were measured there.
        """
        if self.timed_here == self.kernels:
            return ""
        if self.timed_here:
            left = f"{self.kernels - self.timed_here} of {self.kernels} kernels"
            return (
                f"{left} were never timed on this {target}: they count as fast, per operation, as its others"
            )
        level = (
            "their level is of whole networks measured here"
            if fitted
            else "their proportions may hold, their level not"
        )
        return f"no kernel was timed on this {target}; the times are another device's, so {level}"


def log_times(settings: Settings, *, n_classes: int = 1000, progress: Progress = SILENT) -> LogTimes:
    """The kernel times in the target's tuning log, for the settings' space and resolutions.

    Raises
    ------
    UserError
        If the log has no record of the space's kernels.
    """
    space, target = settings.space, settings.target
    union = kernel_union(space, settings.chosen_resolutions, target, n_classes=n_classes, progress=progress)
    records = find_records(target, [settings.logs])
    keys = [kernel.key for kernel in union.kernels]
    return LogTimes(
        kernel_sum_from_log(space, union, records, n_classes=n_classes, unit=target.unit),
        len(keys),
        sum(records.best(key) is not None and key not in records.foreign for key in keys),
    )


def settings_of(table: LatencyTable, column: Column, target: str | None, threads: int | None) -> Settings:
    """What a kernel sum that a column of a table is to be compared with is made of."""
    return resolve(
        target or column.target,
        threads=threads,
        dtype=column.dtype,
        batch=column.batch,
        space=table.space.name,
        resolutions=sorted({arch.r for arch in table.archs}),
    )


def measured_networks(
    settings: Settings, data: Path, target_column: str | None
) -> tuple[Sequence[Any], np.ndarray]:
    """Whole networks of a table and their latencies, to fit a kernel sum's overhead to.

    Raises
    ------
    UsageError
        If the column is not in ms, or of networks of another dtype or batch.
    """
    table = read_table(data, settings.space)
    column, values = table.column(target_column)
    require_ms(column)
    if column.dtype != settings.target.dtype:
        raise UsageError(
            f"{column.name} is of {column.dtype} networks; add --dtype {column.dtype}, or choose another "
            "column by --target-column"
        )
    if column.batch != settings.target.batch:
        raise UsageError(
            f"{column.name} is of batches of {column.batch}; add --batch {column.batch}, or choose another "
            "column by --target-column"
        )
    return table.archs, values


def write_lookup_tables(
    settings: Settings, kernel_times: KernelSum, folder: Path, suffix: str, remark: str = ""
) -> tuple[list[Path], int]:
    """Lookup tables of a kernel sum in the official format: the files, and the entries in each."""
    entries = table_entries(settings.space, kernel_times.tables, settings.chosen_resolutions)
    files = write_tables(entries, folder, suffix, remark)
    return files, sum(map(len, entries.values())) // len(files)

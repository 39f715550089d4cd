"""The public latency measurements, as series of the generalized model."""

from __future__ import annotations

import os
from pathlib import Path

from ofa_tvm.latency.dataset import read_table
from ofa_tvm.latency.series import Series, series_of
from ofa_tvm.targets.devices import list_devices

# File, space (HELP does not state its width multiplier; only w1.0 has all of its 25 resolutions), data set.
TABLES = (
    ("ofa_mbv3_gpus", "ofa_mbv3_w1.0", "help"),
    ("ofa_mbv3_paper_train", "ofa_mbv3_w1.2", "arxiv-2101.00732"),
    ("fbnet_devices", "fbnet", "help-fbnet"),
)


def data_folder() -> Path:
    """Folder of the public data."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("OFA_TVM_DATA", beside))


def public_series(*files: str) -> list[Series]:
    """All columns of the files, by default of all three."""
    devices = list_devices()
    found = []
    for file, space, source in TABLES:
        if files and file not in files:
            continue
        table = read_table(data_folder() / "latency" / f"{file}.csv.gz", space)
        for series in series_of(table, devices, source=source):
            # Sums of table entries were not measured as networks, and have a way of measuring of their own.
            is_sum = series.name.endswith("_lut_sum")
            found.append(
                Series(
                    series.name,
                    series.platform,
                    series.space,
                    series.genes,
                    series.ms,
                    f"{source}-lut" if is_sum else source,
                    100 if space == "fbnet" else 1000,
                )
            )
    return found

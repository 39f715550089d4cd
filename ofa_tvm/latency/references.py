"""Measured platforms as tables over their space: in which directions devices differ from one another."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from ofa_tvm.estimators.files import CLASSES, COUNT, TEXT, between, record
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.latency.series import Series
from ofa_tvm.spaces.blocks import BlockTables

# More rows take longer than they help: 4,000 in place of 2,000 bring a column's error from 2.5 to 2.4 %.
MOST_ROWS = 2000

# Of a `Reference` in a model file.
REFERENCE_SCHEMA = record(
    {
        "name": TEXT,
        "device": TEXT,
        "batch": COUNT,
        "space": TEXT,
        "n_classes": CLASSES,
        "rows": COUNT,
        "deviation_ms": between(0, 1e9),
        "source": {**TEXT, "default": ""},
        "family": {"enum": ["gpu", "cpu", "other", ""], "default": ""},
    }
)


@dataclass(frozen=True)
class Reference:
    """A measured series as tables over its space, and on what it was measured.

    `deviation_ms` is how far a row is from its prediction by all others, as a standard deviation; `source`
    is who measured it and `family` the device's kind ("gpu", "cpu" or "other"); "" where that is not known.
    """

    name: str
    device: str
    batch: int
    space: str
    n_classes: int
    rows: int
    deviation_ms: float
    tables: BlockTables = field(repr=False)
    source: str = ""
    family: str = ""

    @property
    def fields(self) -> dict[str, Any]:
        """All but the tables."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "tables"}


def reference_of(s: Series, rows_used: int = MOST_ROWS) -> Reference:
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
        s.source,
        s.family,
    )

"""What the quickstart made, as types and as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ofa_tvm.search.budget import Budget
from ofa_tvm.targets import DType
from ofa_tvm.workflow.compared import Row
from ofa_tvm.workflow.ship import Shipped


@dataclass(frozen=True)
class QuickstartResult:
    """What the quickstart made and measured.

    Parameters
    ----------
    artefact
        Folder of the shipped artefact.
    dtype
        Its number format.
    images
        The PNG files to try it on; those that it answers right come first.
    images_right
        How many these are.
    budget
        The latency budget.
    rows
        Largest, smallest and chosen subnet.
    shipped
        The chosen one as it was shipped.
    stages
        Seconds spent in each stage, earlier interrupted runs included.
    quality
        Rank correlation and error of the two predictors on subnets left out, and the tuning's extent.
    tuning_limit_s
        The time after which the tuning was ended before it had done all it was to do; None if it had.
    steps_left
        Of the training, for which there was no time.
    """

    artefact: Path
    dtype: DType
    images: tuple[Path, ...]
    images_right: int
    budget: Budget
    rows: tuple[Row, ...]
    shipped: Shipped
    stages: dict[str, float]
    quality: dict[str, float]
    tuning_limit_s: float | None = None
    steps_left: int = 0


def summary(result: QuickstartResult) -> dict[str, Any]:
    """The result as plain JSON data; costs have the unit in their key."""
    unit = result.budget.unit.lower()
    return {
        "artefact": str(result.artefact),
        "dtype": result.dtype,
        "images": [str(path) for path in result.images],
        "images_right": result.images_right,
        "budget": {"value": result.budget.value, "unit": result.budget.unit},
        "subnets": [
            {
                "name": row.name,
                "dtype": row.dtype,
                "arch": row.arch.to_dict(),
                "test_accuracy": row.accuracy,
                f"predicted_{unit}": row.predicted,
                f"measured_{unit}": row.measured,
                "onnxruntime_ms": row.onnxruntime,
                "pytorch_ms": row.pytorch,
                "macs": row.macs,
            }
            for row in result.rows
        ],
        "shipped": {
            "test_accuracy": result.shipped.accuracy,
            "accuracy_change": result.shipped.accuracy_change,
            f"measured_{unit}": result.shipped.measurement.cost,
            "mad_ms": result.shipped.measurement.mad_ms,
            "max_rel_difference_to_onnxruntime": result.shipped.difference.max_rel,
        },
        "quality": result.quality,
        "tuning_limit_s": result.tuning_limit_s,
        "training_steps_left": result.steps_left,
        "seconds": {name: round(seconds, 2) for name, seconds in result.stages.items()},
    }

"""A project as the quickstart leaves it, at the smallest size: for tests of what goes on from there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from once import Once

if TYPE_CHECKING:
    from ofa_tvm.workflow.quickstart_result import QuickstartResult
    from ofa_tvm.workflow.quickstart_settings import QuickstartSettings


@dataclass(frozen=True)
class DemoProject:
    """Its folder, and what the quickstart said."""

    folder: Path
    result: QuickstartResult


def tiny_settings() -> QuickstartSettings:
    """One epoch at two resolutions, and a handful of everything else."""
    from ofa_tvm.training.config import Phase
    from ofa_tvm.training.defaults import digits_config
    from ofa_tvm.workflow.quickstart_settings import QuickstartSettings

    training = digits_config().replace(
        phases=(Phase("full", {}, 1, 0, 5e-2),), resolutions=(32, 40), calibration_images=64, threads=1
    )
    return QuickstartSettings(
        training=training,
        accuracy_samples=4,
        latency_samples=6,
        trials=1,
        tuning_seconds=4.0,
        candidates=2,
        rounds=1,
        images=2,
    )


@pytest.fixture(scope="session")
def demo(once: Once) -> DemoProject:
    """The quickstart's folder; tests that change it work on a copy."""
    return once.make("demo", _quickstart)


def _quickstart(folder: Path) -> DemoProject:
    import torch

    from ofa_tvm.targets import get_target
    from ofa_tvm.workflow.quickstart import quickstart

    torch.set_num_threads(1)
    return DemoProject(folder, quickstart(folder, get_target("x86"), settings=tiny_settings()))

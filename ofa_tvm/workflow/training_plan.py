"""What a training has left to do, and how long: a step of each phase and one validation are timed."""

from __future__ import annotations

from pathlib import Path

from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.spaces import Arch, Space
from ofa_tvm.supernet import build_supernet
from ofa_tvm.training.checkpoint import CheckpointFolder
from ofa_tvm.training.config import TrainingConfig
from ofa_tvm.training.data import ImageData
from ofa_tvm.training.parts import Sketch
from ofa_tvm.training.timing import time_steps
from ofa_tvm.workflow.plan import time_evaluation
from ofa_tvm.workflow.steps import Plan, Step


def training_plan(
    config: TrainingConfig,
    space: Space,
    data: ImageData,
    folder: Path,
    *,
    arch: Arch | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Plan:
    """Steps of each phase and validations that are left of a training in a folder; nothing is kept.

    Parameters
    ----------
    arch
        The one subnet that is trained further; None for a supernet.
    """
    first, done = CheckpointFolder(folder / "checkpoints").position()
    left = config.phases[first:]
    if not left:
        return Plan(())
    sketch = Sketch(config, data, space)
    units = {phase.name: phase.total_epochs * sketch.steps_per_epoch for phase in left}
    units[left[0].name] -= done
    seconds = time_steps(config, space, data, phases=units, arch=arch, seed=seed, progress=progress)
    validated = sum(len(sketch.validated(phase)) for phase in left) if arch is None else len(left)
    with progress.task("time a validation"):
        net = build_supernet(space, data.n_classes).eval()
        one = space.median_arch(space.median_resolution) if arch is None else arch
        validation_s = time_evaluation(net, one, data, "val", config.calibration_images, seed)
    return Plan(
        (
            *(Step(f"step of phase {name}", count, seconds[name]) for name, count in units.items()),
            Step("validate a subnet", validated, validation_s),
        )
    )

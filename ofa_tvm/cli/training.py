"""What `ofa-tvm train` says before a training and after it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofa_tvm.cli.console import Console
from ofa_tvm.cli.plans import show_plan
from ofa_tvm.cli.presets import say_classes
from ofa_tvm.errors import counted
from ofa_tvm.progress import Deadline, duration

if TYPE_CHECKING:
    from ofa_tvm.spaces import Arch, Space
    from ofa_tvm.training import ImageData, TrainingConfig, TrainingResult

_SHOWN = 10


@dataclass(frozen=True)
class Extent:
    """How much of a training is to be done, by which of its processes."""

    rank: int
    deadline: Deadline
    time_limit_s: float | None
    dry_run: bool


def announce(
    console: Console, settings: TrainingConfig, data: ImageData, title: str, out: Path, extent: Extent
) -> None:
    """What decides the result, in three lines before work starts; all of it is in a file."""
    from ofa_tvm.training.distributed import choose_device
    from ofa_tvm.training.parts import SETTINGS
    from ofa_tvm.training.presets import misfit
    from ofa_tvm.yamlfile import write_yaml

    for problem in getattr(data, "skipped", ()):
        console.say(f"skipped: {problem}")
    if converted := getattr(data, "converted", ()):
        more = f" and {len(converted) - _SHOWN} more" if len(converted) > _SHOWN else ""
        console.say(f"read as RGB: {', '.join(converted[:_SHOWN])}{more}")
    sizes = ", ".join(f"{data.size(split)} {split}" for split in ("train", "val", "test"))
    images, epochs = data.size("train"), settings.total_epochs
    epoch = settings.steps_per_epoch(images)
    phases = ", ".join(f"{phase.name} {phase.total_epochs * epoch}" for phase in settings.phases)
    limit = "" if extent.time_limit_s is None else f"; ends after about {duration(extent.time_limit_s)}"
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    say_classes(console, data)
    console.say(
        f"{title} on {data.name} ({sizes}; {data.n_classes} classes), seed {console.seed}, into {out}"
    )
    console.say(
        f"to do: {counted(epochs * epoch, 'step')} of {settings.batch(images)} images in "
        f"{counted(epochs, 'epoch')} ({phases}){limit}"
    )
    console.say(
        f"device {choose_device(settings.device)}, {processes} process{'es' if processes > 1 else ''}, "
        f"{settings.precision}, learning rate {settings.phases[0].learning_rate:g}; all settings: "
        f"{out / SETTINGS}"
    )
    console.detail(write_yaml(settings.to_dict()).rstrip())
    if problem := misfit(settings, images):
        console.say(f"warning: {problem}")


def show_training_plan(
    console: Console,
    extent: Extent,
    settings: TrainingConfig,
    space: Space,
    data: ImageData,
    folder: Path,
    arch: Arch | None = None,
) -> None:
    """What is left and how long it takes, by a step of each phase that is timed now."""
    if extent.rank:
        return
    from ofa_tvm.workflow.training_plan import training_plan

    plan = training_plan(
        settings, space, data, folder, arch=arch, seed=console.seed, progress=console.progress
    )
    show_plan(console, plan)


def show_result(console: Console, result: TrainingResult) -> None:
    """Accuracies at the end of each phase; and that there is more to do where the time was up."""
    console.table(
        ["phase", "subnet", "validation accuracy"],
        [
            [phase.name, subnet, f"{accuracy:.2%}"]
            for phase in result.phases
            for subnet, accuracy in phase.accuracies.items()
        ],
    )
    if result.steps_left:
        console.print(
            f"the time is up: {result.checkpoint} is the network as it is now; {result.steps_left} steps are "
            "left, the same command goes on"
        )


def plain_result(result: TrainingResult) -> dict[str, Any]:
    """For JSON."""
    phases = [{"name": phase.name, "accuracies": phase.accuracies} for phase in result.phases]
    return {"checkpoint": str(result.checkpoint), "phases": phases, "steps_left": result.steps_left}

"""Which space, input sides, batch and length a training takes where they are not named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ofa_tvm.cli.console import Console
from ofa_tvm.errors import UsageError

if TYPE_CHECKING:
    from ofa_tvm.training import ImageData, TrainingConfig
    from ofa_tvm.workflow.project import Project

preset_option = click.option(
    "--preset",
    type=click.Choice(["small", "medium", "imagenet"]),
    help="Space and input sides: small is ofa_mbv3_w0.5 at 64 to 96 pixels, medium the same at 96 to 160, "
    "imagenet ofa_mbv3_w1.0 at 128 to 224; by default what suits the number and size of the images.",
)
_UNEQUAL = 10  # times as many images in one class as in another
_FEW = 20  # training images of a class
_FEW_TO_JUDGE = 100  # images: a share of one half has a standard error of 5 points


@dataclass(frozen=True)
class ChosenSpace:
    """A space's name, the input sides to train at (None for all it has), and why, where nobody named it."""

    space: str
    resolutions: tuple[int, ...] | None = None
    reason: str = ""


def chosen_space(
    project: Project, data: ImageData, space: str | None, preset: str | None, weights: Path | None
) -> ChosenSpace:
    """As named by space or preset, else the project's, else the checkpoint's, else what suits the images.

    Raises
    ------
    UsageError
        If a preset is of another space than is named.
    UserError
        If the checkpoint, or a picture, cannot be read.
    """
    from ofa_tvm.training.presets import PRESETS, fitting_preset, preset_of, typical_side
    from ofa_tvm.workflow.project import NAME

    if preset is not None:
        chosen = PRESETS[preset]
        if space not in (None, chosen.space):
            raise UsageError(f"--preset {preset} is the space {chosen.space}, not {space}; give one of them")
        return ChosenSpace(chosen.space, chosen.resolutions)
    if space is not None:
        return ChosenSpace(space)
    if (project.folder / NAME).is_file():
        same = preset_of(project.space, project.resolutions) is not None
        return ChosenSpace(project.space, project.resolutions if same else None)
    images, side = data.size("train"), typical_side(data)
    fitting = fitting_preset(images, side)
    if weights is not None:
        from ofa_tvm.supernet.supernet import recognised_space

        known = recognised_space(weights)
        if known is not None:
            sides = fitting.resolutions if known == fitting.space else None
            return ChosenSpace(known, sides, f"space {known}, whose weights {weights} holds")
    reason = (
        f"preset {fitting.name} for {images} training images of about {side} pixels; --preset or --space "
        "chooses another"
    )
    return ChosenSpace(fitting.space, fitting.resolutions, reason)


def sized_for(
    base: TrainingConfig, images: int, given: dict[str, Any], assignments: Sequence[str], trained: bool
) -> TrainingConfig:
    """Default settings with batch and phases for so many images, where neither file nor option sets them.

    Raises
    ------
    UsageError
        If a value makes no sense.
    """
    from ofa_tvm.training import TrainingConfig
    from ofa_tvm.training.distributed import Rank
    from ofa_tvm.training.presets import fitted, shareable

    set_batch = [text for text in assignments if text.partition("=")[0].strip() == "batch_size"]
    stated = {**base.to_dict(), **given, "space": base.space}
    asked = TrainingConfig.from_dict(stated).with_settings(set_batch)
    batch = asked.batch_size if set_batch or "batch_size" in given else None
    sized = fitted(base, images, batch_size=batch, trained=trained)
    return sized if batch is not None else shareable(sized, Rank.here().processes)


def say_classes(console: Console, data: ImageData) -> None:
    """That some classes have few images to learn from, or far fewer than others, or few are to judge by."""
    import numpy as np

    counts = np.bincount(data.targets("train"), minlength=data.n_classes)
    order = [i for i in np.argsort(counts, kind="stable") if counts[i]]  # of ImageNet's a part may be there
    few = [f"{data.labels[i]} ({counts[i]})" for i in order if counts[i] < _FEW]
    if few:
        more = f" and {len(few) - 5} more" if len(few) > 5 else ""
        console.say(f"fewer than {_FEW} training images: {', '.join(few[:5])}{more}; expect little of them")
    least, most = order[0], order[-1]
    if counts[most] >= _UNEQUAL * counts[least]:
        console.say(
            f"classes differ in size: {data.labels[most]} has {counts[most]} training images, "
            f"{data.labels[least]} {counts[least]}; judge by the mean of classes that evaluate shows"
        )
    judged = min(data.size("val"), data.size("test"))
    if judged < _FEW_TO_JUDGE:
        console.say(
            f"{data.size('val')} validation and {data.size('test')} test images: accuracies are uncertain by "
            f"some {50 / judged**0.5:.0f} points"
        )

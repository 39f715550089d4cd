"""What train, evaluate and export have in common: images, checkpoints, and subnets as people name them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from ofa_tvm.cli.console import Console
from ofa_tvm.cli.options import INPUT_PATH
from ofa_tvm.errors import UsageError, UserError, shown
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.workflow.project import NAME, Project, find_project

if TYPE_CHECKING:
    from ofa_tvm.number_formats import Arithmetic
    from ofa_tvm.spaces import Arch, Space
    from ofa_tvm.supernet import Supernet
    from ofa_tvm.training import ImageData

R = TypeVar("R")
CORNERS = ("min", "median", "max")
"""Subnets that have a name; their resolution is the middle one of those that are asked for."""

checkpoint_option = click.option(
    "--checkpoint",
    type=INPUT_PATH,
    help="Trained supernet, own or official; by default the nearest ofa-tvm.yaml's.",
)
arithmetic_option = click.option(
    "--dtype",
    type=click.Choice(["float32", "int8"]),
    default="float32",
    show_default=True,
    help="What subnets compute in; int8 costs least if the supernet was trained for it (phase quantize).",
)


@dataclass(frozen=True)
class Images:
    """The options about data."""

    source: str | None
    bad: Literal["refuse", "skip"] | None
    check: bool
    workers: int | None

    def load(self, project: Project, progress: Progress = SILENT) -> ImageData | None:
        """The data set that was named, else the project's, else None."""
        source = self.source
        if source is None and project.data is not None:
            source = project.data if project.data == "digits" else str(project.path(Path(project.data)))
        if source is None:
            return None
        from ofa_tvm.training import load_data

        bad = self.policy(project)
        return load_data(source, bad=bad, check=self.check, workers=self.workers, progress=progress)

    def policy(self, project: Project) -> Literal["refuse", "skip"]:
        """What to do about bad images: as typed, else as the project says."""
        return self.bad or project.bad_images


def data_options(function: Callable[..., R]) -> Callable[..., R]:
    """Add the options about data to a verb, which takes them as `images`."""

    @click.option(
        "--data",
        help="digits, a CIFAR-10 .npz, or a folder or tar file of [split/]class/picture; by default the "
        "nearest ofa-tvm.yaml's.",
    )
    @click.option(
        "--bad-images",
        type=click.Choice(["refuse", "skip"]),
        help="What to do about files that are truncated or no images; by default the nearest ofa-tvm.yaml's "
        "choice, else refuse.",
    )
    @click.option(
        "--check/--no-check", default=True, show_default=True, help="Decode every file once before the start."
    )
    @click.option("--workers", type=click.IntRange(min=0), help="Decoding processes; by default one a CPU.")
    def wrapped(
        *args: Any,
        data: str | None,
        bad_images: Literal["refuse", "skip"] | None,
        check: bool,
        workers: int | None,
        **kwargs: Any,
    ) -> R:
        return function(*args, images=Images(data, bad_images, check, workers), **kwargs)

    wrapped.__doc__ = function.__doc__
    # Options that were added to the function before this.
    wrapped.__dict__["__click_params__"] = [
        *getattr(function, "__click_params__", []),
        *wrapped.__dict__.get("__click_params__", []),
    ]
    return wrapped


def chosen_project(space: str | None, checkpoint: Path | None = None) -> Project:
    """The nearest project; of another space than its own only the folder counts.

    Without a project and a space, a checkpoint that is named says of which space it is.
    """
    project = find_project()
    if space is None and checkpoint is not None and not (project.folder / NAME).is_file():
        from ofa_tvm.supernet.supernet import recognised_space

        space = recognised_space(checkpoint)
    if space is None or space == project.space:
        return project
    return Project(project.folder, space=space)


def load_supernet(space: Space, checkpoint: Path, dtype: Arithmetic | None = "float32") -> Supernet:
    """A supernet with the weights of a checkpoint and as many classes as it has, in evaluation mode.

    Parameters
    ----------
    dtype
        What it is to compute in, whatever it was trained for; None leaves it at that.

    Raises
    ------
    UserError
        If the file cannot be read or is of another space.
    """
    from ofa_tvm.supernet import build_supernet, set_dtype
    from ofa_tvm.supernet.checkpoint import n_classes

    net = build_supernet(space, n_classes(checkpoint))
    net.load_checkpoint(checkpoint)
    if dtype is not None:
        set_dtype(net, dtype)
    return net.eval()


def post_training(weights: Path | None, subnet: str, in_float32: float, in_int8: float) -> str:
    """That weights were not trained for int8, what that costs a subnet (accuracies 0..1), and what to do."""
    cost = 100 * (in_float32 - in_int8)
    return (
        f"{weights} was not trained for int8: this is post-training quantisation, which "
        f"{'costs' if cost >= 0 else 'gives'} {subnet} {abs(cost):.2f} points ({in_float32:.2%} in float32). "
        f"To train it: ofa-tvm train --init {weights} --phases quantize -o int8"
    )


def images_for(console: Console, network: str | Path | None, n_classes: int, data: ImageData) -> ImageData:
    """Images as those of a network's classes: all of them, or a part of ImageNet's by their folders' names.

    Raises
    ------
    UsageError
        If they are of other classes.
    UserError
        If they are a part of ImageNet's and have a class that ImageNet has not.
    """
    from ofa_tvm.training.classes import data_for

    found = data_for(data, n_classes, str(network or "the supernet"))
    if found is not data:
        console.say(f"{data.name} has {data.n_classes} of ImageNet's 1,000 classes, by its folders' names")
    return found


def parse_arch(text: str, space: Space, resolution: int | None = None) -> Arch:
    """A subnet as typed: min, median, max, JSON, or a file that holds JSON.

    Parameters
    ----------
    resolution
        Takes the place of the one that the architecture states; None leaves it, and for min, median and max
        takes the space's median one.

    Raises
    ------
    UsageError
        If it is none of these, or not in the space.
    UserError
        If the file is missing or cannot be read.
    """
    from ofa_tvm.spaces import Arch

    if text in CORNERS:
        corner = {"min": space.min_arch, "median": space.median_arch, "max": space.max_arch}[text]
        arch = corner(space.median_resolution)
    elif text.lstrip().startswith("{"):
        arch = Arch.from_json(text)
    elif Path(text).is_file():
        try:
            arch = Arch.from_json(Path(text).read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {text}: {error}") from error
        except UsageError as error:
            raise UsageError(f"{text}: {error}") from error
    elif Path(text).suffix or Path(text).name != text:
        raise UserError(f"no such file: {shown(text)}; name one, or min, median, max, or JSON itself")
    else:
        raise UsageError(f"{shown(text)} is no subnet: name min, median, max, a JSON file, or JSON itself")
    if resolution is not None:
        arch = arch.replace(r=resolution)
    space.validate(arch)
    return arch


def save_project(
    folder: Path,
    space: str,
    checkpoint: Path,
    data: str,
    bad_images: Literal["refuse", "skip"],
    resolutions: tuple[int, ...],
) -> Path:
    """Write or update `folder/ofa-tvm.yaml` after a training; a predictor of other weights is dropped."""
    from ofa_tvm.workflow.project import NAME, read_project

    file = folder / NAME
    old = read_project(file) if file.is_file() else Project(folder)
    same = old.space == space and old.checkpoint == checkpoint
    source = data if data == "digits" else str(Path(data).resolve())
    return replace(
        old,
        folder=folder,
        space=space,
        checkpoint=checkpoint,
        data=source,
        bad_images=bad_images,
        resolutions=resolutions,
        accuracy_predictor=old.accuracy_predictor if same else None,
    ).save()

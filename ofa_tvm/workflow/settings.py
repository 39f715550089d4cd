"""What a verb works with: its options first, then the nearest `ofa-tvm.yaml`, then the stated defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from ofa_tvm.errors import UsageError
from ofa_tvm.number_formats import Arithmetic, arithmetic
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.spaces import get_space
from ofa_tvm.spaces.space import Space
from ofa_tvm.targets import DType, Target, get_target
from ofa_tvm.workflow.project import NAME, Project, find_project
from ofa_tvm.workflow.store import Store

if TYPE_CHECKING:
    from ofa_tvm.supernet import Supernet
    from ofa_tvm.training.data import ImageData

N_CLASSES = 1000  # of a space without a checkpoint: ImageNet's


@dataclass(frozen=True)
class Settings:
    """Resolved settings.

    Parameters
    ----------
    project
        The nearest project, without what belongs to another space than `space`.
    space
        The search space.
    target
        The target, with its threads, dtype and batch.
    resolutions
        Input sides that were asked for, by option or project; None if by neither.
    """

    project: Project
    space: Space
    target: Target
    resolutions: tuple[int, ...] | None

    @property
    def chosen_resolutions(self) -> tuple[int, ...]:
        """Those asked for, else the space's default ones."""
        return self.resolutions or self.space.default_resolutions

    @property
    def store(self) -> Store:
        """The project's files."""
        return Store(self.project.folder, self.project.tuning_logs)

    @property
    def logs(self) -> Path:
        """Folder of the project's tuning logs."""
        return self.store.logs

    @property
    def arithmetic(self) -> Arithmetic:
        """What the supernet has to compute in."""
        return arithmetic(self.target.dtype)

    def accuracy_predictor(self, dtype: Arithmetic) -> Path | None:
        """The one of subnets in float32 that the project names, else what an earlier search learned."""
        if dtype == "float32" and self.project.accuracy_predictor is not None:
            return self.project.path(self.project.accuracy_predictor)
        learned = self.store.accuracy_model(dtype)
        return learned if self.checkpoint is not None and learned.is_file() else None

    @property
    def checkpoint(self) -> Path | None:
        """The project's trained supernet, for int8 the one that was trained for that if there is one."""
        return self.project.weights(self.arithmetic)

    @cached_property
    def n_classes(self) -> int:
        """Outputs of the classifier: the checkpoint's, else ImageNet's 1,000.

        Raises
        ------
        UserError
            If the project names a checkpoint that cannot be read.
        """
        if self.checkpoint is None:
            return N_CLASSES
        from ofa_tvm.supernet.checkpoint import n_classes

        return n_classes(self.checkpoint)

    def describe(self) -> str:
        """One line for people."""
        file = self.project.folder / NAME
        origin = str(file) if file.is_file() else f"no {NAME} here or above: stated defaults"
        return f"{self.describe_space()}, {self.describe_target()}, tuning logs in {self.logs} ({origin})"

    def describe_space(self) -> str:
        """The space and its resolutions, for people."""
        sides = ", ".join(map(str, self.chosen_resolutions)) + ("" if self.resolutions else " (default)")
        return f"space {self.space.name}, resolutions {sides}"

    def describe_target(self) -> str:
        """The target, its threads and batch, for people."""
        threads = f"{self.target.threads} thread{'s' if self.target.threads > 1 else ''}"
        batch = "" if self.target.batch == 1 else f", {self.target.batch} images a call"
        return f"target {self.target.name} ({self.target.summary}), {threads}{batch}"

    def supernet(self, *, random: bool = False) -> Supernet:
        """The project's supernet with its weights; with `random`, or without a checkpoint, random ones.

        It computes in what the target's number format asks for, whatever it was trained for.

        Raises
        ------
        UserError
            If the checkpoint cannot be read or is for another space.
        """
        from ofa_tvm.supernet import build_supernet, set_dtype

        if random or self.checkpoint is None:
            import torch

            with torch.random.fork_rng():
                torch.manual_seed(0)
                net = build_supernet(self.space, self.n_classes)
        else:
            net = build_supernet(self.space, self.n_classes)
            net.load_checkpoint(self.checkpoint)
        set_dtype(net, self.arithmetic)
        return net.eval()

    def data(self, *, progress: Progress = SILENT) -> ImageData:
        """The project's images.

        Raises
        ------
        UsageError
            If the project names none.
        UserError
            If they cannot be read.
        """
        from ofa_tvm.training.sources import load_data

        name = self.project.data
        if name is None:
            raise self.missing("data", "the images that the supernet was trained on")
        source = name if name == "digits" else self.project.path(Path(name))
        return load_data(source, bad=self.project.bad_images, progress=progress)

    def missing(self, key: str, what: str) -> UsageError:
        """The error about a key that the project file lacks."""
        file = self.project.folder / NAME
        where = f"{file} lacks" if file.is_file() else f"there is no {NAME} here or above with"
        return UsageError(f"{where} the key `{key}`: {what}")


def resolve(
    target: str,
    *,
    threads: int | None = None,
    dtype: DType | None = None,
    batch: int | None = None,
    space: str | None = None,
    resolutions: Sequence[int] | None = None,
    start: Path | None = None,
) -> Settings:
    """Settings from a verb's options and the nearest project.

    Parameters
    ----------
    target
        Name or path of a descriptor.
    threads
        Of the compiled modules; None for the target's.
    dtype
        Of their weights and feature maps; None for the target's.
    batch
        Images in one call of them; None for one.
    space
        None for the project's. What the project says of another space (checkpoint, data, accuracy predictor,
        resolutions) does not count.
    resolutions
        None for the project's.
    start
        Folder from which the project is looked for; None for the current one.

    Raises
    ------
    UsageError
        If the target or the space is unknown, or a resolution is not in the space.
    UserError
        If the project file is broken.
    """
    project = find_project(start)
    if space is not None and space != project.space:
        project = replace(
            project,
            space=space,
            checkpoint=None,
            int8_checkpoint=None,
            data=None,
            resolutions=None,
            accuracy_predictor=None,
        )
    found = get_space(project.space)
    chosen_target = get_target(target)
    if threads is not None:
        chosen_target = chosen_target.with_threads(threads)
    if dtype is not None:
        chosen_target = chosen_target.with_dtype(dtype)
    if batch is not None:
        chosen_target = chosen_target.with_batch(batch)
    sides = project.resolutions if resolutions is None else tuple(resolutions)
    for side in sides or ():
        if side not in found.resolutions:
            raise UsageError(
                f"resolution {side} is not in the space {found.name}, whose resolutions are "
                f"{_listed(found.resolutions)}"
            )
    return Settings(project, found, chosen_target, None if sides is None else tuple(dict.fromkeys(sides)))


def _listed(sides: Sequence[int]) -> str:
    steps = {b - a for a, b in pairwise(sides)}
    if len(sides) > 4 and len(steps) == 1:
        return f"{sides[0]} to {sides[-1]} in steps of {steps.pop()}"
    return ", ".join(map(str, sides))

"""A data set from what a user types."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ofa_tvm.progress import SILENT, Progress, as_progress
from ofa_tvm.training.cifar import cifar10
from ofa_tvm.training.data import ImageData, digits
from ofa_tvm.training.photo_folder import image_folder


def load_data(
    source: str | Path,
    *,
    seed: int = 0,
    bad: Literal["refuse", "skip"] = "refuse",
    check: bool = True,
    workers: int | None = None,
    progress: Progress | bool = SILENT,
) -> ImageData:
    """`digits`, a CIFAR-10 `.npz`, or an ImageFolder tree as a folder or tar file.

    `bad`, `check` and `workers` are those of `image_folder`; `seed` draws the held-out images; with
    `progress=True` there are bars.

    Raises
    ------
    UserError
        If it does not exist, holds no images, or holds bad ones and `bad` is "refuse".
    """
    shown = as_progress(progress)
    if str(source) == "digits":
        return digits(seed)
    if Path(source).suffix == ".npz":
        return cifar10(source, seed=seed)
    return image_folder(source, bad=bad, check=check, seed=seed, workers=workers, progress=shown)

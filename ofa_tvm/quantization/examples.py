"""What a quantiser looks at: pictures to calibrate on, and others that say what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ofa_tvm.errors import UserError
from ofa_tvm.images import SUFFIXES, Preprocessing, open_image
from ofa_tvm.progress import SILENT, Progress

if TYPE_CHECKING:
    from ofa_tvm.training import ImageData

Inputs = npt.NDArray[np.float32]

CALIBRATION, HELD_OUT = 128, 500  # images, at most, where there are more
_SATURATED = 0.5  # share of a picture's values at one end, from which it tells little of ranges


@dataclass(frozen=True)
class Examples:
    """Network inputs.

    Attributes
    ----------
    calibration, held_out
        (n, channels, height, width) each. They are the same where there is one picture only.
    labels
        Class index of each held-out input; None if they are not known.
    classes
        How many there are; None if nobody says.
    notes
        What is wrong with the pictures, a sentence each.
    """

    calibration: Inputs
    held_out: Inputs
    labels: npt.NDArray[np.int64] | None = None
    classes: int | None = None
    notes: tuple[str, ...] = ()


def of_arrays(
    inputs: npt.ArrayLike,
    labels: npt.ArrayLike | None = None,
    *,
    calibration: int = CALIBRATION,
    held_out: int = HELD_OUT,
    seed: int = 0,
) -> Examples:
    """Split network inputs at random: half to calibrate on, half held out, each up to its number.

    Parameters
    ----------
    inputs
        (n, channels, height, width), any number type.
    labels
        Class index of each.
    calibration, held_out
        The most that are taken of each.

    Raises
    ------
    UserError
        If there are none, or some hold NaN or infinity, or the labels are not as many.
    """
    array: Inputs = np.asarray(inputs, np.float32)
    if array.ndim < 2 or not array.size:
        raise UserError(f"there are no images to calibrate on: the array has the shape {array.shape}")
    if not np.isfinite(array).all():
        broken = int((~np.isfinite(array)).reshape(len(array), -1).any(1).sum())
        raise UserError(f"{broken} of {len(array)} images hold NaN or infinity; leave them out")
    classes = None if labels is None else np.asarray(labels, np.int64)
    if classes is not None and classes.shape != (len(array),):
        raise UserError(f"there are {len(array)} images, but labels of shape {classes.shape}")
    order = np.random.default_rng(seed).permutation(len(array))
    first, rest = _shares(len(array), calibration, held_out)
    chosen, held = order[:first], order[first : first + rest] if len(array) > 1 else order
    return Examples(
        array[chosen],
        array[held],
        None if classes is None else classes[held],
        notes=tuple(_few(len(array), len(chosen), len(held)) + _saturated(array[chosen])),
    )


def of_pictures(
    folder: Path,
    preprocessing: Preprocessing,
    *,
    calibration: int = CALIBRATION,
    held_out: int = HELD_OUT,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Examples:
    """The pictures in a folder, without classes; decoded as they are where the network is deployed.

    Raises
    ------
    UserError
        If it holds no pictures, or one cannot be decoded.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise UserError(f"the folder {folder} holds no pictures ({', '.join(SUFFIXES)}) to calibrate on")
    order = np.random.default_rng(seed).permutation(len(files))
    first, rest = _shares(len(files), calibration, held_out)
    chosen, held = order[:first], order[first : first + rest] if len(files) > 1 else order
    with progress.task("pictures", len(chosen) + len(held)) as task:

        def pixels(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
            found = []
            for row in rows:
                found.append(preprocessing.resize(open_image(files[row])))
                task.advance()
            return np.stack(found)

        notes = _few(len(files), len(chosen), len(held))
        seen = pixels(chosen)
        notes += _saturated(seen)
        return Examples(
            preprocessing.normalise(seen), preprocessing.normalise(pixels(held)), notes=tuple(notes)
        )


def of_data(
    data: ImageData,
    preprocessing: Preprocessing,
    classes: Sequence[str] | None,
    *,
    calibration: int = CALIBRATION,
    held_out: int = HELD_OUT,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Examples:
    """Training images to calibrate on, validation images held out.

    Parameters
    ----------
    data
        A data set with classes.
    preprocessing
        What the network expects, which may be other than the data set's own.
    classes
        The network's class names, in the order of its outputs. None takes the data set's as they are.
    """
    rng = np.random.default_rng(seed)
    labels, notes = _labels(data, classes)
    rows = {
        "train": rng.permutation(data.size("train"))[:calibration],
        "val": rng.permutation(data.size("val"))[:held_out],
    }
    with progress.task("pictures", sum(map(len, rows.values()))) as task:

        def pixels(split: Any) -> npt.NDArray[np.uint8]:
            found = []
            for row in rows[split]:
                found.append(preprocessing.resize(data.image(split, int(row))))
                task.advance()
            return np.stack(found)

        seen = pixels("train")
        return Examples(
            preprocessing.normalise(seen),
            preprocessing.normalise(pixels("val")),
            None if labels is None else labels[data.targets("val")[rows["val"]]],
            data.n_classes if classes is None else len(classes),
            tuple(notes + _few(len(seen) + len(rows["val"]), len(seen), len(rows["val"])) + _saturated(seen)),
        )


def _labels(data: ImageData, classes: Sequence[str] | None) -> tuple[npt.NDArray[np.int64] | None, list[str]]:
    """The network's class for each of the data set's; None, and why, if they are not the same."""
    if classes is None or list(classes) == list(data.labels):
        return np.arange(data.n_classes), []
    if set(data.labels) <= set(classes):
        return np.array([list(classes).index(label) for label in data.labels]), []
    other = sorted(set(data.labels) - set(classes))
    return None, [
        f"the network knows no class {other[0]!r} as the images in {data.name} do: its answers are compared "
        "with those of the float32 model, not with the classes"
    ]


def _shares(count: int, calibration: int, held_out: int) -> tuple[int, int]:
    """How many of so many are taken to calibrate on, and held out."""
    first = min(calibration, max(1, count // 2))
    return first, min(held_out, count - first)


def _few(count: int, calibration: int, held_out: int) -> list[str]:
    if count == 1:
        return [
            "there is one image, which the ranges of all feature maps and the comparison come from; "
            f"give some {CALIBRATION} and as many more"
        ]
    if min(calibration, held_out) < 16:
        return [
            f"there are {calibration} images to calibrate on and {held_out} held out; figures of so few are "
            f"rough, give some {CALIBRATION} and as many more"
        ]
    return []


def _saturated(values: npt.NDArray[Any]) -> list[str]:
    """A note where pictures lie at an end of their range."""
    low, high = values.min(), values.max()
    if low == high:
        return ["all images are of one colour; ranges measured on them fit no others"]
    rows = values.reshape(len(values), -1)
    ends = np.maximum((rows == low).mean(1), (rows == high).mean(1))
    count = int((ends > _SATURATED).sum())
    if count * 4 < len(values):
        return []
    return [
        f"{count} of {len(values)} images to calibrate on are saturated (more than half of their values are "
        "the least or the largest of all); ranges measured on them may not fit other images"
    ]

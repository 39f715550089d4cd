"""CIFAR-10 (Krizhevsky, 2009) from one npz file, decoded into memory."""

from __future__ import annotations

import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ofa_tvm.errors import UserError
from ofa_tvm.files import require_file
from ofa_tvm.images import Preprocessing, open_image
from ofa_tvm.training.augment import Augmentation
from ofa_tvm.training.data import ArrayData, hold_out

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


def cifar10(path: str | Path, *, validation: int = 5000, seed: int = 0) -> ArrayData:
    """CIFAR-10 with `validation` of its 50,000 training images held out, stratified; its own test images.

    The file holds JPEG streams end to end: `jpeg_train`, `offset_train` (n + 1 byte positions), `y_train`,
    the same for `test`, and `classes`.

    Raises
    ------
    UserError
        If the file is missing or lacks one of these arrays.
    """
    require_file(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            labels = [str(c) for c in arrays["classes"]]
            train, train_targets = _decode(arrays, "train")
            test, test_targets = _decode(arrays, "test")
    except FileNotFoundError:
        raise UserError(f"no such data file: {path}") from None
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is not a CIFAR-10 npz (classes; jpeg_, offset_, y_ of train and test): {error}"
        ) from error
    rows = np.arange(len(train))
    rest, held = hold_out(rows, train_targets, validation / len(rows), seed, "CIFAR-10", labels)
    return ArrayData(
        "cifar10",
        labels,
        Preprocessing(MEAN, STD, resolution=32),
        {
            "train": (train[rest], train_targets[rest]),
            "val": (train[held], train_targets[held]),
            "test": (test, test_targets),
        },
        Augmentation(shift=0.125, flip=0.5),
    )


def _decode(arrays: np.lib.npyio.NpzFile, part: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    stream, offsets = arrays[f"jpeg_{part}"], arrays[f"offset_{part}"]

    def decode(i: int) -> npt.NDArray[np.uint8]:
        encoded = stream[offsets[i] : offsets[i + 1]].tobytes()
        return np.asarray(open_image(encoded, f"{part} image {i}"))

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        pixels = np.stack(list(pool.map(decode, range(len(offsets) - 1))))
    return pixels, arrays[f"y_{part}"].astype(np.int64)

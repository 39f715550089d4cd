"""Data sets for training: splits, labels, and preprocessing stated as data.

A data set hands out batches as pure functions of (indices, resolution, seed). No sampler or generator has
state, so a resumed run, or one on several processes, sees the same pixels as an unbroken one.
"""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from ofa_tvm.errors import UsageError, UserError, shown
from ofa_tvm.images import Preprocessing
from ofa_tvm.training.augment import Augmentation

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
Indices = Sequence[int] | npt.NDArray[np.int64]
_KEPT_BYTES = 2**30  # of resized pictures; CIFAR-10 at all resolutions of a space for ImageNet takes 100 GB
BatchPlan = tuple[npt.NDArray[np.int64], int, int]


class ImageData(ABC):
    """A classification data set in three splits.

    Evaluation sees exactly what a deployed module sees: `preprocessing.at(resolution).apply(image)`.

    Attributes
    ----------
    name
        For logs and cache keys.
    labels
        Class names; a target is an index into them.
    preprocessing
        At the data set's usual resolution; `.at(r)` for others.
    fingerprint
        Hex digest of what the splits hold.
    """

    _splits: Mapping[Split, tuple[Any, npt.NDArray[np.int64]]]

    def __init__(
        self, name: str, labels: Sequence[str], preprocessing: Preprocessing, fingerprint: str
    ) -> None:
        self.name = name
        self.labels = tuple(labels)
        self.preprocessing = preprocessing
        self.fingerprint = fingerprint

    @property
    def n_classes(self) -> int:
        return len(self.labels)

    @abstractmethod
    def targets(self, split: Split) -> npt.NDArray[np.int64]:
        """Class index of every image of a split, (n,)."""

    @abstractmethod
    def image(self, split: Split, index: int) -> Image.Image:
        """One picture as it would lie on disk."""

    def image_size(self, split: Split, index: int) -> tuple[int, int]:
        """Width and height of one picture, in pixels."""
        return self.image(split, index).size

    @abstractmethod
    def batch(self, split: Split, indices: Indices, resolution: int) -> Tensor:
        """Evaluation input (n, 3, resolution, resolution), float32."""

    @abstractmethod
    def training_batch(self, indices: Indices, resolution: int, seed: int) -> Tensor:
        """Augmented input of the training split, the same for the same arguments."""

    def among(self, labels: Sequence[str]) -> ImageData:
        """The same images, with targets as indices into longer labels that hold this one's.

        Raises
        ------
        UsageError
            If one of its own labels is not among them.
        """
        if missing := [label for label in self.labels if label not in labels]:
            raise UsageError(f"{shown(missing[0])} is none of the {len(labels)} classes")
        places = np.array([labels.index(label) for label in self.labels], dtype=np.int64)
        other = copy.copy(self)
        other.labels = tuple(labels)
        other.fingerprint = hashlib.sha256("\n".join((self.fingerprint, *labels)).encode()).hexdigest()
        other._splits = {split: (images, places[own]) for split, (images, own) in self._splits.items()}
        return other

    def size(self, split: Split) -> int:
        """Number of images in a split."""
        return len(self.targets(split))

    def training_batches(self, plan: Iterable[BatchPlan]) -> Iterator[Tensor]:
        """`training_batch` for a stream of (indices, resolution, seed); overridden to work ahead."""
        for indices, resolution, seed in plan:
            yield self.training_batch(indices, resolution, seed)


def split_name(split: str) -> Split:
    """Check a split's name.

    Raises
    ------
    UsageError
        If it is not train, val or test.
    """
    for known in SPLITS:
        if split == known:
            return known
    raise UsageError(f"unknown split {shown(split)}; use one of {', '.join(SPLITS)}")


class ArrayData(ImageData):
    """Small pictures of one size, in memory; resolutions are resized once while there is room for that."""

    def __init__(
        self,
        name: str,
        labels: Sequence[str],
        preprocessing: Preprocessing,
        splits: dict[Split, tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]],
        augmentation: Augmentation,
    ) -> None:
        """`splits` maps a name to pixels (n, h, w) grey or (n, h, w, 3), and targets (n,)."""
        digest = hashlib.sha256(name.encode())
        for split in SPLITS:
            pixels, targets = splits[split]
            if len(pixels) == 0:
                raise UserError(f"the {split} split of {name} holds no images")
            digest.update(np.ascontiguousarray(pixels).data)
            digest.update(np.ascontiguousarray(targets).data)
        super().__init__(name, labels, preprocessing, digest.hexdigest())
        self.augmentation = augmentation
        self._splits = splits
        self._resized: dict[tuple[Split, int], npt.NDArray[np.uint8]] = {}

    def targets(self, split: Split) -> npt.NDArray[np.int64]:
        return self._splits[split_name(split)][1]

    def image(self, split: Split, index: int) -> Image.Image:
        pixels = self._splits[split_name(split)][0]
        if not 0 <= index < len(pixels):
            raise UsageError(
                f"the {split} split of {self.name} has images 0 to {len(pixels) - 1}, not {index}"
            )
        return Image.fromarray(pixels[index])

    def resized(self, split: Split, resolution: int) -> npt.NDArray[np.uint8]:
        """The whole split at a resolution, (n, resolution, resolution, 3) uint8."""
        key = (split_name(split), resolution)
        if key not in self._resized:
            preprocessing = self.preprocessing.at(resolution)
            self._resized[key] = np.stack(
                [preprocessing.resize(self.image(split, i)) for i in range(self.size(split))]
            )
        return self._resized[key]

    def _pixels(self, split: Split, indices: Indices, resolution: int) -> npt.NDArray[np.uint8]:
        """Some images at a resolution, (n, resolution, resolution, 3) uint8."""
        kept = sum(array.nbytes for array in self._resized.values())
        needed = self.size(split) * resolution * resolution * 3
        if (split, resolution) in self._resized or kept + needed <= _KEPT_BYTES:
            return self.resized(split, resolution)[np.asarray(indices)]
        preprocessing = self.preprocessing.at(resolution)
        return np.stack([preprocessing.resize(self.image(split, int(i))) for i in indices])

    def batch(self, split: Split, indices: Indices, resolution: int) -> Tensor:
        pixels = self._pixels(split, indices, resolution)
        return torch.from_numpy(self.preprocessing.normalise(pixels))

    def training_batch(self, indices: Indices, resolution: int, seed: int) -> Tensor:
        pixels = torch.from_numpy(self._pixels("train", indices, resolution))
        scaled = pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255)
        scaled = self.augmentation.apply(scaled, torch.Generator().manual_seed(seed))
        mean = torch.tensor(self.preprocessing.mean).view(3, 1, 1)
        std = torch.tensor(self.preprocessing.std).view(3, 1, 1)
        return (scaled - mean) / std


def digits(seed: int = 0) -> ArrayData:
    """Scikit-learn's 1,797 handwritten digits: 1,197 train, 300 val, 300 test, stratified by class.

    Scans are 8 x 8 grey. The split is drawn from `seed`; mean and deviation are those of the training scans.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    scans = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # stored as 0..16
    targets = bunch.target.astype(np.int64)
    rest, test = train_test_split(np.arange(len(targets)), test_size=300, stratify=targets, random_state=seed)
    train, val = train_test_split(rest, test_size=300, stratify=targets[rest], random_state=seed)
    mean = round(float(scans[train].mean()) / 255, 4)
    std = round(float(scans[train].std()) / 255, 4)
    return ArrayData(
        "digits",
        [str(c) for c in bunch.target_names],
        Preprocessing((mean, mean, mean), (std, std, std), resolution=40),
        {
            "train": (scans[train], targets[train]),
            "val": (scans[val], targets[val]),
            "test": (scans[test], targets[test]),
        },
        Augmentation(shift=0.08, turn_deg=12, scale=0.12),
    )


def hold_out(
    rows: npt.NDArray[np.int64],
    targets: npt.NDArray[np.int64],
    share: float,
    seed: int,
    name: str,
    labels: Sequence[str],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Split row numbers in two, stratified by class: the rest, and a share of them.

    Raises
    ------
    UserError
        If a class has too few images for it.
    """
    from sklearn.model_selection import train_test_split

    rarest, fewest = Counter(targets[rows].tolist()).most_common()[-1]
    classes = len(np.unique(targets[rows]))
    count = max(round(share * len(rows)), classes)
    if fewest < 2 or len(rows) - count < classes:
        raise UserError(
            f"{name} has too few images of {labels[rarest]} to hold some out for validation; a class needs 3"
        )
    rest, held = train_test_split(rows, test_size=count, stratify=targets[rows], random_state=seed)
    return np.sort(rest), np.sort(held)

"""Photographs as training data: augmented, and decoded by worker processes."""

from __future__ import annotations

import hashlib
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ofa_tvm.errors import UserError
from ofa_tvm.images import Preprocessing, open_image
from ofa_tvm.training.data import SPLITS, BatchPlan, ImageData, Indices, Split, split_name

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_KINDS = {"1": "black and white", "L": "grey", "I;16": "16-bit grey", "P": "palette", "RGBA": "transparent"}


@dataclass(frozen=True)
class PhotoAugmentation:
    """The paper's augmentation of photographs, by pillow.

    Attributes
    ----------
    area
        Share of the picture that a random crop keeps, smallest and largest.
    aspect
        Largest ratio of the crop's sides.
    flip
        Probability of a left-right mirror image.
    brightness, saturation
        0.5 means factors 0.5 to 1.5.
    """

    area: tuple[float, float] = (0.08, 1.0)
    aspect: float = 4 / 3
    flip: float = 0.5
    brightness: float = 32 / 255
    saturation: float = 0.5

    def apply(self, image: Image.Image, resolution: int, rng: np.random.Generator) -> Image.Image:
        """A random part of an RGB picture, resized to a square."""
        area = rng.uniform(*self.area) * image.width * image.height
        aspect = math.exp(rng.uniform(-math.log(self.aspect), math.log(self.aspect)))
        width = min(math.sqrt(area * aspect), image.width)
        height = min(math.sqrt(area / aspect), image.height)
        left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
        box = (left, top, left + width, top + height)
        image = image.resize((resolution, resolution), Image.Resampling.BILINEAR, box=box)
        if rng.random() < self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for enhancer, limit in (
            (ImageEnhance.Brightness, self.brightness),
            (ImageEnhance.Color, self.saturation),
        ):
            if limit:
                image = enhancer(image).enhance(1 + rng.uniform(-limit, limit))
        return image


@dataclass(frozen=True)
class Photo:
    """Where one encoded picture lies: a file, or a byte range of a tar file."""

    name: str
    path: str
    offset: int = 0
    size: int = -1

    def read(self) -> bytes:
        try:
            with Path(self.path).open("rb") as handle:
                handle.seek(self.offset)
                return handle.read(self.size)
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}") from error

    def open(self) -> Image.Image:
        return open_image(self.read(), self.name)

    def size_px(self) -> tuple[int, int]:
        """Width and height by its header, before it is turned upright.

        Raises
        ------
        UserError
            If it is no image.
        """
        try:
            with Image.open(BytesIO(self.read())) as image:
                return image.size
        except OSError as error:
            raise UserError(f"{self.name} is not an image that can be read") from error

    def check(self) -> str:
        """Decode it, and return what it is where that is not RGB ("grey", "CMYK", ...), else "".

        Raises
        ------
        UserError
            If it is no image, or damaged.
        """
        encoded = self.read()
        open_image(encoded, self.name)
        with Image.open(BytesIO(encoded)) as image:
            return "" if image.mode == "RGB" else _KINDS.get(image.mode, image.mode)


class PhotoData(ImageData):
    """Photographs of any sizes, decoded when a batch needs them.

    Attributes
    ----------
    skipped
        What was left out and why, a sentence each.
    converted
        Names of pictures that are not RGB and are read as such, with what they are ("grey", "CMYK", ...).
    """

    def __init__(
        self,
        name: str,
        labels: Sequence[str],
        preprocessing: Preprocessing,
        splits: dict[Split, tuple[Sequence[Photo], npt.NDArray[np.int64]]],
        augmentation: PhotoAugmentation | None = None,
        workers: int | None = None,
        skipped: Sequence[str] = (),
        converted: Sequence[str] = (),
    ) -> None:
        """`workers` decoding processes; None takes one a CPU, 0 decodes in this process."""
        digest = hashlib.sha256(encoded(name))
        for split in SPLITS:
            photos, targets = splits[split]
            if not photos:
                raise UserError(f"the {split} split of {name} holds no images")
            digest.update(encoded("\n".join(f"{p.name} {p.size}" for p in photos)))
            digest.update(targets.tobytes())
        super().__init__(name, labels, preprocessing, digest.hexdigest())
        self.augmentation = augmentation or PhotoAugmentation()
        self.workers = len(os.sched_getaffinity(0)) if workers is None else workers
        self.skipped, self.converted = tuple(skipped), tuple(converted)
        self._splits = splits

    def targets(self, split: Split) -> npt.NDArray[np.int64]:
        return self._splits[split_name(split)][1]

    def image(self, split: Split, index: int) -> Image.Image:
        return self._splits[split_name(split)][0][index].open()

    def image_size(self, split: Split, index: int) -> tuple[int, int]:
        return self._splits[split_name(split)][0][index].size_px()

    def batch(self, split: Split, indices: Indices, resolution: int) -> Tensor:
        preprocessing = self.preprocessing.at(resolution)
        photos = self._splits[split_name(split)][0]
        with ThreadPoolExecutor(max(1, self.workers)) as pool:  # pillow decodes outside the interpreter lock
            pixels = list(pool.map(lambda i: preprocessing.resize(photos[i].open()), indices))
        return torch.from_numpy(preprocessing.normalise(np.stack(pixels)))

    def training_batch(self, indices: Indices, resolution: int, seed: int) -> Tensor:
        photos = self._splits["train"][0]
        pixels = []
        for position, index in enumerate(indices):
            rng = np.random.default_rng([seed, position])
            pixels.append(np.asarray(self.augmentation.apply(photos[index].open(), resolution, rng)))
        return torch.from_numpy(self.preprocessing.normalise(np.stack(pixels)))

    def training_batches(self, plan: Iterable[BatchPlan]) -> Iterator[Tensor]:
        if self.workers == 0:
            yield from super().training_batches(plan)
            return
        # A "sample" is a whole batch: workers are handed its indices, resolution and seed.
        for batch in DataLoader(
            _TrainingBatches(self),
            batch_size=None,
            sampler=plan,
            num_workers=self.workers,
            prefetch_factor=2,
            worker_init_fn=_without_tracebacks,
            generator=torch.Generator(),  # its own, or the loader would draw from the training's
        ):
            if isinstance(batch, UserError):
                raise batch
            yield batch


def _without_tracebacks(worker: int) -> None:
    """A thread of multiprocessing's prints one in each worker that is ended while it hands a batch over."""
    sys.excepthook = lambda *error: None


class _TrainingBatches(Dataset["Tensor | UserError"]):
    def __init__(self, data: PhotoData) -> None:
        self.data = data

    def __getitem__(self, plan: BatchPlan) -> Tensor | UserError:
        torch.set_num_threads(1)
        try:
            return self.data.training_batch(*plan)
        except UserError as error:
            return error  # raised here, the loader would make its traceback the message


def encoded(name: str) -> bytes:
    """A file's name, which need not be text."""
    return name.encode("utf-8", "surrogateescape")

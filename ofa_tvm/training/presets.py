"""Which space and input sides suit a data set, and how long a training of so many images should be."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ofa_tvm.errors import UsageError
from ofa_tvm.training.config import TrainingConfig
from ofa_tvm.training.data import ImageData

_LOOKED_AT = 64  # pictures
_IMAGENET_IMAGES, _IMAGENET_BATCH = 1_281_167, 2048
_LEAST_STEPS = 4000  # of all phases, from fresh weights
_TRAINED = 1 / 3  # of that, from trained ones
_STEPS_AN_EPOCH = 64  # about, where there are images for it
_FEW_AN_EPOCH = 8
_TOO_LONG = 4  # times what is proposed


@dataclass(frozen=True)
class Preset:
    """A space with the input sides to train and search at.

    Attributes
    ----------
    name
        What it is asked for by.
    space
        Name of the search space.
    resolutions
        Input sides in pixels; None for all that the space has.
    """

    name: str
    space: str
    resolutions: tuple[int, ...] | None


PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("small", "ofa_mbv3_w0.5", (64, 80, 96)),
        Preset("medium", "ofa_mbv3_w0.5", (96, 128, 160)),
        Preset("imagenet", "ofa_mbv3_w1.0", None),
    )
}


def fitting_preset(images: int, side: int) -> Preset:
    """The preset for so many training images whose short sides are about so many pixels.

    Small ones below 2,000 images or 96 pixels, ImageNet's from 100,000 images of 160 pixels on: a larger
    network learns too much by heart from fewer, and sees nothing more in smaller ones.
    """
    if images >= 100_000 and side >= 160:
        return PRESETS["imagenet"]
    return PRESETS["medium" if images >= 2000 and side >= 96 else "small"]


def preset_of(space: str, resolutions: tuple[int, ...] | None) -> Preset | None:
    """The preset that a space and resolutions are of, if any."""
    found = (p for p in PRESETS.values() if (p.space, p.resolutions) == (space, resolutions))
    return next(found, None)


def typical_side(data: ImageData) -> int:
    """Median of the short sides of training images, in pixels, by some from all over the split."""
    chosen = np.linspace(0, data.size("train") - 1, _LOOKED_AT).round().astype(int)
    return round(statistics.median(min(data.image_size("train", i)) for i in np.unique(chosen).tolist()))


def fitting_batch(images: int) -> int:
    """Images a step: a power of two with some 64 steps an epoch, from 8 (16 from 128 images on) to 2,048."""
    least = 8 if images < 128 else 16
    return min(max(least, _power_of_two(images // _STEPS_AN_EPOCH)), _IMAGENET_BATCH, images)


def fitted(
    config: TrainingConfig, images: int, *, batch_size: int | None = None, trained: bool = False
) -> TrainingConfig:
    """Settings for data like ImageNet with batch and phases for so many training images.

    The steps of all phases are as many as the paper's for each image of ImageNet, but 4,000 at least, in no
    more epochs than the paper's; a third of that from trained weights.

    Parameters
    ----------
    batch_size
        Images a step; None for `fitting_batch`.
    trained
        Whether the weights to start from are trained.

    Raises
    ------
    UsageError
        If there are no images.
    """
    if images < 1:
        raise UsageError("there are no images to train on")
    settings = config.replace(batch_size=batch_size or fitting_batch(images))
    papers = config.total_epochs * (_IMAGENET_IMAGES // _IMAGENET_BATCH)
    steps = max(_LEAST_STEPS, papers * images / _IMAGENET_IMAGES) * (_TRAINED if trained else 1)
    scale = min(1.0, steps / settings.total_steps(images))
    return settings if scale > 0.99 else settings.with_epochs(scale)


def shareable(config: TrainingConfig, processes: int) -> TrainingConfig:
    """The same with micro-batches, and a batch, that so many processes can share equally."""
    micro = min(config.micro_batch_size or config.batch_size, config.batch_size)
    if (-(-config.batch_size // micro)) % processes == 0:
        return config
    least = max(1, -(-config.batch_size // (micro * processes)))
    micro = min(micro, max(8, config.batch_size // (processes * least)))
    return replace(config, micro_batch_size=micro, batch_size=micro * processes * least)


def misfit(config: TrainingConfig, images: int, *, trained: bool = False) -> str | None:
    """What is wrong with batch or length for so many images, and what to type instead; None if they fit."""
    per_epoch, steps = config.steps_per_epoch(images), config.total_steps(images)
    batch = fitting_batch(images)
    epochs = config.total_epochs
    if per_epoch < _FEW_AN_EPOCH and batch * 2 <= config.batch(images):
        plural = "s" if per_epoch > 1 else ""
        return (
            f"{images} images make {per_epoch} step{plural} an epoch of {config.batch(images)} "
            f"images, {steps} steps in {epochs} epochs: too few updates for their cost; with --set "
            f"batch_size={batch} they are {images // batch} an epoch"
        )
    proposed = fitted(config, images, batch_size=config.batch_size, trained=trained)
    most = proposed.total_steps(images)
    if steps >= _TOO_LONG * most:
        return (
            f"{epochs} epochs of {per_epoch} steps are {steps} steps, {steps / most:.0f} times what "
            f"{images} images need; --epochs-scale {most / steps:.2g} makes it {most}"
        )
    return None


def _power_of_two(number: int) -> int:
    """The largest that is not above a number; 0 below 1."""
    return 1 << (number.bit_length() - 1) if number > 0 else 0

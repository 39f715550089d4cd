"""Accuracy of a subnet: extracted, its batch-norm statistics re-estimated, then counted over a split."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ofa_tvm.number_formats import Arithmetic
from ofa_tvm.spaces import Arch
from ofa_tvm.supernet import Supernet, set_dtype
from ofa_tvm.supernet.batchnorm import calibrate
from ofa_tvm.training.data import ImageData, Split
from ofa_tvm.training.sampling import CALIBRATION, derived_seed

BATCH = 100


def calibration_batches(
    data: ImageData, resolution: int, images: int, seed: int, device: torch.device
) -> Iterator[Tensor]:
    """A random but fixed sample of the training split, as evaluation sees it (not augmented)."""
    n = min(images, data.size("train"))
    chosen = np.random.default_rng(derived_seed(CALIBRATION, seed)).permutation(data.size("train"))[:n]
    for indices in np.array_split(chosen, -(-n // BATCH)):
        yield data.batch("train", indices, resolution).to(device)


def calibrated_subnet(
    net: Supernet, arch: Arch, data: ImageData, images: int, seed: int = 0, dtype: Arithmetic | None = None
) -> nn.Module:
    """The extracted subnet with batch statistics of its own, ready to evaluate; the supernet is untouched.

    It computes in `dtype`; None for what the supernet computes in.
    """
    sub = net.extract(arch)
    if dtype is not None:
        set_dtype(sub, dtype)
    device = next(sub.parameters()).device
    calibrate(sub, calibration_batches(data, arch.r, images, seed, device))
    return sub.eval()


def accuracy(
    module: nn.Module, data: ImageData, split: Split, resolution: int, most: int | None = None
) -> float:
    """Share of a split's images that a network classifies correctly, 0..1.

    With `most`, of so many images at most: always the same ones, from all over the split.
    """
    targets, given = answers(module, data, split, resolution, most)
    return int((targets == given).sum()) / len(targets)


@torch.inference_mode()
def answers(
    module: nn.Module, data: ImageData, split: Split, resolution: int, most: int | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """True classes of a split's images and the likeliest ones by a network, (n,) each; `most` as above."""
    module.eval()
    device = next(module.parameters()).device
    targets = data.targets(split)
    chosen = np.arange(len(targets))
    if most is not None and most < len(targets):
        chosen = np.sort(np.random.default_rng(0).choice(chosen, most, replace=False))
    given = [
        module(data.batch(split, indices, resolution).to(device)).argmax(dim=1).cpu().numpy()
        for indices in np.array_split(chosen, -(-len(chosen) // BATCH))
    ]
    return targets[chosen], np.concatenate(given)

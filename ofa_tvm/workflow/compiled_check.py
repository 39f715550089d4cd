"""Does a compiled subnet give the answers that it was evaluated with?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ofa_tvm.compiler import compile as compile_onnx
from ofa_tvm.deploy import load
from ofa_tvm.errors import UserError
from ofa_tvm.export import export_onnx
from ofa_tvm.spaces import Arch
from ofa_tvm.supernet import Supernet
from ofa_tvm.targets import Target
from ofa_tvm.temporaries import scratch_folder
from ofa_tvm.training.data import ImageData, Split
from ofa_tvm.training.validation import BATCH, calibrated_subnet

_MOST = 1000  # images
_LEAST_SAME = 0.9  # of the answers; ties in rounding change few


@dataclass(frozen=True)
class CompiledCheck:
    """A subnet's accuracies (0..1) by PyTorch and compiled, and the share of images with the same answer."""

    arch: Arch
    images: int
    pytorch: float
    compiled: float
    same: float


def check_compiled(
    net: Supernet,
    arch: Arch,
    data: ImageData,
    split: Split,
    target: Target,
    *,
    calibration_images: int = 2000,
    seed: int = 0,
) -> CompiledCheck:
    """Compile one subnet as it is evaluated, in the supernet's dtype, and compare answers on a split.

    A split of more than 1,000 images is represented by so many, from all over it.

    Raises
    ------
    UserError
        If it cannot be compiled or run, or answers more than a tenth of the images otherwise.
    """
    sub = calibrated_subnet(net, arch, data, calibration_images, seed).cpu()
    targets = data.targets(split)
    count = min(_MOST, len(targets))
    chosen = np.sort(np.random.default_rng(0).choice(len(targets), count, replace=False))
    with scratch_folder("compiled") as name:
        onnx, so = Path(name) / "model.onnx", Path(name) / "model.so"
        export_onnx(sub, onnx, resolution=arch.r)
        compile_onnx(onnx, target, so)
        run = load(so, target)
        pytorch, compiled = [], []
        for indices in np.array_split(chosen, -(-count // BATCH)):
            images = data.batch(split, indices, arch.r)
            with torch.inference_mode():
                pytorch += sub(images).argmax(dim=1).tolist()
            compiled += [int(np.argmax(run(image[None].numpy()))) for image in images]
    answers = np.array([pytorch, compiled])
    right = (answers == targets[chosen]).mean(axis=1)
    same = float((answers[0] == answers[1]).mean())
    if same < _LEAST_SAME:
        raise UserError(
            f"compiled for {target.name}, {arch.to_json()} gives another answer than PyTorch on "
            f"{1 - same:.1%} of {count} images; please report it"
        )
    return CompiledCheck(arch, count, float(right[0]), float(right[1]), same)

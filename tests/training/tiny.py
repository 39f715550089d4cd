"""A training small enough to run whole in a test: 96 digits at 32 pixels, three phases."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.supernet import build_supernet
from ofa_tvm.training import ArrayData, Phase, TrainingConfig, TrainingResult, digits, finetune, train
from ofa_tvm.training.augment import Augmentation

CONFIG = TrainingConfig(
    "ofa_digits",
    (
        Phase("full", {}, 2, 1, 5e-2),
        Phase("all", {"ks": 0, "d": 0, "e": 0}, 2, 1, 3e-2, subnets=2, sort_channels=True),
        Phase("quantize", {"ks": 0, "d": 0, "e": 0}, 1, 0, 1e-2, subnets=2, quantize=True),
    ),
    batch_size=32,
    micro_batch_size=16,
    resolutions=(32,),
    calibration_images=32,
    threads=1,
    checkpoint_every_s=0.0,
)
FINETUNE = CONFIG.replace(phases=(Phase("finetune", {}, 2, 1, 1e-2),), resolutions=None, distillation=1.0)


def tiny_digits(train_images: int = 96) -> ArrayData:
    whole = digits()
    splits = {}
    for split, count in (("train", train_images), ("val", 40), ("test", 40)):
        pixels, targets = whole._splits[split]  # type: ignore[index]
        splits[split] = (pixels[:count], targets[:count])
    return ArrayData("tiny", whole.labels, whole.preprocessing, splits, Augmentation(0.05, 5, 0.05))  # type: ignore[arg-type]


class AfterSteps:
    """A progress display that ends the process, or interrupts, when so many steps were taken."""

    def __init__(self, steps: int, how: int) -> None:
        self.left, self.how = steps, how
        self.said: list[str] = []

    @contextmanager
    def task(self, name: str, total: float | None = None) -> Iterator[AfterSteps]:
        yield self

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        if note:  # the bar's first move to where a run continues has none
            self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.how)

    def say(self, message: str) -> None:
        self.said.append(message)


def finetune_tiny(out: Path, every_s: float = 0.0, progress: Progress = SILENT) -> TrainingResult:
    """The smallest subnet of a supernet with fresh weights, taught by the largest."""
    torch.manual_seed(0)
    net = build_supernet("ofa_digits", n_classes=10)
    config = FINETUNE.replace(checkpoint_every_s=every_s)
    return finetune(net, net.space.min_arch(32), config, tiny_digits(), out, progress=progress)


if __name__ == "__main__":
    kind, out, steps, every = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    death = AfterSteps(steps, signal.SIGKILL)
    if kind == "finetune":
        finetune_tiny(out, every, death)
    else:
        train(CONFIG.replace(checkpoint_every_s=every), tiny_digits(), out, progress=death)

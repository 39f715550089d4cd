"""Which images each step of a phase trains on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ofa_tvm.training import sampling
from ofa_tvm.training.data import BatchPlan
from ofa_tvm.training.job import TrainingJob
from ofa_tvm.training.step import MicroBatch


@dataclass(frozen=True)
class Batches:
    """The batches of a phase, cut into micro-batches that the processes share.

    All of it is a function of (seed, phase, step), so every process finds the same.

    Attributes
    ----------
    job
        What is trained on, and which process this is.
    phase
        Its number.
    size, micro_batches
        Images of a batch, and the pieces that it is cut into.
    resolutions
        That steps draw from.
    """

    job: TrainingJob
    phase: int
    size: int
    micro_batches: int
    resolutions: tuple[int, ...]

    def resolution(self, step: int) -> int:
        """Input side of a step."""
        return sampling.step_resolution(self.resolutions, self.job.seed, self.phase, step)

    def pixels(self, first_step: int, steps: int) -> Iterator[Tensor]:
        """Images of this process's micro-batches, from a step on to the end of the phase."""
        return self.job.data.training_batches(self._plan(first_step, steps))

    def of_step(self, pixels: Iterator[Tensor], step: int) -> list[MicroBatch]:
        """This process's micro-batches of a step, whose images come next among the `pixels`."""
        return [self._micro_batch(next(pixels), step, m) for m in self._mine]

    @property
    def _mine(self) -> range:
        return range(self.job.rank, self.micro_batches, self.job.world)

    def _indices(self, step: int, micro_batch: int) -> np.ndarray:
        count = self.job.data.size("train")
        epoch, position = divmod(step, count // self.size)
        order = sampling.epoch_order(count, self.job.seed, self.phase, epoch)
        batch = order[position * self.size : (position + 1) * self.size]
        return np.array_split(batch, self.micro_batches)[micro_batch]

    def _plan(self, first_step: int, steps: int) -> Iterator[BatchPlan]:
        for step in range(first_step, steps):
            resolution = self.resolution(step)
            for m in self._mine:
                seed = sampling.derived_seed(sampling.PIXELS, self.job.seed, self.phase, step, m)
                yield self._indices(step, m), resolution, seed

    def _micro_batch(self, images: Tensor, step: int, m: int) -> MicroBatch:
        job = self.job
        layout = torch.channels_last if job.config.channels_last else torch.contiguous_format
        targets = torch.from_numpy(job.data.targets("train")[self._indices(step, m)])
        return MicroBatch(
            images.to(job.device, memory_format=layout, non_blocking=True),
            targets.to(job.device, non_blocking=True),
            sampling.derived_seed(sampling.DROPOUT, job.seed, self.phase, step, m),
        )

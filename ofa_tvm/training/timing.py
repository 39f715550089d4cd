"""How long a step of each phase takes, by one that is taken and thrown away."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch
from torch import nn

from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.spaces import Arch, Space
from ofa_tvm.supernet import build_supernet, set_dtype
from ofa_tvm.training.batches import Batches
from ofa_tvm.training.config import Phase, TrainingConfig
from ofa_tvm.training.data import ImageData
from ofa_tvm.training.distributed import choose_device
from ofa_tvm.training.job import TrainingJob
from ofa_tvm.training.optimiser import build_optimiser
from ofa_tvm.training.sampling import step_subnets
from ofa_tvm.training.step import training_step

_STEPS, _ENOUGH_S, _LONG_S = 3, 1.0, 30.0  # the first one warms up, unless it takes that long


def time_steps(
    config: TrainingConfig,
    space: Space,
    data: ImageData,
    *,
    phases: Collection[str],
    arch: Arch | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> dict[str, float]:
    """Seconds of a step, by phase: those of one micro-batch times their number.

    Fresh weights take as long as trained ones, so nothing is read and nothing kept.

    Parameters
    ----------
    phases
        Which ones.
    arch
        The one subnet that is trained; None for a supernet.
    """
    device = choose_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    supernet = build_supernet(space, data.n_classes, dropout=config.dropout)
    net = _placed(supernet if arch is None else supernet.extract(arch), config, device)
    teacher = _placed(supernet.extract(space.max_arch()), config, device).requires_grad_(False)
    seconds = {}
    with progress.task("time a step of each phase", len(phases)) as bar:
        for index, phase in enumerate(config.phases):
            if phase.name not in phases:
                continue
            if phase.quantize:
                set_dtype(net, "int8")
            taught = teacher if index and config.distillation else None
            draw = _drawn(space, phase, index, seed) if arch is None else lambda step, side: [arch]
            sides = (config.resolutions or space.resolutions) if arch is None else (arch.r,)
            job = TrainingJob(config, data, Path(), device, seed, 0, 1, progress)
            seconds[phase.name] = _step_s(net, taught, job, index, sides, draw)
            bar.advance(1, f"{seconds[phase.name]:.2g} s")
    return seconds


def _placed(net: nn.Module, config: TrainingConfig, device: torch.device) -> nn.Module:
    if config.channels_last:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net.to(device).train()


def _drawn(space: Space, phase: Phase, index: int, seed: int) -> Callable[[int, int], list[Arch]]:
    return lambda step, side: step_subnets(space, phase, index, seed, step, side)


def _step_s(
    net: nn.Module,
    teacher: nn.Module | None,
    job: TrainingJob,
    index: int,
    sides: Sequence[int],
    draw: Callable[[int, int], list[Arch]],
) -> float:
    config, data = job.config, job.data
    batch, micro = config.batch(data.size("train")), config.micro_batch(data.size("train"))
    batches = Batches(job, index, micro, 1, tuple(sides))
    pixels = batches.pixels(0, _STEPS)
    optimiser = build_optimiser(net, config.momentum, config.weight_decay)
    best = math.inf
    for step in range(_STEPS):
        start = time.monotonic()
        images = batches.of_step(pixels, step)
        training_step(net, optimiser, images, draw(step, batches.resolution(step)), config, teacher)
        best = min(best, time.monotonic() - start)
        if best > (_ENOUGH_S if step else _LONG_S):
            break
    return best * math.ceil(batch / micro)

"""One training step: the gradients of all its subnets added up, then one update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ofa_tvm.spaces import Arch
from ofa_tvm.supernet import Supernet
from ofa_tvm.training import sampling
from ofa_tvm.training.config import TrainingConfig
from ofa_tvm.training.distributed import add_up, add_up_gradients
from ofa_tvm.training.loss import shrinking_loss

Forward = Callable[[Tensor], Tensor]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class MicroBatch:
    """Images of one forward pass and their classes, on the device that computes."""

    images: Tensor
    targets: Tensor
    dropout_seed: int


def gradient_scaler(config: TrainingConfig, device: torch.device) -> torch.amp.GradScaler:
    """The loss scaling that float16 needs; it does nothing at other precisions."""
    return torch.amp.GradScaler(device.type, enabled=config.precision == "float16")


def training_step(
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    batches: Sequence[MicroBatch],
    archs: Sequence[Arch],
    config: TrainingConfig,
    teacher: Forward | None = None,
    *,
    world: int = 1,
    scaler: torch.amp.GradScaler | None = None,
    forward: Forward | None = None,
) -> float:
    """One update: the gradients of all subnets, over all micro-batches and processes, added up.

    Nothing is updated when the loss is not finite.

    Parameters
    ----------
    net
        A supernet, whose active subnet is set to each of `archs` in turn; or a fixed network, which is run
        once for each of them.
    scaler
        For float16.
    forward
        A compiled form of `net`; None calls `net` itself.

    Returns
    -------
    float
        Mean loss over subnets and images.
    """
    optimiser.zero_grad(set_to_none=True)
    micro_batches = len(batches) * world
    device = batches[0].images.device
    scaler = scaler or gradient_scaler(config, device)
    losses: list[Tensor] = []
    for batch in batches:
        with torch.autocast(device.type, _DTYPES[config.precision], enabled=config.precision != "float32"):
            for loss in _losses(net, net if forward is None else forward, teacher, batch, archs, config):
                scaler.scale(loss / micro_batches).backward()
                losses.append(loss.detach())
    # Read once a step: reading a loss makes a GPU wait.
    total = float(torch.stack(losses).double().sum()) / (micro_batches * len(archs))
    if world > 1:
        total = add_up(total, device)
    if math.isfinite(total):
        if world > 1:
            add_up_gradients(p for group in optimiser.param_groups for p in group["params"])
        scaler.step(optimiser)
        scaler.update()
    return total


def _losses(
    net: nn.Module,
    run: Forward,
    teacher: Forward | None,
    batch: MicroBatch,
    archs: Sequence[Arch],
    config: TrainingConfig,
) -> Iterator[Tensor]:
    """Each subnet's loss on a micro-batch, whose gradients are to be taken before the next one's."""
    with torch.no_grad():
        teacher_logits = None if teacher is None else teacher(batch.images)
    for number, arch in enumerate(archs):
        if config.dropout:
            torch.manual_seed(sampling.derived_seed(batch.dropout_seed, number))
        if isinstance(net, Supernet):
            net.set_active(arch)
        yield shrinking_loss(
            run(batch.images),
            batch.targets,
            teacher_logits,
            smoothing=config.label_smoothing,
            distillation=config.distillation,
            kind=config.distillation_type,
        )

"""Several processes under torchrun: who computes what, and adding up gradients."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn


@contextmanager
def process_group(device: torch.device) -> Iterator[tuple[int, int]]:
    """(rank, processes): joins torchrun's group where its variables are set, else (0, 1)."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield 0, 1
        return
    ours = not distributed.is_initialized()
    if ours:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield distributed.get_rank(), distributed.get_world_size()
    finally:
        if ours:
            distributed.destroy_process_group()


def add_up_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by the sum over processes, in one message.

    All processes train the same subnets, so the same parameters have gradients in all of them.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    distributed.all_reduce(flat)
    for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(summed.view(gradient.shape))


def add_up(value: float, device: torch.device) -> float:
    """Sum of a number over processes."""
    total: Tensor = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return float(total)

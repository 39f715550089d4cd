"""SGD as the paper uses it, and its learning-rate schedule."""

from __future__ import annotations

import math

import torch
from torch import nn


def build_optimiser(net: nn.Module, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """Nesterov SGD; batch norm and biases, which are vectors, are not decayed."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    return torch.optim.SGD(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=0.0,
        momentum=momentum,
        nesterov=momentum > 0,
        foreach=None,
    )


def set_learning_rate(optimiser: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set it for all parameters."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate


def cosine_with_warmup(step: int, total_steps: int, warmup_steps: int, peak: float) -> float:
    """Learning rate of a step: linear up to `peak` over the warm-up, then half a cosine down to 0."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return 0.5 * peak * (1 + math.cos(math.pi * done))

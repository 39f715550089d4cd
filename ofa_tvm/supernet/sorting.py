"""Channels in order of importance, as subnets of smaller width need them (Once-for-All, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ofa_tvm.spaces.network import se_channels
from ofa_tvm.supernet.layers import SqueezeExcite


def l1_norm(weight: Tensor, dim: int) -> Tensor:
    """Sum of absolute weights that belong to each channel of dimension `dim`."""
    return weight.detach().abs().sum([d for d in range(weight.ndim) if d != dim])


def importance_order(importance: Tensor, bands: Sequence[int] = ()) -> Tensor:
    """Channel indices by falling importance, shape (channels,).

    `bands` are widths whose subnets are trained already: channels are sorted between two neighbouring ones
    only, so that each of those subnets keeps its set of channels.
    """
    edges = [0, *sorted({band for band in bands if 0 < band < len(importance)}), len(importance)]
    return torch.cat(
        [
            left + importance[left:right].argsort(descending=True, stable=True)
            for left, right in pairwise(edges)
        ]
    )


def take(tensor: Tensor, dim: int, order: Tensor) -> None:
    """Reorder `tensor` in place along `dim`."""
    with torch.no_grad():
        tensor.copy_(tensor.index_select(dim, order))


def take_bias(conv: nn.Conv2d, order: Tensor) -> None:
    if conv.bias is not None:
        take(conv.bias, 0, order)


def take_norm(bn: nn.BatchNorm2d, order: Tensor) -> None:
    for tensor in (bn.weight, bn.bias, bn.running_mean, bn.running_var):
        if tensor is not None:
            take(tensor, 0, order)


def sort_squeeze_excite(se: SqueezeExcite, order: Tensor, bands: Sequence[int]) -> None:
    """Follow the order of the channels it acts on, then sort its own middle, bands likewise."""
    reduce, expand = se.fc.reduce, se.fc.expand
    take(reduce.weight, 1, order)
    take(expand.weight, 0, order)
    take_bias(expand, order)
    middle = importance_order(l1_norm(expand.weight, 1), [se_channels(band) for band in bands])
    take(expand.weight, 1, middle)
    take(reduce.weight, 0, middle)
    take_bias(reduce, middle)

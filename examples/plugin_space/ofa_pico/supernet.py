"""How its supernet is made: here, with weights that begin otherwise."""

from __future__ import annotations

from torch import nn

from ofa_tvm.spaces import MBConvSpec, Space
from ofa_tvm.supernet import Supernet


def build(space: Space, n_classes: int, dropout: float) -> Supernet:
    """Residual blocks start as the identity: their last batch norm scales by 0 (arXiv 1706.02677)."""
    net = Supernet(space, n_classes, dropout)
    largest = space.network(space.max_arch(), n_classes)
    for block, spec in zip(net.blocks, largest.blocks, strict=True):
        if isinstance(spec, MBConvSpec) and spec.residual:
            *_, last = (module for module in block.modules() if isinstance(module, nn.BatchNorm2d))
            nn.init.zeros_(last.weight)
    return net

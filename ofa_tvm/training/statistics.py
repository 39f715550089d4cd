"""Batch statistics while subnets of many sizes are trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ofa_tvm.supernet.fake_quantization import MapQuantizer


@contextmanager
def frozen_statistics(net: nn.Module) -> Iterator[None]:
    """Keep running statistics out of training: every subnet would mix its own into them.

    Batches are normalised and quantised by their own; a subnet's are estimated when it is evaluated.
    """
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm | MapQuantizer)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if not isinstance(norm, MapQuantizer) and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.zero_()  # it counts forward passes, which processes share

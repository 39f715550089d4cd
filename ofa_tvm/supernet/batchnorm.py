"""Re-estimating batch-norm statistics, and ranges of maps: a subnet's own differ from those in training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ofa_tvm.errors import UserError
from ofa_tvm.supernet.fake_quantization import MapQuantizer

if TYPE_CHECKING:
    from ofa_tvm.supernet.network import Network

_NOISE, _SMALL = 4, 32  # inputs, and their side at the most


def calibrate(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace running statistics by the mean over `batches` (each (n, 3, r, r), weighted by n).

    Those of a quantised network include the ranges of its maps: means of each batch's least and largest.
    `module` is a subnet, or a supernet whose active path is re-estimated. It keeps its mode and its weights.
    Once-for-All, section 4.1: 2,000 training images are enough.

    Raises
    ------
    UserError
        If there is no batch.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d | MapQuantizer)]
    device = next(module.parameters()).device
    modes = {m: m.training for m in module.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    seen = 0
    try:
        module.eval()
        for norm in norms:
            norm.train()
        with torch.no_grad():
            for batch in batches:
                seen += len(batch)
                for norm in norms:
                    # Weight 1 for the first batch forgets the old statistics; the rest make a running mean.
                    norm.momentum = len(batch) / seen
                module(batch.to(device))
    finally:
        for norm in norms:
            norm.momentum = momenta[norm]
        for m, mode in modes.items():
            m.training = mode
    if not seen:
        raise UserError("batch-norm statistics cannot be re-estimated: there is no image to do it on")


def calibrate_on_noise(network: Network, side: int, seed: int = 0) -> None:
    """Statistics and ranges of small random inputs, enough for a network whose speed alone counts."""
    generator = torch.Generator().manual_seed(seed)
    small = min(side, _SMALL)
    shape = _NOISE, network.spec.stem[0].c_in, small, small
    calibrate(network, [torch.randn(shape, generator=generator)])

"""Does an exported file compute what PyTorch computes?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from ofa_tvm.agreement import relative_difference, tolerance
from ofa_tvm.errors import UserError
from ofa_tvm.reference import reference_session
from ofa_tvm.supernet.fake_quantization import dtype_of


def check_onnx(path: str | Path, module: nn.Module, *, seed: int = 0) -> float:
    """Compare an ONNX file in ONNX Runtime with the module in evaluation mode, on a random input.

    Returns
    -------
    float
        Largest difference of an output, relative to the largest output of the module.

    Raises
    ------
    UserError
        If they differ by more than rounding explains, or an output is not finite.
    """
    session = reference_session(path)
    entry = session.get_inputs()[0]
    x = np.random.default_rng(seed).standard_normal(entry.shape).astype(np.float32)
    training, device = module.training, next(module.parameters()).device
    module.eval()
    try:
        with torch.no_grad():
            expected = module(torch.from_numpy(x).to(device)).float().cpu().numpy()
    finally:
        module.train(training)
    (actual,) = session.run(None, {entry.name: x})
    difference = relative_difference(expected, actual)
    accepted = tolerance("export", dtype_of(module))
    if not (np.isfinite(expected).all() and difference <= accepted):
        raise UserError(
            f"{path} differs from PyTorch by {difference:.1e} of its largest output in ONNX Runtime "
            f"({accepted:.0e} is the most that is accepted); its weights may be damaged"
        )
    return difference

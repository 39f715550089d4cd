"""Does an exported file compute what PyTorch computes?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from ofa_tvm.errors import UserError

LARGEST_DIFFERENCE = 1e-3
"""Of float32 logits, as a share of the largest one; rounding gives 1e-6 to 1e-5."""


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
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
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
    difference = float(np.abs(actual - expected).max()) / max(float(np.abs(expected).max()), 1e-12)
    if not difference <= LARGEST_DIFFERENCE:  # nor where either is not finite
        raise UserError(
            f"{path} differs from PyTorch by {difference:.1e} of its largest output in ONNX Runtime "
            f"({LARGEST_DIFFERENCE:.0e} is the most that is accepted); its weights may be damaged"
        )
    return difference

"""Does an exported file compute what PyTorch computes?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from ofa_tvm.agreement import relative_difference, tolerance
from ofa_tvm.errors import UserError
from ofa_tvm.supernet.fake_quantization import dtype_of

# Roundings that fall to the other side make others fall: up to 0.24 in 48 subnets of random weights. A scale
# that is 1.3 times too large made 0.3 in the last block of one, 1.1 and more before.
_INT8 = 0.4


def check_onnx(path: str | Path, module: nn.Module, *, seed: int = 0) -> float:
    """Compare an ONNX file in ONNX Runtime with the module in evaluation mode, on a random input.

    QDQ is run as it is written: what ONNX Runtime makes of it saturates on processors without VNNI.

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

    quantized, options = dtype_of(module) == "int8", onnxruntime.SessionOptions()
    if quantized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
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
    accepted = _INT8 if quantized else tolerance("export", "float32")
    if not (np.isfinite(expected).all() and difference <= accepted):
        raise UserError(
            f"{path} differs from PyTorch by {difference:.1e} of its largest output in ONNX Runtime "
            f"({accepted:.0e} is the most that is accepted); its weights may be damaged"
        )
    return difference

"""Does the compiled module compute what its ONNX says?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ofa_tvm.deploy.artefact import Artefact
from ofa_tvm.runtime import random_input

_EXAMPLES = 4  # random inputs, each of the module's own batch size


@dataclass(frozen=True)
class Difference:
    """Largest difference to ONNX Runtime over all outputs: absolute, and as a share of the largest output."""

    max_abs: float
    max_rel: float


def check_against_onnxruntime(artefact: Artefact) -> Difference:
    """Compare the artefact's module with ONNX Runtime on the artefact's ONNX, on random inputs.

    Parameters
    ----------
    artefact
        An opened artefact that runs here, or on the device that it was put `on`.

    Raises
    ------
    UserError
        If the module cannot be loaded here.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(artefact.onnx_path), options, providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(0)
    worst_abs, worst_rel = 0.0, 0.0
    for _ in range(_EXAMPLES):
        arrays = [random_input(spec, rng) for spec in artefact.runner.inputs]
        names = [item.name for item in session.get_inputs()]
        expected = session.run(None, dict(zip(names, arrays, strict=True)))
        actual = artefact.runner(*arrays)
        for want, got in zip(expected, actual if isinstance(actual, tuple) else (actual,), strict=True):
            difference = float(np.max(np.abs(want.astype(np.float64) - got)))
            if not np.isfinite(difference):
                difference = float("inf")
            worst_abs = max(worst_abs, difference)
            worst_rel = max(worst_rel, difference / max(float(np.max(np.abs(want))), 1e-12))
    return Difference(worst_abs, worst_rel)

"""ONNX Runtime as the reference that compiled networks are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime


def reference_session(path: str | Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """A session that computes in the arithmetic that a file states: quantised operators are not fused.

    ONNX Runtime's integer kernels saturate on processors without VNNI. With 0 `threads` it takes all CPUs.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

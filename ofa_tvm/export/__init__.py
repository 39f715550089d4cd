"""Extracted subnets and published specialised networks as ONNX files."""

from __future__ import annotations

from ofa_tvm.export.check import check_onnx
from ofa_tvm.export.net_config import load_net_config, published_resolution, read_net_config
from ofa_tvm.export.onnx_graph import export_onnx, to_onnx

__all__ = [
    "check_onnx",
    "export_onnx",
    "load_net_config",
    "published_resolution",
    "read_net_config",
    "to_onnx",
]

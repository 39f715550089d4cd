"""Converters of our own, for operators that TVM's importer lacks or gets wrong.

Each is a pure function from a node with static shapes to Relax expressions; `importer` prefers them to TVM's.
"""

from __future__ import annotations

from collections.abc import Mapping

from ofa_tvm.compiler.converters import clip, convolution, extrema, pooling, resize
from ofa_tvm.compiler.converters.node import Converter, Node

__all__ = ["CONVERTERS", "Converter", "Node"]

CONVERTERS: Mapping[str, Converter] = {
    "AveragePool": pooling.average_pool,
    "Clip": clip.clip,
    "Conv": convolution.conv,
    "ConvTranspose": convolution.conv_transpose,
    "GlobalLpPool": pooling.global_lp_pool,
    "LpPool": pooling.lp_pool,
    "Max": extrema.extremum,
    "MaxPool": pooling.max_pool,
    "MaxUnpool": pooling.max_unpool,
    "Min": extrema.extremum,
    "Resize": resize.resize,
    "Upsample": resize.upsample,
}

"""Converters of our own, for operators that TVM's importer lacks or gets wrong.

Each is a pure function from a node with static shapes to Relax expressions; `importer` prefers them to TVM's.
"""

from __future__ import annotations

from collections.abc import Mapping

from ofa_tvm.compiler.converters.node import Converter, Node
from ofa_tvm.compiler.converters.resize import resize, upsample

__all__ = ["CONVERTERS", "Converter", "Node"]

CONVERTERS: Mapping[str, Converter] = {
    "Resize": resize,
    "Upsample": upsample,
}

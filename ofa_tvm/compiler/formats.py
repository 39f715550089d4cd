"""What becomes of a network's graph in each number format; one joins by its passes and a line in `PASSES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx
import tvm

from ofa_tvm.compiler import half
from ofa_tvm.compiler.stored import stored_as_bfloat16
from ofa_tvm.number_formats import DType


@dataclass(frozen=True)
class Passes:
    """Changes that make a float32 network one of another format.

    Attributes
    ----------
    prepare
        The ONNX graph, normalized, before it is imported.
    finish
        The Relax module with its layout, before operators become kernels; told whether the target's templates
        add products in the format itself.
    store
        The lowered module, whose kernels pass maps to each other.
    """

    prepare: Callable[[onnx.ModelProto], onnx.ModelProto] = lambda model: model
    finish: Callable[[tvm.IRModule, bool], tvm.IRModule] = lambda mod, _: mod
    store: Callable[[tvm.IRModule], tvm.IRModule] = lambda mod: mod


PASSES: Mapping[DType, Passes] = {
    "float32": Passes(),
    "float16-weights": Passes(),  # see products.packed_product
    "float16": Passes(half.to_float16, lambda mod, in_half: half.with_float32_sums(mod, windows=not in_half)),
    "bfloat16": Passes(store=stored_as_bfloat16),
    "int8": Passes(),  # the network's own Quantize and DequantizeLinear say it
}

"""float16 as a setting: weights and maps in half precision, the network's edges in float32.

Sums are in float32 too, except on CPUs that add float16 vectors (ARM v8.2).
"""

from __future__ import annotations

import onnx
import tvm
from tvm import relax

_SUMS = ("relax.nn.conv2d", "relax.matmul")


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in half precision, whose inputs and outputs keep their types.

    Weights beyond float16's range are cut to it, as ONNX Runtime's converter does.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # the converter works in place
    converted = OnnxModel(convert_float_to_float16(copy, keep_io_types=True))
    converted.topological_sort()  # the casts at the inputs are appended behind their readers
    return converted.model


@relax.expr_functor.mutator
class _Float32Sums(relax.PyExprMutator):
    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if not isinstance(call.op, tvm.ir.Op) or call.op.name not in _SUMS:
            return call
        left, right = call.args[0], call.args[1]
        if str(left.ty.dtype) != "float16":
            return call
        attributes = call.attrs
        if call.op.name == "relax.matmul":
            summed = relax.op.matmul(left, right, out_dtype="float32")
        else:
            summed = relax.op.nn.conv2d(
                left,
                right,
                strides=[int(v) for v in attributes.strides],
                padding=[int(v) for v in attributes.padding],
                dilation=[int(v) for v in attributes.dilation],
                groups=int(attributes.groups),
                data_layout=attributes.data_layout,
                kernel_layout=attributes.kernel_layout,
                out_layout=attributes.out_layout,
                out_dtype="float32",
            )
        return relax.op.astype(self.builder_.emit(summed), "float16")


def with_float32_sums(mod: tvm.IRModule) -> tvm.IRModule:
    """Let convolutions and products of half-precision tensors add up in float32.

    A sum over a thousand channels would lose three decimal digits in float16, and costs nothing more in
    float32 where loads are what takes the time.
    """
    mutator = _Float32Sums(mod)
    mod = tvm.IRModule(dict(mod.functions.items()))
    mod["main"] = mutator.visit_expr(mod["main"])
    return mod

"""What a library says of itself: JSON inside the module, which `ofa_tvm.load` reads back."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import onnx
import tvm
from tvm import relax

from ofa_tvm.compiler import graph
from ofa_tvm.compiler.dataflow import static_shape_of
from ofa_tvm.targets import Target


def network_metadata(model: onnx.ModelProto, mod: tvm.IRModule, target: Target) -> dict[str, Any]:
    """Inputs, outputs, target, labels and preprocessing, and versions of a lowered model."""
    function = mod["main"]
    names = [value.name for value in graph.graph_inputs(model)]
    result = function.ret_ty
    fields = list(result.fields) if isinstance(result, relax.TupleType) else [result]
    return {
        "format": 1,
        "inputs": [_tensor(name, param.ty) for name, param in zip(names, function.params, strict=True)],
        "outputs": [_tensor(value.name, ty) for value, ty in zip(model.graph.output, fields, strict=True)],
        "target": {
            "name": target.name,
            "kind": target.kind,
            "tvm": target.tvm_dict(),
            "threads": target.threads,
            "dtype": target.dtype,
        },
        "onnx_metadata": {entry.key: entry.value for entry in model.metadata_props},
        "versions": {"ofa-tvm": version("ofa-tvm"), "tvm": tvm.__version__, "onnx": onnx.__version__},
    }


def _tensor(name: str, ty: relax.TensorType) -> dict[str, Any]:
    return {"name": name, "shape": list(static_shape_of(ty) or ()), "dtype": str(ty.dtype)}

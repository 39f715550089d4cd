"""Reading ONNX files."""

from __future__ import annotations

import os
from pathlib import Path

import onnx

from ofa_tvm.compiler.graph.inputs import Shapes, fix_inputs
from ofa_tvm.errors import UserError

# Operators that onnx's checker refuses in the versions that a later one replaced, and that exporters wrote.
_WITHDRAWN = frozenset({"GroupNormalization"})


def read_onnx(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Read and check an ONNX file, with the weights that lie in files of their own beside it.

    Raises
    ------
    UserError
        If there is no such file, it cannot be read or is not a valid ONNX model.
    """
    source = Path(path)
    if not source.is_file():
        raise UserError(f"there is no ONNX file {source}")
    try:
        model = onnx.load(source)
        _check(model)
    except Exception as error:
        raise UserError(f"{source} is not a valid ONNX model: {_reason(error)}") from error
    return model


def write_fixed(source: Path, sizes: Shapes, path: Path) -> Path:
    """Write a model with static input sizes, for tools that need them; returns `path`.

    Parameters
    ----------
    source
        The ONNX file.
    sizes
        Shape of every input.
    path
        Where to write it; large weights go into a file beside it.

    Raises
    ------
    UsageError, UserError
        As `read_onnx`.
    """
    model = read_onnx(source)
    fix_inputs(model, sizes)
    onnx.save(model, path, save_as_external_data=model.ByteSize() >= 2**31, location=f"{path.name}.data")
    return path


def check(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, if it is valid.

    Raises
    ------
    UserError
        If it is not.
    """
    try:
        _check(model)
    except Exception as error:
        raise UserError(f"the model is not a valid ONNX model: {_reason(error)}") from error
    return model


def _check(model: onnx.ModelProto) -> None:
    if model.ByteSize() >= 2**31:
        return  # more than onnx's C++ code takes
    unshaped = [
        value
        for value in (*model.graph.input, *model.graph.output)
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")
    ]
    withdrawn = [node for node in model.graph.node if node.op_type in _WITHDRAWN and not node.domain]
    imports = len(model.opset_import)
    try:
        for value in unshaped:  # which ONNX Runtime accepts and the checker does not
            value.type.tensor_type.shape.SetInParent()
        for node in withdrawn:
            node.domain = "withdrawn"
        if withdrawn:
            model.opset_import.append(onnx.helper.make_opsetid("withdrawn", 1))
        onnx.checker.check_model(model)
    finally:
        for value in unshaped:
            value.type.tensor_type.ClearField("shape")
        for node in withdrawn:
            node.ClearField("domain")
        del model.opset_import[imports:]


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    context = next((line for line in lines if "OpType" in line), "")
    return " ".join([*(lines[:1] or [type(error).__name__]), *([context] if context else [])])

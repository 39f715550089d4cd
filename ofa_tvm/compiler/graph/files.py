"""Reading ONNX files."""

from __future__ import annotations

import os
from pathlib import Path

import onnx

from ofa_tvm.errors import UsageError, UserError


def read_onnx(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Read and check an ONNX file, with the weights that lie in files of their own beside it.

    Raises
    ------
    UsageError
        If there is no such file.
    UserError
        If it cannot be read or is not a valid ONNX model.
    """
    source = Path(path)
    if not source.is_file():
        raise UsageError(f"there is no ONNX file {source}")
    try:
        model = onnx.load(source)
        onnx.checker.check_model(os.fspath(source))  # by its path: a model in memory has to be under 2 GB
    except Exception as error:
        raise UserError(f"{source} is not a valid ONNX model: {_reason(error)}") from error
    return model


def check(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, if it is valid.

    Raises
    ------
    UserError
        If it is not.
    """
    if model.ByteSize() < 2**31:
        try:
            onnx.checker.check_model(model)
        except Exception as error:
            raise UserError(f"the model is not a valid ONNX model: {_reason(error)}") from error
    return model


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    context = next((line for line in lines if "OpType" in line), "")
    return " ".join([*(lines[:1] or [type(error).__name__]), *([context] if context else [])])

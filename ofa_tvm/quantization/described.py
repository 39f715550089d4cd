"""What an ONNX file says of its input: side, preprocessing, and the names of its classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ofa_tvm.errors import UserError
from ofa_tvm.images import Preprocessing
from ofa_tvm.jsonfile import parse_json


@dataclass(frozen=True)
class Described:
    """Of a network for pictures; None for what the file does not say."""

    resolution: int | None
    preprocessing: Preprocessing | None
    labels: tuple[str, ...] | None


def described(path: Path) -> Described:
    """Read what `ofa-tvm export` writes into a file's metadata, and the input's side.

    Raises
    ------
    UsageError, UserError
        If it is no ONNX file, if its input is no square picture of three channels, or metadata are broken.
    """
    from ofa_tvm.compiler.graph import graph_inputs, read_onnx

    model = read_onnx(path)
    inputs = graph_inputs(model)
    dims = [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim] if inputs else []
    if len(dims) != 4 or dims[1] not in (0, 3) or (dims[2] and dims[3] and dims[2] != dims[3]):
        shape = " x ".join(str(dim or "?") for dim in dims) or "nothing"
        raise UserError(
            f"{path} takes {shape}, not pictures of 3 channels and equal sides; quantise it from Python, "
            "with ofa_tvm.quantize and an array of its inputs"
        )
    notes = {entry.key: entry.value for entry in model.metadata_props}
    try:
        stated = parse_json(notes.get("preprocessing", "null"))
        labels = parse_json(notes.get("labels", "null"))
    except ValueError as error:
        raise UserError(f"{path} has metadata that are not JSON: {error}") from None
    return Described(
        dims[2] or dims[3] or None,
        Preprocessing.from_dict(stated) if stated and "mean" in stated else None,  # else its side alone
        tuple(map(str, labels)) if isinstance(labels, list) else None,
    )

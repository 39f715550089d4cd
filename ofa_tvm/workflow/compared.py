"""What a comparison of subnets and runtimes found: its rows, the conditions, and its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ofa_tvm.errors import UserError
from ofa_tvm.files import write_atomic
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.number_formats import DTYPES, DType
from ofa_tvm.schema import first_problem, key_path
from ofa_tvm.spaces import Arch
from ofa_tvm.targets.target import Unit

_COST = {"type": ["number", "null"], "exclusiveMinimum": 0}
_SHARE = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
_ROW: dict[str, Any] = {
    "type": "object",
    "required": ["name", "arch", "measured", "macs"],
    "properties": {
        "name": {"type": "string"},
        "arch": {"type": "object"},
        "dtype": {"enum": list(DTYPES)},
        "accuracy": _SHARE,
        "measured": {"type": "number", "exclusiveMinimum": 0},
        **dict.fromkeys(("predicted", "onnxruntime", "pytorch"), _COST),
        "macs": {"type": "integer", "minimum": 0},
    },
}
COMPARISON_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["subnets", "unit", "threads"],
    "properties": {
        "subnets": {"type": "array", "items": _ROW, "minItems": 1},
        "unit": {"enum": ["ms", "Minstr"]},
        "threads": {"type": "integer", "minimum": 1},
        "batch": {"type": "integer", "minimum": 1},
        "noisy": {"type": "boolean"},
        "machine": {"type": "string"},
        "date": {"type": "string"},
        "versions": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
"""Of what `Comparison.write` writes; other keys are ignored."""


@dataclass(frozen=True)
class Row:
    """One subnet; accuracies 0..1 through the compiled module, costs in the target's unit, None if unknown.

    Other runtimes are timed on this machine only, so not where the target is another device: ONNX Runtime on
    what was compiled, PyTorch on the subnet in float32.
    """

    name: str
    arch: Arch
    dtype: DType
    accuracy: float | None
    predicted: float | None
    measured: float
    macs: int
    onnxruntime: float | None = None
    pytorch: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Subnets measured in the same rounds.

    Attributes
    ----------
    rows
        One a subnet.
    unit
        Of costs: "ms", or "Minstr" where an emulator counted.
    threads, batch
        Of every runtime, and images in one call.
    machine, date
        Processor's or device's name, and UTC time in ISO format.
    noisy
        Whether samples scattered even in the best pass.
    versions
        Of what was compared, by package.
    """

    rows: tuple[Row, ...]
    unit: Unit
    threads: int
    batch: int = 1
    machine: str = ""
    date: str = ""
    noisy: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)

    def row_of(self, arch: Arch | None, dtype: DType) -> Row | None:
        """That of a subnet in a number format, if it is among them."""
        return next((row for row in self.rows if row.arch == arch and row.dtype == dtype), None)

    def write(self, path: Path) -> None:
        """Write the file.

        Raises
        ------
        UserError
            If it cannot be written.
        """
        subnets = [vars(row) | {"arch": row.arch.to_dict()} for row in self.rows]
        content = vars(self) | {"rows": None, "versions": dict(self.versions)}
        del content["rows"]
        write_atomic(path, json.dumps({"subnets": subnets, **content}, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Comparison:
        """Read what `write` wrote.

        Raises
        ------
        UserError
            If the file is missing or damaged.
        """
        try:
            content = parse_json(path.read_bytes())
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from None
        except ValueError as error:
            raise UserError(f"{path} is no comparison of subnets: {error}") from None
        if (problem := first_problem(content, COMPARISON_SCHEMA)) is not None:
            raise UserError(f"{path}, a comparison of subnets: {key_path(problem[0])}: {problem[1]}")
        known = {key: content[key] for key in COMPARISON_SCHEMA["properties"] if key in content}
        try:
            rows = tuple(_row(each) for each in known.pop("subnets"))
        except UserError as error:
            raise UserError(f"{path}, a comparison of subnets: {error}") from None
        return cls(rows, **known)


def _row(content: Mapping[str, Any]) -> Row:
    missing = {"dtype": "float32", "accuracy": None, "predicted": None}
    known = {key: content[key] for key in _ROW["properties"] if key in content}
    return Row(**missing | known | {"arch": Arch.from_dict(content["arch"])})

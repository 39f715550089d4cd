"""What `manifest.yaml` holds."""

from __future__ import annotations

from typing import Any

from ofa_tvm.images import PREPROCESSING_SCHEMA
from ofa_tvm.targets.kinds import KINDS
from ofa_tvm.targets.schema import MOST_THREADS

FORMAT = 1

_FREE = {"type": "object"}
_NUMBER_OR_NONE = {"type": ["number", "null"]}
_TENSORS = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["name", "shape", "dtype"],
        "properties": {
            "name": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": 32},
            "dtype": {"type": "string"},
        },
    },
}
# A file of the folder: no absolute path, none that leads out of it.
_BELOW = r"^(?!\.{1,2}(/|$))[^/\\\0]+(/(?!\.{1,2}(/|$))[^/\\\0]+)*$"
_DIGEST = {"type": "string", "pattern": "^[0-9a-f]{64}$"}

MANIFEST_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["format", "target", "sha256"],
    "properties": {
        "format": {"const": FORMAT},
        "created": {"type": "string"},
        # the subnet
        "space": {"type": "string"},
        "arch": _FREE,
        # where it runs and what it costs there
        "target": {
            "type": "object",
            "required": ["name", "kind", "tvm", "threads"],
            "properties": {
                "name": {"type": "string"},
                "kind": {"enum": list(KINDS)},
                "tvm": _FREE,
                "threads": {"type": "integer", "minimum": 1, "maximum": MOST_THREADS},
            },
        },
        "latency": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "budget": _NUMBER_OR_NONE,
                "predicted": _NUMBER_OR_NONE,
                "measured": _NUMBER_OR_NONE,
                "unit": {"enum": ["ms", "Minstr"]},
                "how": _FREE,  # a Measurement
            },
        },
        "accuracy": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "predicted": _NUMBER_OR_NONE,
                "measured": _NUMBER_OR_NONE,
                "data": {"type": "string"},
                # of a module in another dtype: the network's on the same images in float32, and the change;
                # of one that was not run: the first alone
                "float32": {"type": "number"},
                "change": {"type": "number"},
            },
        },
        "search": _FREE,  # rounds and every candidate, predicted and measured
        # its distinct kernels: name, calls, schedule, and the record's cost of one call in the latency's unit
        "kernels": {"type": "array", "items": _FREE},
        # how to call it
        "inputs": _TENSORS,
        "outputs": _TENSORS,
        "preprocessing": PREPROCESSING_SCHEMA,
        "labels": {"type": "array", "items": {"type": "string"}},
        "check": _FREE,  # the difference to ONNX Runtime
        "versions": {"type": "object", "additionalProperties": {"type": "string"}},
        "sha256": {
            "type": "object",
            "required": ["model.so", "model.onnx"],
            "propertyNames": {"pattern": _BELOW},
            "additionalProperties": _DIGEST,
        },
    },
}

"""By what a `manifest.yaml` is checked before it is read."""

from __future__ import annotations

from typing import Any

from ofa_tvm.images import PREPROCESSING_SCHEMA
from ofa_tvm.measurement.result import MEASUREMENT_SCHEMA
from ofa_tvm.number_formats import DTYPES
from ofa_tvm.targets.kinds import KINDS
from ofa_tvm.targets.schema import MOST_THREADS

FORMAT = 1

# Required are the keys that no version left out.
_FREE = {"type": "object"}
_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_NUMBER_OR_NONE = {"type": ["number", "null"]}
_FLOAT_OR_NONE = {"type": ["float", "null"]}
_TENSORS = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["name", "shape", "dtype"],
        "properties": {
            "name": _TEXT,
            "shape": {"type": "array", "items": _COUNT, "maxItems": 32},
            "dtype": _TEXT,
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
        "created": _TEXT,
        "space": _TEXT,
        "arch": _FREE,
        "target": {
            "type": "object",
            "required": ["name", "kind", "tvm", "threads"],
            "properties": {
                "name": _TEXT,
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
                "how": MEASUREMENT_SCHEMA,
            },
        },
        "accuracy": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "predicted": _NUMBER_OR_NONE,
                "measured": _NUMBER_OR_NONE,
                "data": _TEXT,
                "float32": {"type": "number"},
                "change": {"type": "number"},
            },
        },
        "search": {
            "type": "object",
            "properties": {
                "rounds": _COUNT,
                "candidates": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": [
                            "arch",
                            "round",
                            "predicted_accuracy",
                            "predicted",
                            "measured",
                            "within",
                        ],
                        "properties": {
                            "arch": _FREE,
                            "round": _COUNT,
                            "predicted_accuracy": {"type": "float"},
                            "validation_accuracy": _FLOAT_OR_NONE,
                            "predicted": {"type": "float"},
                            "measured": {"type": "float"},
                            "noise": {"type": "float"},
                            "within": {"type": "boolean"},
                        },
                    },
                },
            },
        },
        "kernels": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": _TEXT,
                    "calls": _COUNT,
                    "schedule": _TEXT,
                    "cost": _FLOAT_OR_NONE,
                    "inside_us": {"type": "float"},
                },
            },
        },
        "inputs": _TENSORS,
        "outputs": _TENSORS,
        "preprocessing": PREPROCESSING_SCHEMA,
        "labels": {"type": "array", "items": _TEXT},
        "check": {
            "type": "object",
            "properties": {
                "dtype": {"enum": list(DTYPES)},
                "against": _TEXT,
                "max_abs_difference": {"type": "float"},
                "max_rel_difference": {"type": "float"},
                "max_rel_difference_by_input": {"type": "object", "additionalProperties": {"type": "float"}},
                "tuned_fraction": {"type": "float"},
            },
        },
        "quantization": {
            "type": "object",
            "required": ["trained", "calibration", "maps"],
            "properties": {
                "trained": {"type": "boolean"},
                "calibration": _TEXT,
                "maps": {
                    "type": "object",
                    "additionalProperties": {
                        "type": "array",
                        "items": {"type": "number"},
                        "minItems": 2,
                        "maxItems": 2,
                    },
                },
            },
        },
        "versions": {"type": "object", "additionalProperties": _TEXT},
        "sha256": {
            "type": "object",
            "required": ["model.so", "model.onnx"],
            "propertyNames": {"pattern": _BELOW},
            "additionalProperties": _DIGEST,
        },
    },
}

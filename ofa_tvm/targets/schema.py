"""The schema of a descriptor file."""

from __future__ import annotations

from typing import Any

from ofa_tvm.number_formats import DTYPES
from ofa_tvm.targets.kinds import KINDS

MOST_THREADS = 1024
"""Of a module: more than any machine of today has, and few enough to be made."""

MOST_IMAGES = 1 << 16
"""Of a call."""

_NAME = {"type": "string", "pattern": r"^[a-z0-9][a-z0-9._-]*$"}
_NAMES = {"type": "array", "items": _NAME, "uniqueItems": True}
_TEXT = {"type": "string", "minLength": 1}
_POSITIVE = {"type": "number", "exclusiveMinimum": 0}
_COUNT = {"type": "integer", "minimum": 1}
_CPUS = {"type": "string", "pattern": r"^(big|little|all|\d+(-\d+)?(,\d+(-\d+)?)*)$"}


def _table(properties: dict[str, Any], required: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


_TVM = {
    "type": "object",
    "required": ["kind"],
    "properties": {
        "kind": {"enum": sorted({kind.backend for kind in KINDS.values()})},
        "mtriple": _TEXT,
        "mcpu": _TEXT,
        "mattr": {"type": "array", "items": {"type": "string", "pattern": r"^[+-]"}},
        "arch": _TEXT,
        "num-cores": {"not": {}},  # it follows from measure.threads
    },
}

_HARDWARE = _table(
    {
        "device": _TEXT,
        "cores": _COUNT,
        "clock_ghz": _POSITIVE,
        "simd_bits": _COUNT,
        "fma_units": _COUNT,
        "l1d_kib": _POSITIVE,
        "l2_kib": _POSITIVE,
        "l3_kib": _POSITIVE,
        "ram_gib": _POSITIVE,
        "bandwidth_gb_s": _POSITIVE,
        "peak_gflops": _POSITIVE,
        "sms": _COUNT,
        "shared_kib": _POSITIVE,
    }
)

DESCRIPTOR_SCHEMA: dict[str, Any] = _table(
    {
        "name": _NAME,
        "kind": {"enum": list(KINDS)},
        "summary": _TEXT,
        "tvm": _TVM,
        "host": _TVM,
        "dtype": {"enum": list(DTYPES)},
        "features": {"type": "array", "items": _TEXT, "uniqueItems": True},
        "compatible": _NAMES,
        "link": _table(
            {"compilers": {"type": "array", "items": _TEXT, "minItems": 1}, "install": _TEXT},
            ("compilers", "install"),
        ),
        "run": _table(
            {
                "where": {"enum": ["local", "rpc", "emulator"]},
                "tracker": {"type": "string", "pattern": r"^.+:\d+$"},
                "key": _TEXT,
                "emulator": _TEXT,
                "emulator_cpu": _TEXT,
                "install": _TEXT,
                "cpus": _CPUS,
                "wait_s": _POSITIVE,
            },
            ("where",),
        )
        | {
            "allOf": [
                {
                    "if": {"properties": {"where": {"const": "rpc"}}},
                    "then": {"required": ["tracker", "key"]},
                },
                {
                    "if": {"properties": {"where": {"const": "emulator"}}},
                    "then": {"required": ["emulator", "install"]},
                },
            ]
        },
        "measure": _table(
            {
                "threads": {**_COUNT, "maximum": MOST_THREADS},
                "unit": {"enum": ["ms", "Minstr"]},
                "repeats": {"type": "integer", "minimum": 3},
                "sample_ms": _POSITIVE,
            }
        ),
        "hardware": _HARDWARE,
    },
    ("name", "kind", "summary", "tvm", "link", "run"),
)

DEVICE_SCHEMA: dict[str, Any] = _table(
    {
        "name": _NAME,
        "kind": {"enum": [*KINDS, "asic", "fpga"]},
        "summary": _TEXT,
        "hardware": _HARDWARE,
        "columns": {"type": "array", "items": _TEXT, "minItems": 1, "uniqueItems": True},
        "target": _NAME,
        "cpus": _CPUS,
    },
    ("name", "kind", "summary", "hardware", "columns"),
)

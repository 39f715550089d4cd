"""What every published figure carries: machine, versions and date."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ofa_tvm.files import write_atomic
from ofa_tvm.targets import detect_machine

_PACKAGES = ("ofa-tvm", "apache-tvm", "onnxruntime", "openvino", "torch", "numpy", "scikit-learn", "ofa")


def provenance() -> dict[str, Any]:
    """Machine, versions of what is installed, and UTC date."""
    machine = detect_machine()
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "machine": f"{machine.model} ({machine.cpu}), {machine.cores} cores",
        "versions": versions,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write results with their provenance as JSON."""
    write_atomic(path, json.dumps({**provenance(), **content}, indent=1) + "\n")

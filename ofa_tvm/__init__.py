"""ofa-tvm: from a Once-for-All supernet to compiled, measured modules on real hardware.

Names are loaded on first use, so that importing the package needs neither torch nor tvm.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    "Arch": "ofa_tvm.spaces",
    "get_space": "ofa_tvm.spaces",
    "list_spaces": "ofa_tvm.spaces",
    "build_supernet": "ofa_tvm.supernet",
    "load_data": "ofa_tvm.training",
    "default_config": "ofa_tvm.training",
    "train": "ofa_tvm.training",
    "tune_space": "ofa_tvm.workflow.loop",
    "search_and_ship": "ofa_tvm.workflow.loop",
    "export_onnx": "ofa_tvm.export",
    "get_target": "ofa_tvm.targets",
    "list_targets": "ofa_tvm.targets",
    "quantize": "ofa_tvm.quantization",
    "compile": "ofa_tvm.compiler",
    "load": "ofa_tvm.deploy",
    "Artefact": "ofa_tvm.deploy",
    "measure": "ofa_tvm.measurement",
    "UserError": "ofa_tvm.errors",
    "UsageError": "ofa_tvm.errors",
}

__all__ = ["__version__", *_EXPORTS]

if TYPE_CHECKING:
    from ofa_tvm.compiler import compile as compile
    from ofa_tvm.deploy import Artefact as Artefact
    from ofa_tvm.deploy import load as load
    from ofa_tvm.errors import UsageError as UsageError
    from ofa_tvm.errors import UserError as UserError
    from ofa_tvm.export import export_onnx as export_onnx
    from ofa_tvm.measurement import measure as measure
    from ofa_tvm.quantization import quantize as quantize
    from ofa_tvm.spaces import Arch as Arch
    from ofa_tvm.spaces import get_space as get_space
    from ofa_tvm.spaces import list_spaces as list_spaces
    from ofa_tvm.supernet import build_supernet as build_supernet
    from ofa_tvm.targets import get_target as get_target
    from ofa_tvm.targets import list_targets as list_targets
    from ofa_tvm.training import default_config as default_config
    from ofa_tvm.training import load_data as load_data
    from ofa_tvm.training import train as train
    from ofa_tvm.workflow.loop import search_and_ship as search_and_ship
    from ofa_tvm.workflow.loop import tune_space as tune_space


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'ofa_tvm' has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

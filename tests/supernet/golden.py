"""Deterministic weights and inputs that the official implementation's golden cases were computed with."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ofa_tvm import Arch

SPACES = ("ofa_mbv3_w1.0", "ofa_mbv3_w1.2", "ofa_proxyless_w1.3", "ofa_resnet50")


def read_cases(data: Path, space: str) -> dict[str, Any]:
    return json.loads((data / "official" / f"{space}.json").read_text())


def golden_state(shapes: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    """Weights in float64 for state-dict keys and their shapes."""
    state = {}
    for key, shape in shapes.items():
        g = np.random.default_rng(zlib.crc32(key.encode()))
        if key.endswith("num_batches_tracked"):
            state[key] = torch.zeros((), dtype=torch.int64)
            continue
        value = g.standard_normal(shape)
        if key.endswith("running_var"):
            value = 1 + 0.1 * abs(value)
        elif key.endswith(("running_mean", "bias")):
            value = 0.1 * value
        elif "_matrix" in key:
            value = np.eye(shape[0]) + 0.05 * value
        elif len(shape) == 1:
            value = 1 + 0.1 * value
        else:
            value = value * math.sqrt(2 / math.prod(shape[1:]))
        state[key] = torch.from_numpy(value)
    return state


def golden_case(case: Mapping[str, Any]) -> tuple[Arch, torch.Tensor]:
    """Architecture and input (1, 3, r, r) in float64."""
    arch = Arch.from_dict(case["arch"])
    x = np.random.default_rng(case["input_seed"]).standard_normal((1, 3, arch.r, arch.r))
    return arch, torch.from_numpy(x)

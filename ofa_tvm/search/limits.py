"""Hard limits beside latency, as a person types them: sizes, memory, MACs and parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ofa_tvm.errors import UsageError, shown
from ofa_tvm.number_formats import ELEMENT_BYTES, DType
from ofa_tvm.search.constraints import Constraint
from ofa_tvm.search.objectives import Objective, make_objectives
from ofa_tvm.spaces.space import Space

LIMITED = ("size", "memory", "macs", "params")
_BYTES = {"B": 1e-6, "kB": 1e-3, "KB": 1e-3, "MB": 1.0, "GB": 1e3, "KiB": 1024e-6, "MiB": 1.048576}
_COUNTS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}
# Counts, in millions; what is in bytes is as make_objectives has it of float32.
_SHOWN = {"macs": ("number of MACs", 1e-6, "M"), "params": ("number of parameters", 1e-6, "M")}
_NUMBER = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*([A-Za-z]*)\s*")


def parse_limit(name: str, text: str) -> float:
    """Read a limit such as "5MB" (size and memory, in MB of 10^6 bytes) or "300M" (MACs and parameters).

    Raises
    ------
    UsageError
        If it is no number above 0, or its unit is missing or unknown.
    """
    units, example = (_BYTES, "5MB") if name in ("size", "memory") else (_COUNTS, "300M")
    match = _NUMBER.fullmatch(text)
    if match is None or match[2] not in units or not float(match[1]) > 0:
        raise UsageError(f"--max-{name} {shown(text, 40)} is not a limit above 0; type for example {example}")
    return float(match[1]) * units[match[2]]


def hard_limits(
    space: Space, limits: Mapping[str, float], n_classes: int, dtype: DType = "float32", batch: int = 1
) -> tuple[Constraint, ...]:
    """Constraints of any search.

    Parameters
    ----------
    limits : mapping
        Of `LIMITED`: MB for size and memory, else counts.
    n_classes : of the classifier
    dtype : of weights and feature maps, for size and memory
    batch : images whose feature maps are in memory at once
    """
    if not limits:
        return ()
    share = ELEMENT_BYTES[dtype] / ELEMENT_BYTES["float32"]
    return tuple(
        _constraint(objective, limits[objective.name], share * (batch if objective.name == "memory" else 1))
        for objective in make_objectives(LIMITED, space, n_classes=n_classes)
        if objective.name in limits
    )


def _constraint(objective: Objective, limit: float, share: float) -> Constraint:
    name, scale, unit = _SHOWN.get(objective.name, (objective.name, share, objective.unit))
    return Constraint(
        name, lambda genes: scale * objective.values(genes), limit * scale if unit == "M" else limit, unit
    )

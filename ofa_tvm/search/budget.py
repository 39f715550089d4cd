"""What a person types as a budget: a number with its unit."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ofa_tvm.errors import UsageError, shorten, shown

_S_PER = {"s": 1.0, "min": 60.0, "h": 3600.0}
_MS_PER = {"ms": 1.0, "us": 1e-3, "µs": 1e-3, "s": 1e3}
_RATE = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*(?:images?)?\s*/\s*([a-z]+)\s*")
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([^\d\s]*)\s*")


@dataclass(frozen=True)
class Budget:
    """An upper limit on latency.

    Attributes
    ----------
    value : float
        In `unit`; above 0.
    unit : str
        "ms", or "Minstr" (millions of guest instructions) on an emulated device.
    """

    value: float
    unit: str = "ms"

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit}"


def budget_above(value: float, unit: str) -> str:
    """The next round budget at or above a cost, as it is typed: 82us for 0.0814 ms."""
    number, typed = (value * 1e3, "us") if unit == "ms" and value < 1 else (value, unit)
    step = 10.0 ** (math.floor(math.log10(number)) - 2)
    rounded = math.ceil(number / step - 1e-9) * step
    return f"{rounded:.{max(0, -math.floor(math.log10(step)))}f}{typed}"


def parse_throughput(text: str, batch: int) -> Budget:
    """Read how many images are to be classified, such as "5000/s": the time that a batch may take for it.

    Raises
    ------
    UsageError
        If it is no number above 0 with a unit of time.
    """
    match = _RATE.fullmatch(text)
    rate = float(match[1]) / _S_PER[match[2]] if match is not None and match[2] in _S_PER else 0.0
    if not 0 < rate < float("inf"):
        raise UsageError(
            f"the throughput {shown(text)} is not a number of images above 0 a second; type for example "
            "5000/s"
        )
    return Budget(1e3 * batch / rate)


def parse_budget(text: str) -> Budget:
    """Read a budget such as "25ms", "800us", "0.1 s" or "120Minstr"; times become milliseconds.

    Raises
    ------
    UsageError
        If it is no number, has no unit or an unknown one, or is not above 0.
    """
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise UsageError(f"the budget {shown(text)} is not a number with a unit; type for example 25ms")
    number, unit = float(match[1]), match[2]
    if not 0 < number < float("inf"):
        raise UsageError(f"the budget {shown(text)} must be above 0; type for example 25ms")
    if not unit:
        raise UsageError(
            f"the budget {shown(text)} lacks its unit; type {shorten(text.strip(), 30)}ms for milliseconds "
            "(also us, s, or Minstr on an emulated device)"
        )
    if unit.lower() == "minstr":
        return Budget(number, "Minstr")
    if unit.lower() not in _MS_PER:
        raise UsageError(
            f"the budget {shown(text)} has the unknown unit {shown(unit)}; use ms, us, s or Minstr"
        )
    return Budget(number * _MS_PER[unit.lower()], "ms")

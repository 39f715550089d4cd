"""A histogram as lines of text."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ofa_tvm.measurement.calls import body

_BINS = 12
_LEAST_BAR = 10
_EIGHTHS = " ▏▎▍▌▋▊▉"


def histogram(values: npt.NDArray[Any], unit: str, width: int, *, blocks: bool = True) -> list[str]:
    """Lines of a histogram, with bars as long as there is room.

    Bins are as narrow as most values ask for; what lies far from those (an interrupted call) is counted in a
    line of its own at that end, or it would flatten all else.

    Parameters
    ----------
    values
        At least one.
    unit
        Of the values.
    width
        Columns that no line is longer than, from about 40 on.
    blocks
        Draw with block characters; else with `#`.
    """
    least, most = float(values.min()), float(values.max())
    low, high = body(values)
    counts, edges = np.histogram(values, bins=_BINS, range=(low, high))

    def row(a: float, b: float, n: int) -> tuple[str, int]:
        return f"{_significant(a, high - low)} - {_significant(b, high - low)} {unit}", n

    rows = [row(a, b, int(n)) for a, b, n in zip(edges, edges[1:], counts, strict=False)]
    if below := int((values < low).sum()):
        rows.insert(0, row(least, low, below))
    if above := int((values > high).sum()):
        rows.append(row(high, most, above))
    names, numbers = max(len(name) for name, _ in rows), len(str(max(count for _, count in rows)))
    room = max(width - names - numbers - 4, _LEAST_BAR)
    longest = max(count for _, count in rows)
    return [
        f"{name:>{names}}  {count:>{numbers}}  {_bar(room * count / longest, blocks)}".rstrip()
        for name, count in rows
    ]


def _bar(length: float, blocks: bool) -> str:
    if not blocks:
        return "#" * round(length)
    eighths = round(8 * length)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _significant(value: float, spread: float) -> str:
    """A value to as many places as tell neighbouring bins apart."""
    places = max(0, min(7, 1 - int(np.floor(np.log10(spread / _BINS)))))
    return f"{value:.{places}f}"

"""A histogram as lines of text."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_BINS = 12
_LEAST_BAR = 10
_EIGHTHS = " ▏▎▍▌▋▊▉"


def histogram(values: npt.NDArray[Any], unit: str, width: int, *, blocks: bool = True) -> list[str]:
    """Lines of a histogram, with bars as long as there is room.

    The last bin holds all values above the 99th percentile: one interrupted call would flatten all else.

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
    low, high, most = float(values.min()), float(np.percentile(values, 99)), float(values.max())
    high = max(high, low * 1.0001)
    counts, edges = np.histogram(values, bins=_BINS, range=(low, high))
    marks = [_significant(edge, high - low) for edge in edges]
    rows = [(f"{a} - {b} {unit}", int(n)) for a, b, n in zip(marks, marks[1:], counts, strict=False)]
    if beyond := int((values > high).sum()):
        rows.append((f"{marks[-1]} - {_significant(most, high - low)} {unit}", beyond))
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

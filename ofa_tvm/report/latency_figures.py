"""Pictures of how well latencies are predicted: each function takes arrays and a style, returns a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ofa_tvm.report.style import Style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def predicted_against_measured(
    measured: np.ndarray, predicted: np.ndarray, style: Style, *, unit: str = "ms"
) -> Figure:
    """One point a subnet, (n,) each, with the diagonal and the 5 % on either side of it."""
    p = style.palette
    figure = style.figure(0.95 * min(style.width, 4.2))
    ax = figure.subplots()
    low, high = float(min(measured.min(), predicted.min())), float(max(measured.max(), predicted.max()))
    ends = np.array([low - 0.03 * (high - low), high + 0.03 * (high - low)])
    ax.fill_between(ends, 0.95 * ends, 1.05 * ends, color=p.pale, alpha=0.35, lw=0)
    ax.plot(ends, ends, color=p.soft, lw=0.9)
    ax.plot(measured, predicted, "o", ms=2.6, mec="none", alpha=0.5, color=p.blue)
    ax.set_xlim(*ends)
    ax.set_ylim(*ends)
    ax.set_aspect("equal", adjustable="box")
    ax.set_xlabel(f"measured, {unit}")
    ax.set_ylabel(f"predicted, {unit} (band: 5 %)")
    return figure


def error_by_group(
    measured: np.ndarray, predicted: np.ndarray, groups: Mapping[str, np.ndarray], style: Style
) -> Figure:
    """Relative errors by e.g. resolution and depth, a panel each: quartiles and the 5 to 95 % range.

    Parameters
    ----------
    groups : heading of a panel -> value of each subnet, (n,)
    """
    p = style.palette
    stacked = style.narrow and len(groups) > 1
    figure = style.figure(5.2 if stacked else 3.0)
    shape = (len(groups), 1) if stacked else (1, len(groups))
    axes = figure.subplots(*shape, squeeze=False).ravel()
    relative = 100 * (predicted / measured - 1)
    for ax, (heading, values) in zip(axes, groups.items(), strict=True):
        levels = np.unique(values)
        for x, level in enumerate(levels):
            low, first, middle, third, high = np.percentile(relative[values == level], (5, 25, 50, 75, 95))
            ax.plot([x, x], [low, high], color=p.soft, lw=1.0)
            ax.plot([x, x], [first, third], color=p.blue, lw=5, solid_capstyle="butt")
            ax.plot([x], [middle], "o", ms=3.5, color=p.paper, mec=p.blue)
        ax.axhline(0, color=p.soft, lw=0.8)
        every = max(1, len(levels) // 8)
        ax.set_xticks(range(0, len(levels), every), [f"{level:g}" for level in levels[::every]])
        ax.set_xlabel(heading)
        ax.set_ylabel("error of the prediction, %")
    return figure


def learning_curve(
    samples: Sequence[int], curves: Mapping[str, Sequence[float]], style: Style, *, what: str
) -> Figure:
    """An error over the number of measured subnets, both axes logarithmic, a line a model.

    Parameters
    ----------
    samples : numbers of subnets
    curves : model -> its error for each of them; NaN where it was not fitted
    what : label of the error
    """
    p = style.palette
    figure = style.figure(3.2)
    ax = figure.subplots()
    marks = ((p.blue, "o"), (p.orange, "s"), (p.green, "D"), (p.soft, "^"))
    for (name, values), (color, mark) in zip(curves.items(), marks, strict=False):
        ax.plot(samples, values, mark + "-", ms=4.5, lw=1.6, color=color, label=name)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xticks(list(samples), [f"{n:,}" for n in samples])
    ax.minorticks_off()
    low, high = ax.get_ylim()
    steps = [m * 10.0**k for k in range(-6, 7) for m in (1, 2, 3, 5, 7)]
    ticks = [t for t in steps if low <= t <= high]
    ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
    ax.set_xlabel("measured subnets")
    ax.set_ylabel(what)
    ax.legend(fontsize=8)
    return figure

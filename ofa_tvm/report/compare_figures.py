"""Pictures of comparisons: runtimes beside each other, and answers by class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ofa_tvm.confusion import Confusion
from ofa_tvm.report.style import Style
from ofa_tvm.report.units import cost_scale
from ofa_tvm.workflow.compared import Comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

_NUMBERS_UP_TO = 16  # classes, beyond which cells are too small for them


def runtimes(comparison: Comparison, style: Style) -> Figure:
    """Cost of each subnet by each runtime, a row a subnet, on a logarithmic axis."""
    p = style.palette
    rows = comparison.rows[::-1]
    figure = style.figure(1.1 + 0.42 * len(rows))
    ax = figure.subplots()
    scale, unit = cost_scale(float(np.median([row.measured for row in rows])), comparison.unit)
    series: tuple[tuple[str, list[float | None], str, str], ...] = (
        ("ofa-tvm", [row.measured for row in rows], p.blue, "o"),
        ("ONNX Runtime", [row.onnxruntime for row in rows], p.orange, "s"),
        ("PyTorch", [row.pytorch for row in rows], p.green, "D"),
    )
    for y, row in enumerate(rows):
        ends = [c for c in (row.measured, row.onnxruntime, row.pytorch) if c is not None]
        ax.plot([scale * min(ends), scale * max(ends)], [y, y], color=p.line, lw=2.4, zorder=1)
    for name, costs, color, mark in series:
        known = [(scale * cost, y) for y, cost in enumerate(costs) if cost is not None]
        if known:
            ax.plot(*zip(*known, strict=True), mark, ms=6.5, mec=p.paper, mew=0.8, color=color, label=name)
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    steps = (1,) if style.narrow and high / low > 100 else (1, 2, 5)  # labels need room
    ticks = [m * 10.0**k for k in range(-6, 7) for m in steps if low <= m * 10.0**k <= high]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    ax.set_yticks(range(len(rows)), [row.name for row in rows])
    for label in ax.get_yticklabels():
        label.set_color(p.ink)
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(f"{'instructions' if comparison.unit == 'Minstr' else 'latency'}, {unit} (logarithmic)")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, fontsize=8, borderaxespad=0.2,
              handletextpad=0.2, columnspacing=1.2)  # fmt: skip
    return figure


def confusion_matrix(counted: Confusion, style: Style) -> Figure:
    """Images by true class (row) and answer (column): the darker, the larger the share of the row."""
    p = style.palette
    shown = counted.present()
    counts = counted.counts[np.ix_(shown, shown)]
    labels = [_short(counted.labels[i]) for i in shown]
    n = len(shown)
    side = min(style.width, 3.3 if style.narrow else max(2.6, min(5.6, 0.31 * n + 0.9)))
    figure = style.figure(side)
    ax = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for y in range(n):
        for x in range(n):
            if not counts[y, x]:
                continue
            color = p.blue if x == y else p.orange
            alpha = 0.25 + 0.75 * float(shares[y, x])
            ax.add_patch(_cell(x, y, color, alpha))
            if n <= _NUMBERS_UP_TO:
                ax.text(x, y, str(counts[y, x]), ha="center", va="center", fontsize=7 if style.narrow else 8,
                        color=p.paper if alpha > 0.6 else p.ink)  # fmt: skip
    turn = 90 if max(map(len, labels)) > 2 else 0
    ax.set_xticks(range(n), labels, rotation=turn)
    ax.set_yticks(range(n), labels)
    ax.tick_params(length=0, labelsize=8 if n <= _NUMBERS_UP_TO else 6.5)
    ax.set_xlim(-0.5, n - 0.5)
    ax.set_ylim(n - 0.5, -0.5)
    ax.set_aspect("equal")
    ax.grid(visible=False)
    ax.set_xlabel("answer")
    ax.set_ylabel("true class")
    return figure


def _cell(x: int, y: int, color: str, alpha: float) -> Rectangle:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, color=color, alpha=alpha, lw=0)


def _short(label: str) -> str:
    return label if len(label) <= 14 else label[:13] + "…"

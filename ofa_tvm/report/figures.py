"""The report's pictures: each function takes its data and a style, and returns a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ofa_tvm.estimators.contract import LeftOut
from ofa_tvm.logs import Signature
from ofa_tvm.report.choice import Flat
from ofa_tvm.report.content import Deployed, Measured, Training
from ofa_tvm.report.style import Style
from ofa_tvm.report.units import cost_scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_KERNELS_SHOWN = 9


def trade_off(
    measured: Measured, deployed: Deployed | None, style: Style, flat: Flat | None = None
) -> Figure:
    """Accuracy against cost: random subnets, the search's candidates, the front, the budget, what shipped.

    Where the front is flat, it is shaded.
    """
    p = style.palette
    figure = style.figure(3.9 if style.narrow else 4.1)
    ax = figure.subplots()
    scale, unit = cost_scale(float(np.median(measured.cost)), measured.unit)
    if measured.accuracy is not None:
        ax.plot(measured.cost * scale, 100 * measured.accuracy, "o", ms=4, mec="none", color=p.pale,
                label="random subnets, measured")  # fmt: skip
    if len(measured.front):
        reach = measured.front[:, 0] <= 1.05 * max(measured.cost.max(), 1e-12)
        ax.plot(scale * measured.front[reach, 0], 100 * measured.front[reach, 1], "-", lw=1.8, color=p.blue,
                label="best possible, predicted")  # fmt: skip
    budget = None
    if deployed is not None:
        others = [c for c in deployed.candidates if c.arch != deployed.arch and c.round > 0]
        if others:
            ax.plot([scale * c.measured for c in others], [100 * c.accuracy for c in others], "D", ms=4.5,
                    mfc="none", mew=1.2, color=p.green, label="candidates, measured")  # fmt: skip
        budget, shipped = deployed.latency.budget, deployed.latency.measured
        if budget is not None:
            ax.axvline(scale * budget, color=p.orange, lw=1.2, ls=(0, (4, 3)))
        validated = deployed.validation_accuracy
        y = deployed.accuracy.measured if validated is None else validated
        if shipped is not None and y is not None:
            ax.plot([scale * shipped], [100 * y], "o", ms=10, color=p.orange, mec=p.paper, mew=1.5,
                    zorder=5, label="shipped, measured")  # fmt: skip
    if flat is not None:
        right = ax.get_xlim()[1]
        ax.axvspan(scale * flat.cost, right, color=p.line, alpha=0.45, lw=0, zorder=0,
                   label=f"best within {100 * flat.tolerance:.2g} points of its highest")  # fmt: skip
        ax.set_xlim(right=right)
    ax.set_xlabel(
        f"{'instructions' if measured.unit == 'Minstr' else 'latency'} on {measured.target}, {unit}"
    )
    ax.set_ylabel("accuracy, %")
    if budget is not None:
        _label_above(ax, scale * budget, f"budget {scale * budget:.3g} {unit}", p.orange)
    _legend_above(ax, 1 if style.narrow else 2, room=0.2 if budget is None else 2.2)
    return figure


def architecture(deployed: Deployed, style: Style) -> Figure:
    """The subnet block by block: height is the expand ratio, the number the kernel size; gaps are skipped."""
    arch, space = deployed.arch, deployed.space
    if arch is None or space is None:
        raise ValueError("an artefact without an architecture cannot be drawn")
    p = style.palette
    figure = style.figure(2.7 if style.narrow else 2.9)
    ax = figure.subplots()
    genes = space.encode([arch])
    active = space.active_blocks(genes)[0]
    shades = {3: 0.35, 5: 0.65, 7: 1.0}
    sides = {la.stage: la.h_out for la in space.layers(arch) if la.stage >= 0}
    top = float(max(space.expands))
    x, position, ticks = 0.0, 0, []
    for stage, spec in enumerate(space.stages):
        start = x
        for _ in range(spec.blocks):
            e = float(arch.e[position])
            if active[position]:
                kernel = int(arch.ks[position]) if arch.ks else 3
                ax.bar(x, e, 0.82, color=p.blue, alpha=shades.get(kernel, 1.0), lw=0)
                ax.text(x, e + 0.03 * top, str(kernel), ha="center", va="bottom", fontsize=7.5, color=p.ink)
            else:
                ax.bar(x, 0.06 * top, 0.82, color="none", edgecolor=p.pale, lw=0.9, ls=(0, (2, 2)))
            x, position = x + 1.0, position + 1
        ticks.append(((start + x - 1) / 2, f"stage {stage + 1}\n{sides.get(stage, 0)}²"))
        x += 0.6
    ax.set_xticks(
        [t for t, _ in ticks], [label.replace("stage ", "") if style.narrow else label for _, label in ticks]
    )
    ax.set_yticks(sorted({float(v) for v in space.expands}))
    ax.set_ylim(0, 1.14 * top)
    ax.tick_params(axis="x", length=0)
    ax.grid(axis="x", visible=False)
    ax.set_ylabel("expand ratio")
    ax.set_xlabel("stage, and its feature map's side; numbers on bars: kernel size")
    if style.narrow:
        ax.set_xlabel("stage and side of its maps; on bars: kernel")
    return figure


def kernel_time(deployed: Deployed, style: Style) -> Figure:
    """Share of the kernel time of the most expensive kernels, as timed in the network or by the log."""
    p = style.palette
    shares = kernel_shares(deployed)
    shown = shares[:_KERNELS_SHOWN]
    rest = shares[_KERNELS_SHOWN:]
    rows = [(short_kernel(signature, 22 if style.narrow else 46), share) for signature, share in shown]
    if rest:
        rows.append((f"{len(rest)} more", sum(share for _, share in rest)))
    rows.reverse()
    figure = style.figure(0.55 + 0.29 * len(rows))
    ax = figure.subplots()
    colours = [p.pale if label.endswith(" more") else p.blue for label, _ in rows]
    ax.barh(range(len(rows)), [100 * share for _, share in rows], 0.72, color=colours, lw=0)
    ax.set_yticks(range(len(rows)), [label for label, _ in rows])
    ax.tick_params(axis="y", length=0, labelsize=7.5)
    for label in ax.get_yticklabels():
        label.set_color(p.ink)
    widest = 100 * max(share for _, share in rows)
    for y, (_, share) in enumerate(rows):
        ax.text(
            100 * share + 0.01 * widest, y, f"{100 * share:.0f} %", va="center", color=p.soft, fontsize=7.5
        )
    ax.set_xlim(0, 1.14 * widest)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("% of kernel time")
    return figure


def training_curves(training: Training, style: Style) -> Figure:
    """Loss of every epoch, and the range of validation accuracies after each phase."""
    p = style.palette
    figure = style.figure(4.4 if style.narrow else 3.6)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[1.2, 1])
    for i, (name, first, last) in enumerate(training.phases):
        for ax in (top, bottom):
            if i % 2:
                ax.axvspan(first, last, color=p.line, alpha=0.45, lw=0)
        top.annotate(name, ((first + last) / 2, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3),
                     textcoords="offset points", ha="left" if style.narrow else "center",
                     rotation=45 if style.narrow else 0, color=p.soft, fontsize=7.5)  # fmt: skip
    # Each phase has a loss of its own, so their curves are not joined.
    for _, first, last in training.phases:
        inside = (training.step > first) & (training.step <= last)
        top.plot(training.step[inside], training.loss[inside], "-o", ms=2.2, lw=1.4, color=p.blue)
    top.set_ylabel("training loss")
    if training.accuracies:
        steps, low, high = (np.array(values) for values in zip(*training.accuracies, strict=True))
        bottom.vlines(steps, 100 * low, 100 * high, color=p.green, lw=2.4)
        bottom.plot(steps, 100 * high, "o", ms=4, color=p.green, label="best subnet")
        bottom.plot(steps, 100 * low, "o", ms=4, mfc=p.paper, color=p.green, label="worst subnet")
        bottom.legend(ncols=2, loc="lower left", fontsize=7.5, handletextpad=0.2)
        margin = max(2.0, 0.35 * 100 * float(high.max() - low.min()))
        bottom.set_ylim(100 * float(low.min()) - margin, min(101.0, 100 * float(high.max()) + 1))
    bottom.set_ylabel("validation\naccuracy, %")
    first, last = training.phases[0][1], training.phases[-1][2]
    bottom.set_xlim(first, last + 0.02 * (last - first))
    bottom.set_xlabel("training step, all phases")
    return figure


def predictor_quality(measured: Measured | None, accuracies: LeftOut | None, style: Style) -> Figure:
    """Each measured subnet against its prediction from the others: latency and accuracy."""
    p = style.palette
    panels: list[tuple[float, str, np.ndarray, np.ndarray]] = []
    if measured is not None:
        scale, unit = cost_scale(float(np.median(measured.cost)), measured.unit)
        what = f"{'instructions' if measured.unit == 'Minstr' else 'latency'}, {unit}"
        x, y = measured.cost, measured.loo
        if len(x) != len(y):  # the table was extended after the model was fitted
            x, y = np.empty(0), np.empty(0)
        panels.append((scale, what, x, y))
    if accuracies is not None:
        panels.append((100.0, "accuracy, %", accuracies.measured, accuracies.predicted))
    stacked = style.narrow and len(panels) == 2
    figure = style.figure(6.4 if stacked else 3.3)
    axes = figure.subplots(len(panels) if stacked else 1, 1 if stacked else len(panels), squeeze=False)
    for ax, (scale, what, x, y) in zip(axes.ravel(), panels, strict=True):
        _diagonal(ax, scale * x, scale * y, what, style)
        ax.plot(scale * x, scale * y, "o", ms=3.6, mec="none", alpha=0.75, color=p.blue)
    return figure


def targets(artefacts: list[Deployed], style: Style) -> Figure:
    """Measured cost of every artefact that is timed, one bar each, with its budget."""
    p = style.palette
    rows = [a for a in artefacts if a.latency.measured is not None and a.latency.unit == "ms"][::-1]
    figure = style.figure(0.7 + 0.36 * len(rows))
    ax = figure.subplots()
    scale, unit = cost_scale(float(np.median([a.latency.measured or 0 for a in rows])), "ms")
    ax.barh(range(len(rows)), [scale * (a.latency.measured or 0) for a in rows], 0.6, color=p.blue, lw=0)
    for y, a in enumerate(rows):
        if a.latency.budget is not None:
            ax.plot([scale * a.latency.budget] * 2, [y - 0.42, y + 0.42], color=p.orange, lw=1.8)
    ax.set_yticks(
        range(len(rows)),
        [f"{a.name}\n{a.target}" if style.narrow else f"{a.name} · {a.target}" for a in rows],
    )
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(f"measured latency, {unit} (orange: budget)")
    return figure


def kernel_shares(deployed: Deployed) -> list[tuple[Signature, float]]:
    """Kernels with a known time and their share of its sum, the largest first."""
    known = [(signature, time) for signature, time, _ in deployed.kernels if time]
    total = sum(time for _, time in known)
    return sorted(((signature, time / total) for signature, time in known), key=lambda row: -row[1])


def short_kernel(signature: Signature, length: int) -> str:
    """A kernel's operator and shapes, within a length: fused element-wise operators become "+"."""
    first, *fused = signature.operators
    source, result = ("x".join(map(str, signature.shapes[i])) for i in (0, -1))
    text = f"{first}{'+' if fused else ''} {source}→{result}"
    return text if len(text) <= length else text[: length - 1] + "…"


def _diagonal(ax: Axes, x: np.ndarray, y: np.ndarray, what: str, style: Style) -> None:
    if len(x):
        low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
        pad = 0.05 * ((high - low) or 1.0)
        ax.plot([low - pad, high + pad], [low - pad, high + pad], color=style.palette.soft, lw=0.9)
        ax.set_xlim(low - pad, high + pad)
        ax.set_ylim(low - pad, high + pad)
    ax.set_aspect("equal", adjustable="box")
    ax.set_xlabel(f"measured {what}")
    ax.set_ylabel("predicted from the others")


def _label_above(ax: Axes, x: float, text: str, color: str) -> None:
    """Beside the top end of a vertical line, outside the axes, where there are no dots."""
    low, high = ax.get_xlim()
    share = (x - low) / (high - low)
    side = "left" if share < 0.2 else "right" if share > 0.8 else "center"
    ax.annotate(text, (x, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3), ha=side, va="bottom",
                textcoords="offset points", color=color)  # fmt: skip


def _legend_above(ax: Axes, columns: int, room: float) -> None:
    """`room` below it, in heights of its letters."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, fontsize=8, borderaxespad=room,
                  handletextpad=0.4, columnspacing=1.4)  # fmt: skip

"""What a report says, one finding a section: its sentence, its picture, and its data as a table."""

from __future__ import annotations

import numpy as np

from ofa_tvm.latency.learning_curve import GUIDED, LearningCurve
from ofa_tvm.report import figures
from ofa_tvm.report.answer_sections import answered
from ofa_tvm.report.compare_sections import compared, side_by_side
from ofa_tvm.report.content import Content, Deployed, Measured, Training
from ofa_tvm.report.latency_figures import error_by_group, learning_curve
from ofa_tvm.report.search_sections import choice, trade_off
from ofa_tvm.report.section import Section
from ofa_tvm.report.units import cost_noun, millions
from ofa_tvm.report.use_sections import how_to_run, what_is_missing

_FEWEST_BY_GROUP = 20  # subnets, before their errors are told apart


def sections(content: Content) -> list[Section]:
    """What there is to show, in order."""
    shipped = content.artefacts[0] if content.artefacts else None
    found = [trade_off(content, measured) for measured in content.targets if measured.accuracy is not None]
    if shipped is not None:
        if shipped.candidates:
            found.append(choice(content, shipped))
        found += compared(content, shipped)
    found += answered(content)
    if shipped is not None:
        found.append(how_to_run(content, shipped))
        if shipped.arch is not None and shipped.space is not None:
            found.append(_architecture(shipped))
        if 2 * len(figures.kernel_shares(shipped)) > len(shipped.kernels):  # else too little is known
            found.append(_kernels(shipped))
    if len(content.artefacts) > 1:
        found.append(side_by_side(content))
    if content.targets or content.accuracies:
        found.append(_quality(content))
    for measured in content.targets:
        if _comparable(measured):
            found.append(_errors_by_group(measured))
        if measured.learning is not None:
            found.append(_learning(measured, measured.learning))
    if content.training is not None:
        found.append(_training(content))
    if content.missing:
        found.append(what_is_missing(content.missing))
    return found


def _architecture(shipped: Deployed) -> Section:
    arch, space = shipped.arch, shipped.space
    if arch is None or space is None:
        raise ValueError("an artefact without an architecture cannot be drawn")
    active = space.active_blocks(space.encode([arch]))[0]
    macs, params = space.macs(arch, shipped.n_classes), space.params(arch, shipped.n_classes)
    rows, position = [], 0
    for stage, spec in enumerate(space.stages):
        on = [i for i in range(position, position + spec.blocks) if active[i]]
        kernels = ", ".join(str(arch.ks[i]) for i in on) if arch.ks else "3"
        rows.append((str(stage + 1), str(len(on)), kernels, ", ".join(f"{arch.e[i]:g}" for i in on)))
        position += spec.blocks
    return Section(
        "architecture",
        f"{int(active.sum())} of {len(active)} blocks run, at {arch.r} x {arch.r} pixels: {millions(macs)} "
        f"multiply-adds and {millions(params)} parameters",
        "The subnet, block by block: a bar's height is its expand ratio, the number on it and its shade the "
        "kernel size. Dashed places are blocks that this subnet leaves out.",
        lambda style: figures.architecture(shipped, style),
        ("stage", "blocks", "kernel sizes", "expand ratios"),
        tuple(rows),
    )


def _kernels(shipped: Deployed) -> Section:
    shares = figures.kernel_shares(shipped)
    n = next((i + 1 for i in range(len(shares)) if sum(s for _, s in shares[: i + 1]) >= 0.5), len(shares))
    unknown = sum(time is None for _, time, _ in shipped.kernels)
    return Section(
        "kernels",
        f"{n} of {len(shipped.kernels)} kernels take half of the time"
        if n > 1
        else f"One of {len(shipped.kernels)} kernels takes half of the time",
        (
            "Share of the network's kernel time, each kernel timed inside the network."
            if shipped.inside
            else "Share of the network's kernel time, by the tuning log's measurements of each kernel alone."
        )
        + (f" {unknown} kernels without a record are not counted." if unknown else ""),
        lambda style: figures.kernel_time(shipped, style),
        ("kernel", "% of kernel time"),
        tuple((str(signature), f"{100 * share:.1f}") for signature, share in shares[:25]),
    )


def _quality(content: Content) -> Section:
    measured = content.targets[0] if content.targets else None
    parts, rows = [], []
    for target in content.targets:
        mape, rank = target.errors.get("mape"), target.errors.get("spearman")
        if mape is not None and rank is not None:
            rows.append(
                (
                    f"{cost_noun(target.unit)} on {target.target}",
                    str(int(target.errors["n"])),
                    f"{100 * mape:.2f} %",
                    f"{rank:.3f}",
                )
            )
            if target is measured:
                are = "are" if measured.unit == "Minstr" else "is"
                parts.append(f"{cost_noun(measured.unit)} {are} predicted within {100 * mape:.1f} %")
    if content.accuracies is not None:
        e = content.accuracies.errors
        rows.append(
            ("accuracy", str(int(e["n"])), f"{100 * e['rmse']:.2f} points (RMSE)", f"{e['spearman']:.3f}")
        )
        parts.append(f"accuracy within {100 * e['rmse']:.2f} points")
    title = " and ".join(parts)
    return Section(
        "predictors",
        title[:1].upper() + title[1:] if title else "What the predictors know",
        "Each dot is a measured subnet, predicted by a model that was fitted to all others but not to it.",
        lambda style: figures.predictor_quality(measured, content.accuracies, style),
        ("predictor", "subnets", "error", "rank correlation"),
        tuple(rows),
    )


def _comparable(measured: Measured) -> bool:
    """Whether each measured subnet has a prediction by the others, and there are several kinds of them."""
    several = any(len(np.unique(values)) > 1 for values in measured.groups.values())
    return len(measured.loo) == len(measured.cost) >= _FEWEST_BY_GROUP and several


def _errors_by_group(measured: Measured) -> Section:
    relative = 100 * (measured.loo / measured.cost - 1)
    rows = tuple(
        (heading, f"{level:g}", str(int(on.sum())), f"{np.median(relative[on]):+.1f}")
        for heading, values in measured.groups.items()
        for level in np.unique(values)
        if (on := values == level).any()
    )
    worst = float(np.quantile(np.abs(relative), 0.95))
    return Section(
        f"errors-{measured.target}",
        f"19 of 20 {'counts' if measured.unit == 'Minstr' else 'latencies'} on {measured.target} are "
        f"predicted within {worst:.1f} %",
        "Error of each measured subnet's prediction by a model of all others: the dot is the median, the "
        "thick line the middle half, the thin one nine of ten.",
        lambda style: error_by_group(measured.cost, measured.loo, measured.groups, style),
        ("by", "value", "subnets", "median error, %"),
        rows,
    )


def _learning(measured: Measured, curve: LearningCurve) -> Section:
    best = next(iter(curve.errors.values()))
    guided = GUIDED in curve.errors
    return Section(
        f"learning-{measured.target}",
        f"{curve.samples[0]} measured subnets predict others on {measured.target} within "
        f"{100 * best[0]:.1f} % on average, {curve.samples[-1]} within {100 * best[-1]:.1f} %",
        f"Mean error on {curve.held_out} measured subnets that were held out, over the number that the model "
        "was fitted to; means over random choices of them."
        + (
            " A first guess is the sum of the tuning log's kernel times, or another target's model; it stays "
            "the one that the model in use has, overheads fitted to all subnets included."
            if guided
            else ""
        ),
        lambda style: learning_curve(
            curve.samples,
            {name: [100 * e for e in errors] for name, errors in curve.errors.items()},
            style,
            what="mean error, %",
        ),
        ("measured subnets", *(f"mean error {name}, %" for name in curve.errors)),
        tuple(
            (str(n), *(f"{100 * errors[i]:.2f}" for errors in curve.errors.values()))
            for i, n in enumerate(curve.samples)
        ),
    )


def _training(content: Content) -> Section:
    training = content.training
    if training is None:
        raise ValueError("there is no training to show")
    n = len(training.phases)
    title = f"{n} phase{'s' if n > 1 else ''} of training"
    if training.accuracies:
        _, low, high = training.accuracies[-1]
        title += f"; at the end all validated subnets reach {100 * low:.1f} to {100 * high:.1f} %"
    return Section(
        "training",
        title,
        "Loss of each epoch, phase by phase (each phase has a loss of its own), and the accuracy of the best "
        "and the worst validated subnet when a phase ends.",
        lambda style: figures.training_curves(training, style),
        ("phase", "steps", "last loss"),
        tuple(
            (name, f"{last - first:.0f}", _last_loss(training, first, last))
            for name, first, last in training.phases
        ),
    )


def _last_loss(training: Training, first: float, last: float) -> str:
    inside = training.loss[(training.step > first) & (training.step <= last)]
    return f"{inside[-1]:.4g}" if len(inside) else "-"

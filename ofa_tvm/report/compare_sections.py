"""What was shipped beside other subnets, other runtimes and other artefacts."""

from __future__ import annotations

from ofa_tvm.report import figures
from ofa_tvm.report.compare_figures import runtimes
from ofa_tvm.report.content import Content, Deployed, Measured
from ofa_tvm.report.section import Section
from ofa_tvm.report.units import cost_scale, figure, millions, times
from ofa_tvm.workflow.compared import Comparison, Row

_PACKAGES = {"onnxruntime": "ONNX Runtime", "torch": "PyTorch", "apache-tvm": "TVM", "ofa-tvm": "ofa-tvm"}


def compared(content: Content, shipped: Deployed) -> list[Section]:
    """The comparison that was measured, else what predictors say of the ends of the space; none without."""
    if content.comparison is not None:
        return [_measured(content.comparison, shipped)]
    measured = next((t for t in content.targets if t.target == shipped.series and t.ends), None)
    return [] if measured is None else [_predicted(shipped, measured)]


def _measured(comparison: Comparison, shipped: Deployed) -> Section:
    row = comparison.row_of(shipped.arch, shipped.manifest.check.dtype)
    if row is None:
        raise ValueError("a comparison is of the artefact that is shown")
    scale, unit = cost_scale(row.measured, comparison.unit)
    several = len({each.dtype for each in comparison.rows}) > 1
    others = [name for name in ("onnxruntime", "pytorch") if any(getattr(r, name) for r in comparison.rows)]
    columns = (
        "subnet",
        *(("dtype",) if several else ()),
        "multiply-adds",
        "test, %",
        "predicted",
        "measured",
        *({"onnxruntime": "ONNX Runtime", "pytorch": "PyTorch"}[name] for name in others),
    )
    rows = tuple(
        (
            each.name,
            *((each.dtype,) if several else ()),
            millions(each.macs),
            "-" if each.accuracy is None else f"{100 * each.accuracy:.2f}",
            *(
                "-" if value is None else figure(scale * value)
                for value in (each.predicted, each.measured, *(getattr(each, name) for name in others))
            ),
        )
        for each in comparison.rows
    )
    return Section(
        "comparison",
        _title(row, comparison),
        f"{_conditions(comparison)} The table is in {unit}; accuracy is that of the compiled "
        "module on the test images."
        + (" PyTorch runs the same subnets in float32, without compiling them." if row.pytorch else ""),
        (lambda style: runtimes(comparison, style)) if others else None,
        columns,
        rows,
        open=True,
    )


def _title(row: Row, comparison: Comparison) -> str:
    parts = [
        times(other, row.measured, name)
        for other, name in ((row.onnxruntime, "ONNX Runtime"), (row.pytorch, "PyTorch"))
        if other is not None
    ]
    ends = {each.name: each for each in comparison.rows}
    largest = ends.get("largest")
    if largest is not None and largest is not row:
        parts.append(times(largest.measured, row.measured, "the largest subnet"))
        if largest.accuracy is not None and row.accuracy is not None:
            less = 100 * (largest.accuracy - row.accuracy)
            parts[-1] += (
                f", which is {less:.2f} points more accurate"
                if less > 0
                else f", and {-less:.2f} points more accurate"
                if less < 0
                else ", and as accurate"
            )
    text = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)
    return text[:1].upper() + text[1:] if text else "Beside the ends of its space"


def _conditions(comparison: Comparison) -> str:
    images = "one image" if comparison.batch == 1 else f"calls of {comparison.batch} images"
    if comparison.unit == "Minstr":
        return f"Instructions of {images}, counted by an emulator: no times."
    threads = f"{comparison.threads} thread{'s' if comparison.threads > 1 else ''} for every runtime"
    text = f"Medians of shared rounds, {images}, {threads}"
    text += f", on {comparison.machine}" if comparison.machine else ""
    text += f", {comparison.date[:10]}" if comparison.date else ""
    versions = [
        f"{name} {comparison.versions[key]}" for key, name in _PACKAGES.items() if key in comparison.versions
    ]
    text += f"; {', '.join(versions)}." if versions else "."
    return text + (" The machine was busy: compare with care." if comparison.noisy else "")


def _predicted(shipped: Deployed, measured: Measured) -> Section:
    latency, accuracy = shipped.latency, shipped.accuracy
    scale, unit = cost_scale(latency.measured or float(measured.cost.mean()), measured.unit)

    def row(name: str, cost: float | None, share: float | None, how: str) -> tuple[str, ...]:
        return (
            name,
            "-" if cost is None else f"{scale * cost:.4g}",
            "-" if share is None else f"{100 * share:.2f}",
            how,
        )

    ends = measured.ends
    return Section(
        "comparison",
        "Between the smallest and the largest subnet of its space",
        "The ends of the space were not measured: their figures are predictions, of validation accuracy.",
        None,
        ("subnet", unit, "accuracy, %", "known by"),
        (
            row("largest", *ends["largest"], "prediction"),
            row("smallest", *ends["smallest"], "prediction"),
            row("shipped", latency.measured, accuracy.measured, "measuring"),
        ),
        open=True,
    )


def side_by_side(content: Content) -> Section:
    """All artefacts, each with what it takes on its target."""
    timed = [a for a in content.artefacts if a.latency.measured is not None and a.latency.unit == "ms"]
    rows = tuple(map(_beside_others, content.artefacts))
    n = len({a.target for a in content.artefacts})
    title = f"{len(rows)} artefacts on {n} target{'s' if n > 1 else ''}, side by side"
    if len(timed) > 1:
        fast, slow = (choose(timed, key=lambda a: a.latency.measured or 0.0) for choose in (min, max))
        times = (slow.latency.measured or 0) / (fast.latency.measured or 1)
        title += f": {fast.name} is {times:.1f} times as fast as {slow.name}"
    return Section(
        "targets",
        title,
        "Measured on each target. A target that is emulated counts instructions and has no latency.",
        (lambda style: figures.targets(list(content.artefacts), style)) if timed else None,
        ("artefact", "target", "measured", "budget", "accuracy, %", "side", "multiply-adds"),
        rows,
        open=True,
    )


def _beside_others(shipped: Deployed) -> tuple[str, ...]:
    latency, accuracy, kind = shipped.latency, shipped.accuracy.measured, shipped.manifest.target.kind
    arch, space = shipped.arch, shipped.space
    return (
        shipped.name,
        shipped.target if shipped.target.startswith(kind) else f"{shipped.target} ({kind})",
        "-" if latency.measured is None else f"{latency.measured:.4g} {latency.unit}",
        "-" if latency.budget is None else f"{latency.budget:.4g} {latency.unit}",
        "-" if accuracy is None else f"{100 * accuracy:.2f}",
        "-" if arch is None else str(arch.r),
        "-" if arch is None or space is None else millions(space.macs(arch, shipped.n_classes)),
    )

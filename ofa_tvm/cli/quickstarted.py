"""What `ofa-tvm quickstart` answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ofa_tvm.cli.budgets import throughput
from ofa_tvm.cli.console import Console
from ofa_tvm.cli.verified import accuracy_change

if TYPE_CHECKING:
    from ofa_tvm.measurement import Measurement
    from ofa_tvm.targets import Target
    from ofa_tvm.workflow.quickstart_result import QuickstartResult


def _spread(measurement: Measurement) -> str:
    return "emulated" if measurement.mad_ms is None else f"MAD {measurement.mad_ms:.4f}"


def show(console: Console, out: Path, target: Target, result: QuickstartResult) -> None:
    """The subnets side by side, what shipped, what was left out, and what to type next."""
    unit = result.budget.unit
    others = result.rows[0].onnxruntime is not None
    several = len({row.dtype for row in result.rows}) > 1
    console.table(
        [
            "subnet",
            *(("dtype",) if several else ()),
            "M MACs",
            "test accuracy",
            f"predicted {unit}",
            f"measured {unit}",
            *(("ONNX Runtime", "PyTorch") if others else ()),
        ],
        [
            [
                row.name,
                *((row.dtype,) if several else ()),
                f"{row.macs / 1e6:.2f}",
                "-" if row.accuracy is None else f"{row.accuracy:.2%}",
                "-" if row.predicted is None else f"{row.predicted:.4f}",
                f"{row.measured:.4f}",
                *(
                    f"{other / row.measured:.2f}x its time"
                    for other in (row.onnxruntime, row.pytorch)
                    if other is not None
                ),
            ]
            for row in result.rows
        ],
        title="accuracy on the test scans through the compiled module; "
        + ("one image, " if target.batch == 1 else f"calls of {target.batch} images, ")
        + ("medians of shared rounds" if unit == "ms" else "instructions counted by the emulator, not times"),
    )
    shipped, quality = result.shipped, result.quality
    console.print(
        "",
        f"budget {result.budget}; shipped {out / 'deploy'} in {result.dtype}: measured "
        f"{shipped.measurement.cost:.4f} {unit} ({_spread(shipped.measurement)})"
        f"{throughput(shipped.measurement.cost, target)}, test accuracy "
        f"{shipped.accuracy:.2%}{accuracy_change(shipped)}, largest difference to ONNX Runtime "
        f"{shipped.difference.max_rel:.1e}",
        f"predictors on subnets left out: accuracy within {quality['accuracy_rmse_points']:.2f} points (rank "
        f"correlation {quality['accuracy_spearman']:.3f}), latency within {quality['latency_mape']:.1%} "
        f"({quality['latency_spearman']:.3f}); {quality['kernels_tuned']} of {quality['kernels']} kernels "
        "tuned",
        *untuned(result, target, out),
        *untrained(result, out),
        "seconds: "
        + ", ".join(f"{name} {seconds:.0f}" for name, seconds in result.stages.items())
        + f"; in all {sum(result.stages.values()):.0f}",
        "",
        f"try: ofa-tvm run {out / 'deploy'} {result.images[0]}",
        f"     (a file's name says which digit it is; of these {len(result.images)} the network gets "
        f"{result.images_right} right, this one {'too' if result.images_right else 'not'})",
    )


def untrained(result: QuickstartResult, out: Path) -> list[str]:
    """That the time was up before the training was done, and how to go on."""
    if not result.steps_left:
        return []
    return [
        f"the time was up with {result.steps_left} steps of training left, on which accuracy depends; to go "
        f"on with them and all that follows: ofa-tvm quickstart -o {out}"
    ]


def untuned(result: QuickstartResult, target: Target, out: Path) -> list[str]:
    """That the time limit left kernels untuned, what that means, and how to go on."""
    left = int(result.quality["kernels"] - result.quality["kernels_tuned"])
    if result.tuning_limit_s is None or not left:
        return []
    from ofa_tvm.targets import Variant

    options = Variant.of(target.with_dtype(result.dtype)).options()
    return [
        f"the time limit of {result.tuning_limit_s:.0f} s left {left} kernels untuned, which use their "
        f"template's first choice; to tune them: ofa-tvm tune {options} (in {out})"
    ]

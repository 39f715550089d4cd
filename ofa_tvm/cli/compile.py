"""ofa-tvm compile."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ofa_tvm.cli.competing import say_if_only_stored
from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.cli.options import (
    INPUT_PATH,
    OUTPUT_PATH,
    batch_option,
    dtype_option,
    shape_option,
    target_option,
    threads_option,
)
from ofa_tvm.cli.retiming import show_retiming
from ofa_tvm.errors import UsageError

if TYPE_CHECKING:
    from ofa_tvm.compiler import CompiledModule, KernelUse
    from ofa_tvm.targets import DType


@click.command(short_help="Compile an ONNX model into a shared library.")
@click.argument("model", type=INPUT_PATH)
@target_option
@threads_option
@dtype_option
@batch_option
@shape_option
@click.option("-o", "--output", type=OUTPUT_PATH, help="The .so to write; by default beside MODEL.")
@common_options
def command(
    console: Console,
    model: Path,
    target: str,
    threads: int | None,
    dtype: DType | None,
    batch: int | None,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    output: Path | None,
) -> None:
    """Compile MODEL, an ONNX file, for a target, with tuned kernels where a log has them.

    Logs of the nearest ofa-tvm.yaml's project come first, then those that ship with ofa-tvm.
    """
    from ofa_tvm.targets import Variant
    from ofa_tvm.workflow.settings import resolve

    settings = resolve(target, threads=threads, dtype=dtype, batch=batch)
    chosen = settings.target
    so = output or model.with_suffix(".so")
    if so.is_dir() or so == model:
        raise UsageError(f"{so} is no place for the compiled module; name a .so file with -o")
    console.say(f"{model}, {settings.describe_target()}, tuning logs in {settings.logs}, into {so}")
    from ofa_tvm.process import leave_torch_out

    leave_torch_out()
    say_if_only_stored(console, chosen)
    from ofa_tvm.compiler import compile as compile_onnx
    from ofa_tvm.workflow.retiming import retiming

    start = time.monotonic()
    compiled = compile_onnx(model, chosen, so, shape=dict(shapes), logs=[settings.logs])
    seconds = time.monotonic() - start
    kernels = _with_shares(compiled)
    if console.verbose:
        console.table(
            ["kernel", "products in", "calls", f"{chosen.unit} a call", "% of time", "schedule"],
            [
                [
                    use.name,
                    _arithmetic(use) or "",
                    use.calls,
                    use.cost,
                    None if share is None else 100 * share,
                    use.origin,
                ]
                for use, share in kernels
            ],
            title="time shares by the log's records; no record, no share",
        )
    origins = Counter(use.origin for use in compiled.kernels)
    console.print(
        f"{so}: {len(compiled.kernels)} kernels ("
        + ", ".join(f"{count} {name}" for name, count in origins.most_common())
        + f"), {compiled.tuned_fraction:.0%} of the kernel time tuned; {seconds:.1f} s"
    )
    formats = Counter(name for use in compiled.kernels if (name := _arithmetic(use)))
    if "int8" in formats:
        others = [f"{count} in {name}" for name, count in formats.items() if name != "int8"]
        console.print(
            f"{formats['int8']} kernels with products in int8"
            + (f", {', '.join(others)} (--verbose says which)" if others else ", none in float")
        )
    sizes = "".join(f" --shape {name}={'x'.join(map(str, size))}" for name, size in shapes)
    arguments = f"{model} {Variant.of(chosen).options(target)}{sizes}"
    if compiled.tuned_fraction < 1:
        console.say(f"to tune the rest: ofa-tvm tune {arguments}")
    again = show_retiming(console, retiming(compiled.kernels, chosen), arguments)
    console.result(
        {
            "path": str(so),
            "target": chosen.name,
            "threads": chosen.threads,
            "batch": chosen.batch,
            "tuned_fraction": compiled.tuned_fraction,
            "seconds": round(seconds, 3),
            "retiming": again,
            "kernels": [_plain(use, share, chosen.unit) for use, share in kernels],
        }
    )


def _with_shares(compiled: CompiledModule) -> list[tuple[KernelUse, float | None]]:
    """Each kernel and, if it has a record, its share of the network's kernel time; the largest first."""
    known = sum(use.cost * use.calls for use in compiled.kernels if use.cost is not None)
    shares = [
        (use, None if use.cost is None else compiled.tuned_fraction * use.cost * use.calls / known)
        for use in compiled.kernels
    ]
    return sorted(shares, key=lambda pair: -(pair[1] or 0.0))


def _arithmetic(use: KernelUse) -> str | None:
    """In what a kernel's convolution or product multiplies; None for one without."""
    if not use.signature.has_product:
        return None
    return "int8" if use.signature.in_integers else next(iter(use.signature.dtypes), None)


def _plain(use: KernelUse, share: float | None, unit: str) -> dict[str, Any]:
    """For JSON."""
    return {
        "name": use.name,
        "products_in": _arithmetic(use),
        "calls": use.calls,
        "schedule": use.origin,
        f"cost_{unit.lower()}": use.cost,
        "share": share,
    }

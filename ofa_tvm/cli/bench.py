"""ofa-tvm bench."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.cli.options import INPUT_PATH
from ofa_tvm.deploy import Artefact
from ofa_tvm.deploy.manifest import TargetEntry
from ofa_tvm.errors import UsageError
from ofa_tvm.measurement import Measurement, Measurer
from ofa_tvm.process import use_runtime_only
from ofa_tvm.runtime import load_for
from ofa_tvm.targets import Target, get_target

_BAR = 40
_BINS = 12


@click.command(short_help="Show an artefact's latency distribution.")
@click.argument("deploy", type=INPUT_PATH)
@click.option("-t", "--target", "target_name", help="By default the one that it was compiled for.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads; by default those it was compiled for.")
@click.option(
    "--repeats", type=click.IntRange(min=5), default=200, show_default=True, help="Samples to take."
)
@click.option(
    "--seconds", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="Time to spend."
)
@common_options
def command(
    console: Console,
    deploy: Path,
    target_name: str | None,
    threads: int | None,
    repeats: int,
    seconds: float,
) -> None:
    """Time DEPLOY (an artefact folder or a compiled .so) on its target and show how its latency spreads.

    On an emulated device the instructions of one call are counted instead, which is one exact number.
    """
    use_runtime_only()
    if deploy.is_dir() or deploy.suffix != ".so":
        artefact = Artefact.open(deploy)
        path, compiled_for = artefact.module_path, artefact.manifest.target
    else:
        path, compiled_for = deploy, TargetEntry.from_dict(load_for(deploy).target)
    target = target_of(compiled_for) if target_name is None else get_target(target_name)
    if threads is not None:
        target = target.with_threads(threads)
    with Measurer(target) as measurer:
        result = measurer.measure(path, repeats=repeats, seconds=seconds, seed=console.seed, cold=True)
    answer = {"artefact": str(deploy), **result.to_json()}
    if result.instructions is not None:
        console.print(
            f"{deploy}: {result.cost:.4g} {result.unit}, {result.instructions} instructions counted on an "
            f"emulated {result.target}; a count is no time"
        )
    else:
        _show(console, deploy, result)
        answer |= {"p5_ms": result.percentile_ms(5), "p95_ms": result.percentile_ms(95)}
    console.result(answer)


def target_of(compiled_for: TargetEntry) -> Target:
    """The target that a module names, with the module's threads; its own name may be a file's elsewhere."""
    try:
        target = get_target(compiled_for.name)
    except UsageError:
        target = get_target(compiled_for.kind)
    return target.with_threads(compiled_for.threads)


def _show(console: Console, deploy: Path, result: Measurement) -> None:
    samples = np.array(result.samples_ms)
    spread = f"{result.mad_ms:.4g}" if result.mad_ms is not None else "-"
    console.print(
        f"{deploy}: median {result.median_ms:.4g} ms, MAD {spread} ms, "
        f"p5 {result.percentile_ms(5):.4g}, p95 {result.percentile_ms(95):.4g}",
        f"{result.repeats} samples of {result.calls} calls, {result.threads} thread"
        f"{'s' if result.threads > 1 else ''} on CPU {','.join(map(str, result.cpus))} of {result.machine}",
    )
    if result.cold_ms is not None:
        console.print(f"with cold caches, as after other work: median {result.cold_ms:.4g} ms")
    if result.noisy:
        console.print("the machine was busy: the samples scatter widely, so compare with care")
    # The tail is cut at the 99th percentile: one interrupted sample would flatten everything else.
    low, high = float(samples.min()), float(np.percentile(samples, 99))
    counts, edges = np.histogram(samples, bins=_BINS, range=(low, max(high, low * 1.0001)))
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        console.print(f"  {left:9.4g} - {right:9.4g} ms  {'█' * round(_BAR * count / counts.max())} {count}")
    if beyond := int((samples > edges[-1]).sum()):
        console.print(f"  {beyond} above, up to {samples.max():.4g} ms")

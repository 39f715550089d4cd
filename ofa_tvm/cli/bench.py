"""ofa-tvm bench."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ofa_tvm.cli.compiled import Compiled
from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.cli.histogram import histogram
from ofa_tvm.cli.options import INPUT_PATH, complete_target
from ofa_tvm.deploy.picture_cost import PictureCost, picture_cost
from ofa_tvm.errors import UsageError, counted
from ofa_tvm.images import open_image
from ofa_tvm.measurement import CallTimes, Measurer, measure_calls
from ofa_tvm.measurement.calls import spread
from ofa_tvm.process import use_runtime_only
from ofa_tvm.targets import Target

_SAMPLES = 200  # on a device over RPC
_MOST_S = 3600


@click.command(short_help="Show an artefact's latency distribution and throughput.")
@click.argument("deploy", type=INPUT_PATH)
@click.option(
    "-t",
    "--target",
    "target_name",
    shell_complete=complete_target,
    help="By default the one that it was compiled for.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads; by default those it was compiled for.")
@click.option(
    "--runners",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that call at the same time, each with its threads on CPUs of its own.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, _MOST_S),
    default=10.0,
    show_default=True,
    help="How long calls are timed.",
)
@click.option(
    "--warm-up",
    type=click.FloatRange(0, _MOST_S),
    default=1.0,
    show_default=True,
    help="Seconds of calls before that, which do not count.",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=5),
    help="Stop after so many calls of each runner; on a device over RPC: samples, by default 200.",
)
@click.option(
    "--image",
    type=INPUT_PATH,
    help="A picture to time `run` on; by default a JPEG of 500 x 375 pixels is made.",
)
@common_options
def command(
    console: Console,
    deploy: Path,
    target_name: str | None,
    threads: int | None,
    runners: int,
    seconds: float,
    warm_up: float,
    repeats: int | None,
    image: Path | None,
) -> None:
    """Time calls of DEPLOY (an artefact folder or a compiled .so) on its target, one by one.

    A call is a user's: `ofa_tvm.load(DEPLOY)(x)`. Shown are how its latency spreads, how many images a second
    the runners do together, what a picture costs in `run`, and whether the machine was busy meanwhile.

    On an emulated device the instructions of one call are counted instead, which is one exact number.
    """
    use_runtime_only()
    if deploy.suffix == ".onnx" and not deploy.is_dir():
        raise UsageError(
            f"{deploy} is not compiled: `ofa-tvm measure {deploy}` times it, or compile it first: "
            f"ofa-tvm compile {deploy} -o model.so"
        )
    compiled = Compiled.open(deploy)
    target = compiled.on(target_name, threads)
    if target.run.where != "local":
        if runners > 1 or image is not None:
            option = "--runners" if runners > 1 else "--image"
            raise UsageError(
                f"{option} is timed on this machine, but {target.name} is a device; leave it out"
            )
        _on_a_device(console, compiled, target, repeats or _SAMPLES, seconds)
        return
    classifier = None
    if image is not None:  # what is wrong with it is said before the time is spent
        classifier = compiled.classifier()
        open_image(image)
    result = measure_calls(
        compiled.module,
        target,
        runners=runners,
        seconds=seconds,
        warm_up_s=warm_up,
        calls=repeats,
        seed=console.seed,
        progress=console.progress,
    )
    picture = None
    if classifier is not None or compiled.takes_pictures:
        picture = picture_cost(classifier or compiled.classifier(), target.threads, image, seed=console.seed)
    _show(console, deploy, result, picture)
    answer = {"artefact": str(deploy), **result.to_json()}
    console.result(answer | {"picture": None if picture is None else picture.to_json()})


def _on_a_device(console: Console, compiled: Compiled, target: Target, repeats: int, seconds: float) -> None:
    """Over RPC calls are timed there, several a sample; an emulated device counts instructions."""
    with Measurer(target) as measurer:
        result = measurer.measure(compiled.module, repeats=repeats, seconds=seconds, seed=console.seed)
    answer: dict[str, Any] = {"artefact": str(compiled.given), **result.to_json()}
    if result.instructions is not None:
        console.print(
            f"{compiled.given}: {result.cost:.4g} {result.unit}, {result.instructions} instructions "
            f"counted on an emulated {result.target}; a count is no time"
        )
    else:
        figures = spread(result.samples_ms)
        console.print(
            f"{compiled.given}: {result.repeats} samples of {counted(result.calls, 'call')}, "
            f"{counted(result.threads, 'thread')} on {result.machine}"
        )
        _table(console, [("", figures, [])], [])
        if result.noisy:
            console.print("the device was busy: the samples scatter widely, so compare with care")
        answer |= figures
    console.result(answer)


def _show(console: Console, deploy: Path, result: CallTimes, picture: PictureCost | None) -> None:
    runners = f"{counted(len(result.runners), 'runner')} of {counted(result.threads, 'thread')}"
    console.print(
        f"{deploy}: {counted(len(result.times_ms), 'call')} in {result.seconds:.3g} s",
        f"by {runners} on {result.machine},",
        f"after {result.warm_up_s:g} s of warm-up, {counted(result.warm_up_calls, 'call')} that do not count",
        "",
    )
    per_s = "calls/s" if result.images is None else "images/s"
    each = 1 if result.images is None else result.images
    rows = [
        ("CPU " + ",".join(map(str, runner.cpus)), spread(runner.times_ms), [each * runner.per_s])
        for runner in result.runners
    ]
    if len(rows) > 1:
        rows.append(("together", spread(result.times_ms), [result.per_s]))
    _table(console, rows, [per_s])
    console.print(
        "",
        f"median {spread(result.times_ms)['median_ms']:.4g} ms, MAD {result.mad_ms:.2g} ms"
        + (f"; a call takes {each} images" if each > 1 else ""),
        f"with cold caches, as after other work: {result.cold_ms:.4g} ms",
    )
    if picture is not None:
        console.prose(
            f"from {picture.picture} to its class, as `run` does it: {picture.total_ms:.4g} ms "
            f"(decoding {picture.decode_ms:.4g}, preprocessing {picture.prepare_ms:.4g}, call and classes "
            f"{picture.classify_ms:.4g})"
        )
    console.print("", *histogram(result.times_ms, "ms", console.width, blocks=console.draws_blocks))
    console.prose(*(line for note in notes(result) for line in ("", note)))


def _table(console: Console, rows: list[tuple[str, dict[str, float], list[float]]], more: list[str]) -> None:
    keys = ("min_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms")
    console.table(
        ["ms", *(key.removesuffix("_ms") for key in keys), *more],
        [[name, *(figures[key] for key in keys), *rest] for name, figures, rest in rows],
    )


def notes(result: CallTimes) -> list[str]:
    """What speaks against comparing the figures with others."""
    found = []
    if result.others is not None and result.others.busy:
        cpus = ("CPU " if len(result.cpus) == 1 else "CPUs ") + ",".join(map(str, result.cpus))
        found.append(
            f"the machine was busy: other programs took {100 * result.others.here:.0f} % of {cpus} meanwhile "
            f"(and kept {result.others.machine:.1f} CPUs of the machine at work)"
        )
    if result.noisy:
        found.append("the calls scatter more than `ofa-tvm measure` accepts: compare with care")
    return found

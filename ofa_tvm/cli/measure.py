"""ofa-tvm measure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ofa_tvm.cli.competing import say_if_only_stored
from ofa_tvm.cli.compiled import Compiled
from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.cli.options import (
    INPUT_PATH,
    batch_option,
    complete_target,
    dtype_option,
    shape_option,
)
from ofa_tvm.deploy import Artefact
from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.files import sha256
from ofa_tvm.measurement import KernelTime, Measurement, Measurer
from ofa_tvm.process import leave_torch_out
from ofa_tvm.runtime import LoadedModule, load_module
from ofa_tvm.targets import Target, get_target
from ofa_tvm.temporaries import scratch_folder

if TYPE_CHECKING:
    from ofa_tvm.compiler import KernelUse
    from ofa_tvm.compiler.graph import Shapes
    from ofa_tvm.targets import DType


@click.command(short_help="Time one compiled module on its target.")
@click.argument("model", type=INPUT_PATH)
@click.option(
    "-t",
    "--target",
    shell_complete=complete_target,
    help="A target's name or YAML file; by default the module's own, for an ONNX file x86.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="By default those that the module was compiled for, for an ONNX file the target's (1).",
)
@dtype_option
@batch_option
@shape_option
@click.option("--repeats", type=click.IntRange(min=5), help="Samples to take; by default the target's.")
@click.option(
    "--seconds", type=click.FloatRange(min=0.1), default=5.0, show_default=True, help="Time to spend."
)
@click.option("--onnxruntime", is_flag=True, help="Time ONNX Runtime on the same network in the same rounds.")
@click.option(
    "--onnx",
    "source",
    type=INPUT_PATH,
    help="Of a .so, with --onnxruntime: the ONNX file that it was compiled from, if not beside it.",
)
@click.option("--kernels", is_flag=True, help="Of an ONNX file: the time of every kernel inside the network.")
@common_options
def command(
    console: Console,
    model: Path,
    target: str | None,
    threads: int | None,
    dtype: DType | None,
    batch: int | None,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    repeats: int | None,
    seconds: float,
    onnxruntime: bool,
    source: Path | None,
    kernels: bool,
) -> None:
    """Time MODEL: a compiled .so, an artefact folder, or an ONNX file, which is compiled first.

    The result is the median of samples taken in a process of its own, pinned to its CPUs, after a warm-up.
    """
    for option, given in (("--dtype", dtype), ("--batch", batch), ("--shape", shapes)):
        if given and model.suffix != ".onnx":
            raise UsageError(f"{option} is of a module that is compiled now: give an ONNX file, not {model}")
    chosen = _target(model, target, threads)
    if dtype is not None:
        chosen = chosen.with_dtype(dtype)
    if batch is not None:
        chosen = chosen.with_batch(batch)
    if source is not None and (not onnxruntime or model.suffix != ".so"):
        raise UsageError("--onnx belongs to --onnxruntime with a compiled .so, whose network it names")
    if kernels and model.suffix != ".onnx":
        raise UsageError(f"--kernels compiles the network with clocks in it: give an ONNX file, not {model}")
    if chosen.run.where != "local" and (kernels or onnxruntime):
        raise UsageError("--kernels and --onnxruntime measure on this machine; leave them out for a device")
    if model.suffix == ".onnx":
        leave_torch_out()
        say_if_only_stored(console, chosen)
    with scratch_folder("measure") as scratch, Measurer(chosen) as measurer:
        so = _module(model, chosen, dict(shapes), Path(scratch))
        paths = [so, *([_network(model, so, source, Path(scratch))] if onnxruntime else [])]
        results = measurer.measure_many(paths, repeats=repeats, seconds=seconds, seed=console.seed, cold=True)
        profiled = _profile(console, model, chosen, dict(shapes), Path(scratch)) if kernels else None
    result = results[0]
    console.print(_sentence(str(model), result))
    answer = {"model": str(model), **result.to_json()}
    if onnxruntime:
        other = results[1]
        speedup = other.cost / result.cost
        console.print(_sentence("ONNX Runtime", other), f"{speedup:.2f} times as fast as ONNX Runtime")
        answer |= {"onnxruntime": other.to_json(), "speed_against_onnxruntime": speedup}
    if profiled is not None:
        answer["kernels"] = profiled
    console.result(answer)


def _target(model: Path, name: str | None, threads: int | None) -> Target:
    """Where to measure; a compiled module runs on as many threads as it was compiled for."""
    if model.suffix != ".onnx":
        return Compiled.open(model).on(name, threads)
    target = get_target(name or "x86")
    return target if threads is None else target.with_threads(threads)


def _profile(
    console: Console, model: Path, target: Target, shapes: Shapes, scratch: Path
) -> list[dict[str, object]]:
    """Kernels by their time inside the network, beside the log's time of the kernel alone."""
    from ofa_tvm import compile
    from ofa_tvm.measurement import profile

    so = scratch / "profiled.so"
    uses = {use.name: use for use in compile(str(model), target, str(so), shape=shapes, profile=True).kernels}
    calls = profile(so, seed=console.seed)
    total_us = sum(call.median_us for call in calls)
    console.table(
        ["kernel", "calls", "us in the network", "% of time", "us by the log", "schedule"],
        [
            [name, len(times), sum(times), 100 * sum(times) / total_us, _alone(uses[name]), uses[name].origin]
            for name, times in _slowest_first(calls)
        ],
        title=f"{len(calls)} kernel calls, {total_us / 1e3:.4g} ms",
    )
    return [
        {
            "name": name,
            "calls": len(times),
            "us": sum(times),
            "share": sum(times) / total_us,
            "alone_us": _alone(uses[name]),
            "schedule": uses[name].origin,
        }
        for name, times in _slowest_first(calls)
    ]


def _slowest_first(calls: Sequence[KernelTime]) -> list[tuple[str, list[float]]]:
    grouped: dict[str, list[float]] = {}
    for call in calls:
        grouped.setdefault(call.name, []).append(call.median_us)
    return sorted(grouped.items(), key=lambda item: -sum(item[1]))


def _alone(use: KernelUse) -> float | None:
    return None if use.cost is None else 1e3 * use.cost * use.calls


def _module(model: Path, target: Target, shapes: Shapes, scratch: Path) -> Path:
    """The compiled module; an ONNX file is compiled now."""
    if model.is_dir():
        return Artefact.open(model).module_path
    if model.suffix != ".onnx":
        return model
    leave_torch_out()
    from ofa_tvm import compile

    so = scratch / "model.so"
    compile(str(model), target, str(so), shape=shapes)
    return so


def _network(model: Path, so: Path, source: Path | None, scratch: Path) -> Path:
    """The ONNX that a module was compiled from, with the module's sizes, for ONNX Runtime."""
    module = load_module(so)
    if model.is_dir():
        onnx = Artefact.open(model).onnx_path
    else:
        onnx = model if model.suffix == ".onnx" else _source(module, source)
    from ofa_tvm.compiler.graph import write_fixed

    return write_fixed(onnx, {spec.name: spec.shape for spec in module.inputs}, scratch / "fixed.onnx")


def _source(module: LoadedModule, given: Path | None) -> Path:
    """The ONNX file that a module was compiled from: as given, else by its name beside the module or here."""
    noted = module.metadata.get("source")
    name, digest = (noted["name"], noted["sha256"]) if noted else (None, None)
    found = [given] if given else [folder / str(name) for folder in (module.path.parent, Path())]
    for path in found:
        if path.is_file() and (digest is None or sha256(path) == digest):
            return path
    if given is not None and given.is_file():
        raise UsageError(f"{module.path.name} was not compiled from {given} as it is now, but from {name}")
    if given is not None:
        raise UserError(f"there is no ONNX file {given}")
    where = f"{name or 'its ONNX file'} is not beside it, or was changed"
    raise UsageError(
        f"--onnxruntime needs the network that {module.path.name} was compiled from, and {where}; name it: "
        "--onnx FILE"
    )


def _sentence(name: str, result: Measurement) -> str:
    if result.instructions is not None:
        return (
            f"{name}: {result.cost:.4g} {result.unit} ({result.instructions} instructions counted on an "
            f"emulated {result.target}; a count is no time)"
        )
    spread = 100 * (result.mad_ms or 0) / (result.median_ms or 1)
    return (
        f"{name}: {result.cost:.4g} {result.unit} (median of {result.repeats} samples, MAD {spread:.1f} %, "
        f"{result.threads} thread{'s' if result.threads > 1 else ''}, {result.target}, {result.machine})"
        + ("" if result.cold_ms is None else f", {result.cold_ms:.4g} ms with cold caches")
        + (" - noisy: the machine was busy" if result.noisy else "")
        + (f" - {slow}" if (slow := result.slow) else "")
    )

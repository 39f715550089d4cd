"""ofa-tvm train."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.cli.durations import dry_run_option, time_limit_option
from ofa_tvm.cli.networks import (
    Images,
    checkpoint_option,
    chosen_project,
    data_options,
    images_for,
    load_supernet,
    parse_arch,
    save_project,
)
from ofa_tvm.cli.options import INPUT_PATH, OUTPUT_PATH, space_option
from ofa_tvm.cli.presets import chosen_space, preset_option, sized_for
from ofa_tvm.cli.training import Extent, announce, plain_result, show_result, show_training_plan
from ofa_tvm.errors import UsageError
from ofa_tvm.progress import SILENT

if TYPE_CHECKING:
    from ofa_tvm.spaces import Arch, Space
    from ofa_tvm.training import ImageData, TrainingConfig
    from ofa_tvm.workflow.project import Project


_SEARCHED = 5


@click.command(short_help="Train a supernet by progressive shrinking, or one subnet further.")
@space_option
@preset_option
@data_options
@click.option(
    "-o",
    "--out",
    type=OUTPUT_PATH,
    default=Path(),
    show_default="here",
    help="Folder: gets ofa-tvm.yaml and training/ (or finetune-<name>/).",
)
@click.option(
    "--config",
    type=INPUT_PATH,
    help="YAML file with any of the settings; see docs/training.md.",
)
@click.option(
    "--set", "assignments", multiple=True, metavar="NAME=VALUE",
    help="One setting: batch_size=256, phases.full.epochs=10, resolutions='[128, 160]', ...; repeatable.",
)  # fmt: skip
@click.option(
    "--phases", metavar="NAME,NAME,..",
    help="Some of the phases only; quantize, which is left out otherwise, trains on with integers of 8 bits: "
    "--init supernet.pt --phases quantize.",
)  # fmt: skip
@click.option(
    "--epochs-scale",
    type=click.FloatRange(min=0, min_open=True),
    help="Makes all phases so many times as long.",
)
@click.option("--init", type=INPUT_PATH, help="Trained supernet to start from, own or official.")
@click.option(
    "--finetune", metavar="ARCH", help="Train this subnet of --checkpoint further: min, median, max or JSON."
)
@click.option("--epochs", type=click.Choice(["25", "75"]), help="Of --finetune; 25 unless given.")
@click.option(
    "--log", "logs", type=click.Choice(["csv", "tensorboard"]), multiple=True,
    help="Losses and accuracies for other programs, beside metrics.jsonl; repeatable.",
)  # fmt: skip
@checkpoint_option
@time_limit_option
@dry_run_option
@common_options
def command(
    console: Console,
    space: str | None,
    preset: str | None,
    images: Images,
    out: Path,
    config: Path | None,
    assignments: tuple[str, ...],
    phases: str | None,
    epochs_scale: float | None,
    init: Path | None,
    finetune: str | None,
    epochs: str | None,
    logs: tuple[str, ...],
    checkpoint: Path | None,
    time_limit: float | None,
    dry_run: bool,
) -> None:
    """Train a supernet on your images with the paper's phases: full net, kernel size, depth, width.

    Stopped in whatever way, the same command goes on where it was, and ends with the same weights. On several
    GPUs, or CPU processes: torchrun --nproc_per_node N --no-python ofa-tvm train ... All settings of a run
    are in its folder as settings.yaml; they can be edited and given back as --config. With --time-limit the
    network is as it was by then.
    """
    rank = int(os.environ.get("RANK", "0"))
    if rank:  # one process talks
        console = replace(console, json=False, progress=SILENT)
    given = _given(config)
    named = space or given.get("space")
    project = chosen_project(named)
    if init is not None and finetune is not None:
        raise UsageError("--init starts a supernet, --finetune a subnet of --checkpoint; give one of them")
    if finetune is None and checkpoint is not None:
        raise UsageError(
            "--checkpoint names the supernet of --finetune; to start from one, give it as --init"
        )
    if finetune is None and epochs is not None:
        raise UsageError("--epochs is of --finetune; shorten a supernet's phases by --epochs-scale or --set")
    if finetune is not None and preset is not None:
        raise UsageError("--preset is of a supernet's training; a subnet of --finetune has its space already")
    data = images.load(project, console.progress)
    if data is None:
        raise UsageError(
            "say which images to train on: --data digits, a folder, a tar file or a CIFAR-10 .npz"
        )

    from ofa_tvm.spaces import get_space
    from ofa_tvm.training import TrainingConfig, default_config, finetune_config, with_phases

    if finetune is None:
        chosen = chosen_space(project, data, named or _of_digits(images, project), preset, init)
        found = get_space(chosen.space)
        project = replace(project, space=found.name)
        base = default_config(found).replace(resolutions=chosen.resolutions)
        if found.name != "ofa_digits":
            base = sized_for(base, data.size("train"), given, assignments, init is not None)
        if chosen.reason:
            console.say(chosen.reason)
    else:
        found = get_space(project.space)
        base = finetune_config(found, int(epochs or 25))
    settings = TrainingConfig.from_dict({**base.to_dict(), **given, "space": found.name})
    if phases is not None:
        settings = with_phases(settings, [name.strip() for name in phases.split(",")])
    if epochs_scale is not None:
        settings = settings.with_epochs(epochs_scale)
    settings = settings.with_settings(assignments)
    if settings.space != found.name:
        raise UsageError(f"name the space by --space {settings.space}, not by --set")
    if logs:
        settings = settings.replace(log=tuple(dict.fromkeys((*settings.log, *logs))))
    extent = Extent(rank, console.deadline(time_limit), time_limit, dry_run)
    if finetune is None:
        _shrink(console, extent, settings, found, data, images, project, out, init)
    else:
        arch = parse_arch(finetune, found)
        weights = checkpoint or project.weights("float32")
        if weights is None:
            raise UsageError("--finetune needs the trained supernet: give --checkpoint")
        _finetune(console, extent, settings, found, data, out, arch, weights)


def _given(config: Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    from ofa_tvm.training.config import CONFIG_SCHEMA
    from ofa_tvm.yamlfile import read_yaml

    return read_yaml(config, CONFIG_SCHEMA)


def _of_digits(images: Images, project: Project) -> str | None:
    """The space of handwritten digits, where they are named and no project says otherwise."""
    return "ofa_digits" if images.source == "digits" and project.data is None else None


def _shrink(
    console: Console,
    extent: Extent,
    settings: TrainingConfig,
    space: Space,
    data: ImageData,
    images: Images,
    project: Project,
    out: Path,
    init: Path | None,
) -> None:
    from ofa_tvm.training import train

    folder = out / "training"
    start = f", starting from {init}" if init is not None else ""
    announce(console, settings, data, f"training {space.name}{start}", folder, extent)
    if extent.dry_run:
        show_training_plan(console, extent, settings, space, data, folder)
        return
    result = train(
        settings,
        data,
        folder,
        init=init,
        deadline=extent.deadline,
        progress=console.progress,
        seed=console.seed,
    )
    if extent.rank:
        return
    source = images.source
    if source is None and project.data is not None:
        source = project.data if project.data == "digits" else str(project.path(Path(project.data)))
    sides = settings.resolutions
    if sides is None or len(sides) > _SEARCHED:  # more than are tuned for
        sides = tuple(r for r in space.default_resolutions if sides is None or r in sides)
    file = save_project(
        out.resolve(),
        space.name,
        Path("training") / result.checkpoint.name,
        source or "",
        images.policy(project),
        sides or settings.resolutions or (),
    )
    show_result(console, result)
    console.print(f"{result.checkpoint}; {file} tells the other verbs")
    if settings.phases[-1].quantize and not result.steps_left and init is not None:
        _tell_project(console, init, result.checkpoint)
    console.result({**plain_result(result), "project": str(file)})


def _tell_project(console: Console, init: Path, quantized: Path) -> None:
    """Note in the project of a supernet where the same is after it was trained for int8."""
    from ofa_tvm.workflow.project import find_project
    from ofa_tvm.workflow.store import Store

    project = find_project(init.resolve().parent)
    own = project.weights("float32")
    if own is None or own.resolve() != init.resolve():
        return
    Store(project.folder).accuracy_model("int8").unlink(missing_ok=True)  # of other weights
    folder = project.folder.resolve()
    file = replace(project, int8_checkpoint=Path(os.path.relpath(quantized.resolve(), folder))).save()
    console.print(f"{file} takes it where int8 is asked for: ofa-tvm search --dtype int8")


def _finetune(
    console: Console,
    extent: Extent,
    settings: TrainingConfig,
    space: Space,
    data: ImageData,
    out: Path,
    arch: Arch,
    checkpoint: Path,
) -> None:
    from ofa_tvm.training import finetune

    net = load_supernet(space, checkpoint)
    data = images_for(console, checkpoint, net.n_classes, data)
    folder = out / f"finetune-{hashlib.sha256(arch.to_json().encode()).hexdigest()[:8]}"
    announce(console, settings, data, f"fine-tuning {arch.to_json()} of {checkpoint}", folder, extent)
    if extent.dry_run:
        show_training_plan(console, extent, settings, space, data, folder, arch)
        return
    result = finetune(
        net,
        arch,
        settings,
        data,
        folder,
        deadline=extent.deadline,
        progress=console.progress,
        seed=console.seed,
    )
    if extent.rank:
        return
    show_result(console, result)
    dtype = " --dtype int8" if settings.phases[-1].quantize else ""
    console.print(f"{result.checkpoint}; to export it: ofa-tvm export {result.checkpoint}{dtype} -o m.onnx")
    console.result({**plain_result(result), "arch": arch.to_dict()})

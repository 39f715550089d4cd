"""ofa-tvm evaluate."""

from __future__ import annotations

from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from ofa_tvm.cli.classes import confusion_result, show_confusion
from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.cli.durations import dry_run_option, time_limit_option
from ofa_tvm.cli.evaluated import check, fit, row, say_cost, show
from ofa_tvm.cli.networks import (
    CORNERS,
    Images,
    arithmetic_option,
    checkpoint_option,
    chosen_project,
    data_options,
    images_for,
    load_supernet,
    parse_arch,
)
from ofa_tvm.cli.options import INPUT_PATH, OUTPUT_PATH, resolutions_option, space_option
from ofa_tvm.cli.plans import show_plan
from ofa_tvm.errors import UsageError
from ofa_tvm.progress import SILENT

if TYPE_CHECKING:
    from ofa_tvm.accuracy.answers import SubnetAnswers
    from ofa_tvm.number_formats import Arithmetic
    from ofa_tvm.spaces import Arch, Space
    from ofa_tvm.supernet import Supernet
    from ofa_tvm.training.data import ImageData
    from ofa_tvm.workflow.project import Project

_PAPER_SUBNETS, _LARGE_DATA = 16_000, 500_000


@click.command(short_help="Accuracies of subnets, each with batch statistics of its own.")
@click.argument("subnets", nargs=-1, metavar="[SUBNET]...")
@checkpoint_option
@space_option
@arithmetic_option
@data_options
@click.option(
    "-n",
    "count",
    type=click.IntRange(min=0),
    help="Random subnets (architecture and resolution); where no "
    "SUBNET is named 20, or the paper's 16,000 on data as large as ImageNet.",
)
@resolutions_option
@click.option(
    "--split",
    type=click.Choice(["val", "test", "train"]),
    default="val",
    show_default=True,
    help="Images to count on.",
)
@click.option(
    "--calibration-images", type=click.IntRange(min=1),
    help="Training images behind each subnet's batch statistics; by default the nearest ofa-tvm.yaml's, else "
    "2,000.",
)  # fmt: skip
@click.option(
    "--cache",
    type=OUTPUT_PATH,
    help="JSON lines of finished evaluations, read and extended; by default accuracy.jsonl beside "
    "ofa-tvm.yaml, else beside the checkpoint.",
)
@click.option(
    "--fit",
    "predictor_file",
    type=OUTPUT_PATH,
    help="Fit an accuracy predictor to the subnets and write it here.",
)
@click.option(
    "--from",
    "earlier",
    type=INPUT_PATH,
    help="Of --fit: a predictor of another --dtype, which the subnets only correct; a dozen will do.",
)
@click.option(
    "--model",
    type=click.Choice(["auto", "gp", "mlp"]),
    default="auto",
    show_default=True,
    help="Of --fit: a Gaussian process, the paper's 3x400 network, or the former up to 3,000 subnets.",
)
@click.option(
    "--compiled",
    metavar="TARGET",
    help="Compile the first subnet for this target, and compare its answers too.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@time_limit_option
@dry_run_option
@common_options
def command(
    console: Console,
    subnets: tuple[str, ...],
    checkpoint: Path | None,
    space: str | None,
    dtype: Arithmetic,
    images: Images,
    count: int | None,
    resolutions: tuple[int, ...] | None,
    split: str,
    calibration_images: int | None,
    cache: Path | None,
    predictor_file: Path | None,
    earlier: Path | None,
    model: str,
    compiled: str | None,
    device: str,
    time_limit: float | None,
    dry_run: bool,
) -> None:
    """Measure the accuracy of SUBNETs: min, median, max, architectures as JSON or in files, or published
    net.config files, whose architecture is evaluated with the supernet's weights; and of N random ones.

    Of the first SUBNET, or the most accurate random one, each class's accuracy and the confusion matrix are
    shown: the worst classes and the most frequent mistakes where there are many. --json has all of it.

    Every accuracy is kept in the cache, so a killed run goes on where it was. Several GPUs or machines share
    the subnets: torchrun --nproc_per_node N --no-python ofa-tvm evaluate ... With --dtype int8 the ranges of
    each subnet's feature maps are estimated with its batch statistics.
    """
    from ofa_tvm.spaces import get_space
    from ofa_tvm.training.data import split_name
    from ofa_tvm.training.distributed import Rank, choose_device

    rank = Rank.here()
    if rank.index:  # one process talks
        console = replace(console, json=False, progress=SILENT)
    if earlier is not None and predictor_file is None:
        raise UsageError("--from is corrected and written to --fit FILE; name that file")
    project = chosen_project(space, checkpoint)
    found = get_space(project.space)
    weights = _weights(project, checkpoint, dtype)
    sides = resolutions or project.resolutions or found.default_resolutions
    archs = [_arch(text, found, sides) for text in subnets]
    data = _images(console, project, images)
    n = count if count is not None else (0 if subnets else _default_count(data))
    archs += _random(found, n, sides, console.seed)
    calibration = calibration_images or project.calibration_images
    cache = cache or _default_cache(project, weights)
    from ofa_tvm.supernet import dtype_of, set_dtype

    net = load_supernet(found, weights, dtype=None)
    trained = dtype_of(net)
    set_dtype(net, dtype)
    net.to(choose_device(device))
    data = images_for(console, weights, net.n_classes, data)
    console.say(
        f"{weights} ({found.name}), {len(archs)} subnets in {dtype} on the {data.size(split_name(split))} "
        f"{split} images of {data.name}, {min(calibration, data.size('train'))} calibration images each, "
        f"cache {cache}, {rank.processes} process{'es' * (rank.processes > 1)}, seed {console.seed}"
    )
    from ofa_tvm.accuracy.evaluate import evaluate_subnets, unevaluated
    from ofa_tvm.workflow.plan import time_evaluation
    from ofa_tvm.workflow.steps import Plan, Step

    if dry_run:
        left = unevaluated(
            net, archs, data, split, calibration_images=calibration, cache_path=cache, seed=console.seed
        )
        unit_s = time_evaluation(net, left[0], data, split, calibration, console.seed) if left else 0.0
        show_plan(console, Plan((Step("evaluate a subnet", len(left), unit_s),) if left else ()))
        return
    deadline = console.deadline(time_limit)
    first = None
    if subnets and not rank.index and not deadline.is_over:  # before all, so that it is not evaluated twice
        first = _answers(console, net, archs[0], data, split, calibration, cache)
    accuracies = evaluate_subnets(
        net, archs, data, split,
        calibration_images=calibration, cache_path=cache, rank=rank, deadline=deadline,
        seed=console.seed, progress=console.progress,
    )  # fmt: skip
    if rank.index:
        return
    names = [*(text if len(text) < 40 else "json" for text in subnets), *("random" for _ in range(n))]
    if missing := int(np.isnan(accuracies).sum()):
        console.say(f"the time is up: {missing} of {len(archs)} subnets are left; the same command goes on")
        done = np.isfinite(accuracies)
        names, archs = list(compress(names, done)), list(compress(archs, done))
        accuracies = accuracies[done]
    rows = [
        row(name, arch, found, net.n_classes, float(accuracy))
        for name, arch, accuracy in zip(names, archs, accuracies, strict=True)
    ]
    show(console, rows, archs, split, cache)
    if archs and first is None and not deadline.is_over:
        best = int(accuracies.argmax())
        first = _answers(console, net, archs[best], data, split, calibration, cache)
    if first is not None:
        name = "the first subnet" if subnets else "the most accurate subnet"
        show_confusion(console, first.confusion, f"{name}, {split} images")
    if dtype == "int8" and trained != "int8" and archs:
        say_cost(console, net, archs[0], data, split, calibration, cache, weights, float(accuracies[0]))
    checked = None
    if compiled is not None and archs:
        checked = check(console, net, archs[0], data, split, compiled, calibration)
    fitted = None
    if predictor_file is not None:
        fitted = fit(console, found, archs, accuracies, model, dtype, earlier, predictor_file)
    console.result(
        {
            "checkpoint": str(weights),
            "data": data.name,
            "split": split,
            "dtype": dtype,
            "trained_dtype": trained,
            "compiled": checked,
            "cache": str(cache),
            "subnets": rows,
            "answers": None
            if first is None
            else {"arch": first.arch.to_dict(), **confusion_result(first.confusion)},
            "predictor": fitted,
        }
    )


def _answers(
    console: Console, net: Supernet, arch: Arch, data: ImageData, split: str, calibration: int, cache: Path
) -> SubnetAnswers:
    """Class by class; kept beside the accuracies."""
    from ofa_tvm.accuracy.answers import subnet_answers
    from ofa_tvm.workflow.store import answers_beside

    return subnet_answers(
        net, arch, data, split,
        calibration_images=calibration, path=answers_beside(cache), cache_path=cache, seed=console.seed,
        progress=console.progress,
    )  # fmt: skip


def _weights(project: Project, checkpoint: Path | None, dtype: Arithmetic) -> Path:
    weights = checkpoint or project.weights(dtype)
    if weights is None:
        raise UsageError("there is no supernet to evaluate: give --checkpoint, or train one first")
    return weights


def _images(console: Console, project: Project, images: Images) -> ImageData:
    data = images.load(project, console.progress)
    if data is None:
        raise UsageError("say which images to evaluate on: --data digits, a folder, a tar file or a .npz")
    return data


def _default_count(data: ImageData) -> int:
    """The paper's number of pairs where there are about as many images as in ImageNet."""
    return _PAPER_SUBNETS if data.size("train") >= _LARGE_DATA else 20


def _default_cache(project: Project, weights: Path) -> Path:
    from ofa_tvm.workflow.project import NAME
    from ofa_tvm.workflow.store import Store

    there = (project.folder / NAME).is_file()
    return Store(project.folder if there else weights.parent).accuracy_cache


def _arch(text: str, space: Space, sides: tuple[int, ...]) -> Arch:
    if Path(text).name == "net.config" or (Path(text) / "net.config").is_file():
        from ofa_tvm.export import load_net_config

        network = load_net_config(text)
        if network.arch is None or network.space_name != space.name:
            where = network.space_name or "no space that ships"
            raise UsageError(f"{text} is a network of {where}, the supernet is {space.name}")
        space.validate(network.arch)
        return network.arch
    return parse_arch(text, space, sides[len(sides) // 2] if text in CORNERS else None)


def _random(space: Space, n: int, sides: tuple[int, ...], seed: int) -> list[Arch]:
    return space.decode(space.sample_genes(np.random.default_rng(seed), n, sides))

"""ofa-tvm export."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ofa_tvm.cli.console import Console, common_options
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
    post_training,
)
from ofa_tvm.cli.options import OUTPUT_PATH, space_option
from ofa_tvm.errors import UsageError

if TYPE_CHECKING:
    from ofa_tvm.number_formats import Arithmetic
    from ofa_tvm.supernet import Network
    from ofa_tvm.training import ImageData
    from ofa_tvm.workflow.project import Project

_COUNTED = 500  # validation images that say what int8 costs


@click.command(short_help="Write a subnet as ONNX, checked against PyTorch.")
@click.argument("subnet")
@click.option(
    "-o",
    "--output",
    type=OUTPUT_PATH,
    default=Path("model.onnx"),
    show_default=True,
    help="File.",
)
@checkpoint_option
@space_option
@click.option("--resolution", type=click.IntRange(min=1), help="Input side; by default the subnet's own.")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Images a call.")
@arithmetic_option
@data_options
@click.option(
    "--calibration-images", type=click.IntRange(min=1),
    help="Training images behind the subnet's batch statistics; by default the nearest ofa-tvm.yaml's, else "
    "2,000.",
)  # fmt: skip
@common_options
def command(
    console: Console,
    subnet: str,
    output: Path,
    checkpoint: Path | None,
    space: str | None,
    resolution: int | None,
    batch: int,
    dtype: Arithmetic,
    images: Images,
    calibration_images: int | None,
) -> None:
    """Write SUBNET as an ONNX file: min, median, max, an architecture as JSON or in a file, a published
    net.config (or its folder), or a subnet.pt that `train --finetune` left.

    With images (--data, or the nearest ofa-tvm.yaml's) its batch statistics are estimated on them, and class
    names and preprocessing go into the file's metadata. Without a checkpoint the weights are random, which is
    enough to measure a latency.

    With --dtype int8 the file is QDQ, which `compile` makes integer kernels of; the images give the ranges of
    its feature maps as well.
    """
    from ofa_tvm.export import check_onnx, export_onnx
    from ofa_tvm.supernet import dtype_of

    project = chosen_project(space, checkpoint)
    calibration = calibration_images or project.calibration_images
    data = images.load(project, console.progress)
    weights = checkpoint or project.weights(dtype)
    network, side, origin = _network(subnet, project, weights, checkpoint, resolution, data, console.seed)
    classes = network.spec.n_classes
    if data is not None:
        data = images_for(console, origin or subnet, classes, data)
    calibrated = data is not None and origin is not None
    trained = dtype_of(network)
    if dtype == "int8" and trained != "int8" and origin is not None and data is None:
        raise UsageError(
            f"{origin} was not trained for int8, so there are no ranges of its feature maps: name images "
            "to estimate them on (--data)"
        )
    console.say(
        f"{subnet} at {side} x {side}, batch {batch}, {classes} classes, {dtype}, "
        f"{_weights(origin, data, calibration)}, into {output}"
    )
    accuracies: dict[str, float] = {}
    if calibrated and data is not None:
        accuracies = _calibrate(network, data, side, calibration, console.seed, dtype)
    else:
        _without_images(network, dtype, side, origin is None, console.seed)
    network.eval()
    start = time.perf_counter()
    export_onnx(
        network,
        output,
        side,
        batch,
        labels=None if data is None else data.labels,
        preprocessing=None if data is None else data.preprocessing.at(side).to_dict(),
    )
    seconds = time.perf_counter() - start
    difference = check_onnx(output, network, seed=console.seed)
    arch = network.arch
    if accuracies:
        _say_cost(console, accuracies, trained, origin)
    console.print(
        f"{output}: {output.stat().st_size / 1e6:.1f} MB in {1e3 * seconds:.0f} ms; ONNX Runtime differs "
        f"from PyTorch by {difference:.1e} of the largest output"
    )
    console.result(
        {
            "path": str(output),
            "arch": None if arch is None else arch.replace(r=side).to_dict(),
            "space": network.space_name or None,
            "resolution": side,
            "batch": batch,
            "dtype": dtype,
            "trained_dtype": trained,
            "accuracies": accuracies,
            "classes": classes,
            "weights": None if origin is None else str(origin),
            "calibrated": calibrated,
            "max_rel_difference_to_pytorch": difference,
            "export_ms": 1e3 * seconds,
        }
    )


def _weights(origin: Path | None, data: ImageData | None, calibration: int) -> str:
    """For people: where weights and batch statistics are from."""
    if origin is None:
        return "random weights, which is enough to measure a latency"
    if data is None:
        return (
            f"weights of {origin}, batch statistics as in the file: without --data they are not estimated "
            "for this subnet"
        )
    n = min(calibration, data.size("train"))
    return f"weights of {origin}, batch statistics from {n} images of {data.name}"


def _network(
    subnet: str,
    project: Project,
    weights: Path | None,
    checkpoint: Path | None,
    resolution: int | None,
    data: ImageData | None,
    seed: int,
) -> tuple[Network, int, Path | None]:
    """The network, its input side, and the file of its weights; None if they are random."""
    import torch

    from ofa_tvm.export import load_net_config, published_resolution
    from ofa_tvm.spaces import get_space
    from ofa_tvm.supernet import build_supernet, load_subnet

    path = Path(subnet)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if path.suffix in (".pt", ".pth") and path.is_file():
            network = load_subnet(path)
            own = network.arch.r if network.arch is not None else resolution or 224
            return network, _side(network, resolution or own), path
        if path.name == "net.config" or (path / "net.config").is_file():
            # The project's supernet has other weights than a specialised network.
            network = load_net_config(path, checkpoint)
            side = resolution or published_resolution(path) or 224
            return network, side, checkpoint
        space = get_space(project.space)
        if resolution is None and subnet in CORNERS and project.resolutions is not None:
            resolution = project.resolutions[len(project.resolutions) // 2]
        arch = parse_arch(subnet, space, resolution)
        if weights is None:
            net = build_supernet(space, data.n_classes if data is not None else 1000)
            return net.extract(arch), arch.r, None
    net = load_supernet(space, weights, dtype=None)
    return net.extract(arch), arch.r, weights


def _side(network: Network, side: int) -> int:
    from ofa_tvm.spaces import get_space

    if network.arch is not None:
        get_space(network.space_name).validate(network.arch.replace(r=side))
    return side


def _calibrate(
    network: Network, data: ImageData, side: int, images: int, seed: int, dtype: Arithmetic
) -> dict[str, float]:
    """Estimate statistics in a dtype; for int8 also what it costs: accuracies by dtype."""
    import torch

    from ofa_tvm.supernet import calibrate, set_dtype
    from ofa_tvm.training.validation import accuracy, calibration_batches

    accuracies: dict[str, float] = {}
    each: Arithmetic
    for each in ("float32", dtype) if dtype != "float32" else (dtype,):
        set_dtype(network, each)
        calibrate(network, calibration_batches(data, side, images, seed, torch.device("cpu")))
        if dtype != "float32":
            accuracies[each] = accuracy(network, data, "val", side, _COUNTED)
    return accuracies


def _without_images(network: Network, dtype: Arithmetic, side: int, random: bool, seed: int) -> None:
    """Statistics stay as they are; random weights get ranges of noise."""
    from ofa_tvm.supernet import calibrate_on_noise, set_dtype

    set_dtype(network, dtype)
    if dtype == "int8" and random:
        calibrate_on_noise(network, side, seed)


def _say_cost(
    console: Console, accuracies: dict[str, float], trained: Arithmetic, origin: Path | None
) -> None:
    before, after = accuracies["float32"], accuracies["int8"]
    console.print(f"validation accuracy {after:.2%} in int8, {before:.2%} in float32")
    if trained != "int8":
        console.say(post_training(origin, "this subnet", before, after))

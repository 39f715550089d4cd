"""ofa-tvm evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.cli.networks import (
    Images,
    check_classes,
    checkpoint_option,
    chosen_project,
    data_options,
    load_supernet,
    parse_arch,
)
from ofa_tvm.cli.options import resolutions_option, space_option
from ofa_tvm.errors import UsageError

if TYPE_CHECKING:
    from ofa_tvm.spaces import Arch, Space


@click.command(short_help="Accuracies of subnets, each with batch statistics of its own.")
@click.argument("subnets", nargs=-1, metavar="[SUBNET]...")
@checkpoint_option
@space_option
@data_options
@click.option("-n", "count", type=click.IntRange(min=0), help="Random subnets; 20 where no SUBNET is named.")
@resolutions_option
@click.option(
    "--split",
    type=click.Choice(["val", "test", "train"]),
    default="val",
    show_default=True,
    help="Images to count on.",
)
@click.option(
    "--calibration-images", type=click.IntRange(min=1), default=2000, show_default=True,
    help="Training images behind each subnet's batch statistics.",
)  # fmt: skip
@click.option(
    "--cache", type=click.Path(path_type=Path), help="JSON lines of finished evaluations, read and extended."
)
@common_options
def command(
    console: Console,
    subnets: tuple[str, ...],
    checkpoint: Path | None,
    space: str | None,
    images: Images,
    count: int | None,
    resolutions: tuple[int, ...] | None,
    split: str,
    calibration_images: int,
    cache: Path | None,
) -> None:
    """Measure the accuracy of SUBNETs: min, median, max, architectures as JSON or in files, or published
    net.config files, whose architecture is evaluated with the supernet's weights; and of N random ones.

    With --cache, a killed run goes on where it was.
    """
    from ofa_tvm.spaces import get_space
    from ofa_tvm.training.data import split_name

    project = chosen_project(space)
    found = get_space(project.space)
    weights = checkpoint or (None if project.checkpoint is None else project.path(project.checkpoint))
    if weights is None:
        raise UsageError("there is no supernet to evaluate: give --checkpoint, or train one first")
    sides = resolutions or project.resolutions or found.default_resolutions
    archs = [_arch(text, found, sides) for text in subnets]
    n = count if count is not None else (0 if subnets else 20)
    archs += _random(found, n, sides, console.seed)
    data = images.load(project, console.progress)
    if data is None:
        raise UsageError("say which images to evaluate on: --data digits, a folder, a tar file or a .npz")
    net = load_supernet(found, weights)
    check_classes(net, weights, data)
    console.say(
        f"{weights} ({found.name}), {len(archs)} subnets on the {data.size(split_name(split))} {split} "
        f"images of {data.name}, {min(calibration_images, data.size('train'))} calibration images each, "
        f"cache {cache or 'none'}, seed {console.seed}"
    )
    from ofa_tvm.accuracy.evaluate import evaluate_subnets

    accuracies = evaluate_subnets(
        net, archs, data, split,
        calibration_images=calibration_images, cache_path=cache, seed=console.seed, progress=console.progress,
    )  # fmt: skip
    names = [*(text if len(text) < 40 else "json" for text in subnets), *("random" for _ in range(n))]
    rows = [
        {
            "subnet": name,
            "arch": json.loads(arch.to_json()),
            "macs": found.macs(arch, net.n_classes),
            "params": found.params(arch, net.n_classes),
            "accuracy": float(accuracy),
        }
        for name, arch, accuracy in zip(names, archs, accuracies, strict=True)
    ]
    console.table(
        ["subnet", "r", "M MACs", "M parameters", f"{split} accuracy", "architecture"],
        [
            [r["subnet"], a.r, r["macs"] / 1e6, r["params"] / 1e6, f"{r['accuracy']:.2%}", a.to_json()]
            for r, a in zip(rows, archs, strict=True)
        ],
    )  # fmt: skip
    console.result({"checkpoint": str(weights), "data": data.name, "split": split, "subnets": rows})


def _arch(text: str, space: Space, sides: tuple[int, ...]) -> Arch:
    if Path(text).name == "net.config" or (Path(text) / "net.config").is_file():
        from ofa_tvm.export import load_net_config

        network = load_net_config(text)
        if network.arch is None or network.space_name != space.name:
            where = network.space_name or "no space that ships"
            raise UsageError(f"{text} is a network of {where}, the supernet is {space.name}")
        space.validate(network.arch)
        return network.arch
    corner = text in ("min", "median", "max")
    return parse_arch(text, space, sides[len(sides) // 2] if corner else None)


def _random(space: Space, n: int, sides: tuple[int, ...], seed: int) -> list[Arch]:
    import numpy as np

    return space.decode(space.sample_genes(np.random.default_rng(seed), n, sides))

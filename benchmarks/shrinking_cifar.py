"""Does progressive shrinking help the subnets? CIFAR-10, a small MobileNetV3-style space.

    python benchmarks/shrinking_cifar.py                 # all arms, seeds 0 to 2; run it again after a kill
    python benchmarks/shrinking_cifar.py --seeds 3 4 5 --arms shrinking "from the start"   # three seeds more
    python benchmarks/shrinking_cifar.py --shard 0/2     # every other run, for two processes side by side
    python benchmarks/shrinking_cifar.py --spread        # more subnets of the supernets that are trained
    python benchmarks/shrinking_cifar.py --table         # what is done so far, and the results file

Arms, all with the same number of steps, optimiser and batch:
  shrinking      full net, then kernel, depth and width open up one after the other, the full net teaching
  from the start every dimension is sampled in every step (as many subnets a step as shrinking's last phases;
                 there is no full net yet that could teach)
  alone          min, median and max each trained on its own

Settings were chosen by validation accuracy of seed 0, also in the table: for shrinking the best of
five (two of them stopped early), for the arm from the start the better of two rates, which the single subnets
took untried. The other seeds had no part in that. The table is of test accuracy.

Test accuracy at 32 pixels, batch statistics re-estimated on 2,000 training images for each subnet.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import save

from ofa_tvm.accuracy.evaluate import evaluate_subnets
from ofa_tvm.errors import UserError
from ofa_tvm.files import write_atomic
from ofa_tvm.progress import Task
from ofa_tvm.spaces import Arch, Space, Stage
from ofa_tvm.supernet import build_supernet, load_subnet
from ofa_tvm.training import ArrayData, Phase, TrainingConfig, finetune, load_data, train
from ofa_tvm.training.validation import accuracy

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "shrinking_cifar.json"
SIDE = 32

SPACE = Space(
    name="ofa_cifar",
    family="mbconv",
    stem_widths=((16,), (16,)),
    stem_activation="h_swish",
    first_activation="relu",
    stages=(
        Stage((16,), 1, 3, (1, 2, 3), "relu"),
        Stage((32,), 2, 3, (1, 2, 3), "h_swish", se=True),
        Stage((64,), 2, 3, (1, 2, 3), "h_swish", se=True),
    ),
    kernels=(3, 5),
    expands=(2, 3, 4),
    final_width=192,
    feature_width=256,
    head_activation="h_swish",
    bn_eps=1e-5,
    resolutions=(24, 28, 32),
    default_resolutions=(24, 28, 32),
)  # the stem halves the side: 16, 16, 8 and 4 pixels
CORNERS = {"min": SPACE.min_arch(SIDE), "median": SPACE.median_arch(SIDE), "max": SPACE.max_arch(SIDE)}
SMALL, LARGE = CORNERS["min"], CORNERS["max"]
SPREAD = {
    f"{k} kernels, {d} depth, {e} expansion": Arch(
        ks=(SMALL if k == "min" else LARGE).ks,
        e=(SMALL if e == "min" else LARGE).e,
        d=(SMALL if d == "min" else LARGE).d,
        r=SIDE,
    )
    for k in ("min", "max")
    for d in ("min", "max")
    for e in ("min", "max")
}
RANDOM = [SPACE.sample(np.random.default_rng(i)).replace(r=SIDE) for i in range(16)]
ALL = {"ks": 0, "d": 0, "e": 0}

RATE = 8e-2  # per 64 images, in every phase of shrinking
RATE_WITHOUT_TEACHER = 16e-2  # where the labels' loss stands alone
SHRINKING = (
    Phase("full", {}, 7, 1, RATE),
    Phase("kernel", {"ks": 0}, 1, 0, RATE),
    Phase("depth1", {"ks": 0, "d": 2}, 1, 0, RATE, 2),
    Phase("depth2", {"ks": 0, "d": 0}, 1, 0, RATE, 2),
    Phase("expand1", {"ks": 0, "d": 0, "e": 2}, 1, 0, RATE, 2, sort_channels=True),
    Phase("expand2", ALL, 7, 1, RATE, 2, sort_channels=True),
)
EPOCHS = sum(phase.total_epochs for phase in SHRINKING)


def config(phases: tuple[Phase, ...], **changes: Any) -> TrainingConfig:
    return TrainingConfig(SPACE.name, phases, batch_size=128, micro_batch_size=None, dropout=0.0,
                          checkpoint_every_s=60.0, **changes)  # fmt: skip


Run = Callable[[ArrayData, Path, int, float, "Lines"], dict[str, float]]


def supernet_run(phases: tuple[Phase, ...], distillation: float) -> Run:
    def run(data: ArrayData, folder: Path, seed: int, scale: float, lines: Lines) -> dict[str, float]:
        settings = config(phases, distillation=distillation).with_epochs(scale)
        result = train(settings, data, folder, space=SPACE, progress=lines, seed=seed)
        net = build_supernet(SPACE, data.n_classes)
        net.load_checkpoint(result.checkpoint)
        found = evaluate_subnets(net, list(CORNERS.values()), data, "test", seed=seed)
        return dict(zip(CORNERS, found.tolist(), strict=True))

    return run


def alone_run(corner: str) -> Run:
    def run(data: ArrayData, folder: Path, seed: int, scale: float, lines: Lines) -> dict[str, float]:
        phases = (Phase("alone", {}, EPOCHS - 1, 1, RATE_WITHOUT_TEACHER),)
        settings = config(phases, distillation=0.0).with_epochs(scale)
        net = build_supernet(SPACE, data.n_classes)
        result = finetune(
            net, CORNERS[corner], settings, data, folder, from_scratch=True, progress=lines, seed=seed
        )
        return {corner: accuracy(load_subnet(result.checkpoint, SPACE), data, "test", SIDE)}

    return run


ARMS: dict[str, Run] = {
    "shrinking": supernet_run(SHRINKING, distillation=1.0),
    "from the start": supernet_run(
        (Phase("all", ALL, EPOCHS - 1, 1, RATE_WITHOUT_TEACHER, 2),), distillation=0.0
    ),
    **{f"alone: {corner}": alone_run(corner) for corner in CORNERS},
}


class Lines:
    """Progress as lines in a log: at most one in half a minute."""

    def __init__(self, title: str) -> None:
        self.title, self.name, self.done, self.said = title, "", 0.0, 0.0
        self.total: float | None = None

    @contextmanager
    def task(self, name: str, total: float | None = None) -> Iterator[Task]:
        self.name, self.total, self.done = name, total, 0.0
        yield self

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self.done += amount
        if time.monotonic() - self.said > 30:
            self.said = time.monotonic()
            self.say(f"{self.name} {self.done:.0f} of {self.total or 0:.0f}, {note}")

    def say(self, message: str) -> None:
        print(f"{datetime.datetime.now():%H:%M:%S} {self.title}: {message}", flush=True)


def folder_of(out: Path, arm: str, seed: int) -> Path:
    return out / f"seed{seed}-{arm.replace(': ', '-').replace(' ', '-')}"


def campaign(options: argparse.Namespace) -> None:
    index, _, count = options.shard.partition("/")
    runs = [(seed, arm) for seed in options.seeds for arm in options.arms][int(index) :: int(count)]
    torch.set_num_threads(options.threads)
    data: ArrayData | None = None
    for seed, arm in runs:
        folder = folder_of(options.out, arm, seed)
        done = folder / "result.json"
        if done.exists():
            continue
        if data is None:
            data = sized(load_data(options.data), options.images)
        lines, start = Lines(f"seed {seed} {arm}"), time.monotonic()
        accuracies = ARMS[arm](data, folder, seed, options.epochs_scale, lines)
        seconds = time.monotonic() - start
        record = {"seed": seed, "arm": arm, "test_accuracy": accuracies, "threads": options.threads,
                  "epochs_scale": options.epochs_scale,
                  "seconds_since_last_start": round(seconds, 1)}  # fmt: skip
        write_atomic(done, json.dumps(record))
        lines.say(f"{accuracies} in {seconds / 60:.1f} min")


def spread(options: argparse.Namespace) -> None:
    """Test accuracy of the corners of the space and of 16 random subnets, for each trained supernet."""
    index, _, count = options.shard.partition("/")
    folders = sorted(path.parent for path in options.out.glob("seed*/supernet.pt"))
    data: ArrayData | None = None
    torch.set_num_threads(options.threads)
    for folder in folders[int(index) :: int(count)]:
        done = folder / "spread.json"
        if done.exists() or not (folder / "result.json").exists():
            continue
        if data is None:
            data = sized(load_data(options.data), options.images)
        run = json.loads((folder / "result.json").read_text())
        net = build_supernet(SPACE, data.n_classes)
        net.load_checkpoint(folder / "supernet.pt")
        archs = [*SPREAD.values(), *RANDOM]
        found = evaluate_subnets(
            net, archs, data, "test", cache_path=folder / "spread.jsonl", seed=run["seed"]
        )
        named = dict(zip(SPREAD, found.tolist(), strict=False))
        record = {"seed": run["seed"], "arm": run["arm"], "corners": named,
                  "random": found[len(SPREAD) :].tolist()}  # fmt: skip
        write_atomic(done, json.dumps(record))
        Lines(folder.name).say(f"random subnets {np.mean(record['random']):.4f}")


def spread_table(out: Path) -> list[dict[str, Any]]:
    """Mean over seeds, and what shrinking gains by seed, of each corner and of the mean of random subnets."""
    records = [json.loads(path.read_text()) for path in sorted(out.glob("seed*/spread.json"))]
    by_arm: dict[str, dict[int, dict[str, float]]] = {}
    for record in records:
        values = {**record["corners"], "16 random subnets": statistics.mean(record["random"])}
        by_arm.setdefault(record["arm"], {})[record["seed"]] = values
    shrunk, start = by_arm.get("shrinking", {}), by_arm.get("from the start", {})
    seeds = sorted(shrunk.keys() & start.keys())
    rows = []
    for name in [*SPREAD, "16 random subnets"] if seeds else []:
        of = {title: [100 * arm[seed][name] for seed in seeds]
              for title, arm in (("shrinking", shrunk), ("from the start", start))}  # fmt: skip
        gains = [a - b for a, b in zip(of["shrinking"], of["from the start"], strict=True)]
        error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
        rows.append({"subnets": name, **of, "gains": gains, "mean_gain": statistics.mean(gains),
                     "standard_error": error})  # fmt: skip
        means = " ".join(f"{statistics.mean(values):6.2f}" for values in of.values())
        each = " ".join(f"{gain:+.2f}" for gain in gains)
        print(f"{name:42} {means}  gain {statistics.mean(gains):+.2f} +- {error:.2f}:  {each}")
    return rows


def default_images() -> Path:
    beside = HERE.parents[1] / "shared" / "data"
    return Path(os.environ.get("OFA_TVM_DATA", beside)) / "images" / "cifar10_jpegbytes.npz"


def sized(data: Any, images: int | None) -> ArrayData:
    """The data, or for a trial run its first `images` training images."""
    if images is None:
        return data

    def thinned(array: np.ndarray, n: int) -> np.ndarray:
        return array[:: len(array) // n][:n]  # images may lie in order of class

    splits = {
        name: tuple(thinned(a, images if name == "train" else images // 4) for a in data._splits[name])
        for name in ("train", "val", "test")
    }
    return ArrayData(f"{data.name}-{images}", data.labels, data.preprocessing, splits, data.augmentation)  # type: ignore[arg-type]


def table(options: argparse.Namespace) -> None:
    runs = [json.loads(path.read_text()) for path in sorted(options.out.glob("seed*/result.json"))]
    found: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        title = "alone" if run["arm"].startswith("alone") else run["arm"]
        for corner, value in run["test_accuracy"].items():
            found.setdefault(title, {}).setdefault(corner, []).append(100 * value)
    rows = []
    print(f"{'':16}" + "".join(f"{corner + ' %':>22}" for corner in CORNERS))
    for title, corners in found.items():
        cells = []
        for corner in CORNERS:
            values = corners.get(corner, [])
            if values:
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                row = {
                    "arm": title,
                    "subnet": corner,
                    "mean": statistics.mean(values),
                    "stdev": spread,
                    "values": values,
                }
                rows.append(row)
                cells.append(f"{row['mean']:.2f} +- {spread:.2f} ({len(values)})")
            else:
                cells.append("-")
        print(f"{title:16}" + "".join(f"{cell:>22}" for cell in cells))
    by_seed = {arm: {r["seed"]: r["test_accuracy"]["min"] for r in runs if r["arm"] == arm}
               for arm in ("shrinking", "from the start")}  # fmt: skip
    gains = [100 * (value - by_seed["from the start"][seed]) for seed, value in by_seed["shrinking"].items()
             if seed in by_seed["from the start"]]  # fmt: skip
    if gains:
        print(
            "min subnet, shrinking less from the start, by seed, in points: "
            + ", ".join(f"{gain:+.2f}" for gain in gains)
        )
    logs = {
        path.parent.name: [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(options.out.glob("seed*/metrics.jsonl"))
    }
    record = {
        "space": {"name": SPACE.name, "subnets": SPACE.size,
                  "macs": {corner: SPACE.macs(arch, 10) for corner, arch in CORNERS.items()}},
        "epochs": EPOCHS, "gain_on_min_points": gains, "table": rows, "spread": spread_table(options.out),
        "runs": runs, "logs": logs,
    }  # fmt: skip
    save(options.results, record)
    print(f"written to {options.results}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, default=Path("shrinking_cifar"), help="folder of the runs")
    parser.add_argument("--data", type=Path, default=default_images(), help="CIFAR-10 as an .npz")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--shard", default="0/1", help="I/N: every N-th run, from the I-th")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs-scale", type=float, default=1.0, help="for a trial run")
    parser.add_argument("--images", type=int, help="training images, for a trial run")
    parser.add_argument("--spread", action="store_true", help="evaluate more subnets of what is trained")
    parser.add_argument("--table", action="store_true", help="show what is done, run nothing")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    try:
        if options.spread:
            spread(options)
        elif not options.table:
            campaign(options)
        table(options)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

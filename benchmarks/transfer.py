"""What transfer saves: speed against trials, with and without it: `python benchmarks/transfer.py`.

Kernels of one resolution are tuned three times, each kernel by itself: from nothing; with the records of the
space's other resolutions to start from; and from nothing with many trials, which stands for the optimum. The
table says how much of the best known speed the best schedule after k trials has, as a geometric mean.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from provenance import save

import ofa_tvm
from ofa_tvm.compiler.kernels import Kernel
from ofa_tvm.logs import KernelTable, Record, find_records, log_name
from ofa_tvm.targets import Target
from ofa_tvm.tuning import kernel_union, tune_kernels

RESULTS = Path(__file__).resolve().parent / "results" / "transfer.json"


def campaign(kernel: Kernel, target: Target, trials: int, start: KernelTable, seed: int) -> list[Record]:
    """Records of one kernel's campaign, in the order in which they were made; finals last."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # A kernel alone is of mean weight, so it gets exactly `trials`.
        tune_kernels([kernel], target, root, trials=trials, seed=seed, start=start)
        (log,) = (root / log_name(target)).glob("*.jsonl")
        return [Record.from_line(line) for line in log.read_text().splitlines()[1:]]


def best_after(records: Sequence[Record], trials: int) -> float:
    """Best time in microseconds among the first trials, each by the last time that was taken of it."""
    last = {json.dumps(r.trace): r.time_us for r in records}
    first = list(dict.fromkeys(json.dumps(r.trace) for r in records))[:trials]
    return min(last[trace] for trace in first)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--space", default="ofa_mbv3_w1.0")
    parser.add_argument("--target", default="x86")
    parser.add_argument("--resolution", type=int, default=160)
    parser.add_argument("--others", type=int, nargs="+", default=[128, 192, 224])
    parser.add_argument("--kernels", type=int, default=24, help="drawn by their share of the operations")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--many", type=int, default=128)
    parser.add_argument("--logs", type=Path, nargs="*", default=[], help="folders of tuning logs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()

    space, target = ofa_tvm.get_space(options.space), ofa_tvm.get_target(options.target)
    union = kernel_union(space, [options.resolution], target)
    elsewhere = {kernel.key for kernel in kernel_union(space, options.others, target).kernels}
    known = find_records(target, options.logs)
    others = KernelTable(records={k: r for k, r in known.records.items() if k in elsewhere})
    calls = union.mean_calls(space, [options.resolution])
    own = [k for k in union.kernels if k.key not in elsewhere and calls[k.key] * k.flops > 0]
    share = np.array([calls[k.key] * k.flops for k in own])
    rng = np.random.default_rng(options.seed)
    chosen = rng.choice(len(own), min(options.kernels, len(own)), replace=False, p=share / share.sum())

    rows = []
    for number in chosen:
        kernel = own[number]
        runs = {
            "from nothing": campaign(kernel, target, options.trials, KernelTable(), options.seed),
            "transfer": campaign(kernel, target, options.trials, others, options.seed),
            "many": campaign(kernel, target, options.many, KernelTable(), options.seed + 1),
        }
        rows.append(
            {
                "kernel": kernel.name,
                "many_us": best_after(runs["many"], options.many),
                **{
                    name: [best_after(runs[name], k) for k in range(1, options.trials + 1)]
                    for name in ("from nothing", "transfer")
                },
            }
        )
        print(f"{kernel.name}: {rows[-1]['many_us']:.1f} us after {options.many} trials; "
              f"{rows[-1]['from nothing'][-1]:.1f} from nothing, {rows[-1]['transfer'][-1]:.1f} by transfer",
              flush=True)  # fmt: skip
    best = np.array([min(row["many_us"], row["transfer"][-1], row["from nothing"][-1]) for row in rows])
    curves = {
        name: np.exp(np.log(best[:, None] / np.array([row[name] for row in rows])).mean(axis=0))
        for name in ("from nothing", "transfer")
    }
    many = float(np.exp(np.log(best / np.array([row["many_us"] for row in rows])).mean()))
    print(f"{'trials':>7} {'from nothing':>13} {'transfer':>9}   (share of the best known speed, "
          f"{len(rows)} kernels; {options.many} trials: {many:.3f})")  # fmt: skip
    for trials in sorted({1, 2, 4, 8, options.trials}):
        print(f"{trials:7} {curves['from nothing'][trials - 1]:13.3f} {curves['transfer'][trials - 1]:9.3f}")
    save(
        options.json,
        {
            "settings": vars(options) | {"logs": [str(p) for p in options.logs], "json": None},
            "speed": {name: curve.tolist() for name, curve in curves.items()} | {"many": many},
            "kernels": rows,
        },
    )


if __name__ == "__main__":
    main()

"""The tuning log as the latency table, against measured whole networks: `python benchmarks/kernel_sum.py`.

A few subnets are measured to fit the overhead, others to test the sum of their kernels' records. Records of
another machine (a log that ships) give the schedules but not this machine's times: run
`ofa-tvm tune --retime` first, and name its folder with --logs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from provenance import save
from scipy.stats import spearmanr

import ofa_tvm
from ofa_tvm.latency.bench import SubnetBench
from ofa_tvm.latency.log_model import kernel_sum_from_log
from ofa_tvm.logs import find_records
from ofa_tvm.tuning import kernel_union

RESULTS = Path(__file__).resolve().parent / "results" / "kernel_sum.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--space", default="ofa_mbv3_w1.0")
    parser.add_argument("--target", default="x86")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[128, 160, 192, 224])
    parser.add_argument("--fit", type=int, default=10, help="subnets that the overhead is fitted on")
    parser.add_argument("--test", type=int, default=30, help="subnets that the figures are of")
    parser.add_argument("--logs", type=Path, nargs="*", default=[], help="folders of tuning logs")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()

    space = ofa_tvm.get_space(options.space)
    target = ofa_tvm.get_target(options.target).with_threads(options.threads)
    records = find_records(target, options.logs)
    union = kernel_union(space, options.resolutions, target)
    own = sum(k.key in records.records and k.key not in records.foreign for k in union.kernels)
    print(f"{len(union.kernels)} kernels, {own} with times of this device")
    net = ofa_tvm.build_supernet(space, n_classes=1000).eval()
    rng = np.random.default_rng(options.seed)
    genes = space.sample_genes(rng, options.fit + options.test, options.resolutions)
    archs = space.decode(genes)
    with SubnetBench(net, target, records) as bench:
        measured = bench.measure(archs)
    latency = np.array([m.cost for m in measured])
    fit, test = slice(options.fit), slice(options.fit, None)
    rows = []
    for name, model in (
        ("plain sum", kernel_sum_from_log(space, union, records)),
        (
            f"fitted on {options.fit}",
            kernel_sum_from_log(space, union, records).fit(genes[fit], latency[fit]),
        ),
    ):
        predicted = model.predict(genes[test])
        relative = predicted / latency[test] - 1
        rows.append(
            {
                "model": name,
                "mape": float(100 * np.abs(relative).mean()),
                "bias": float(100 * relative.mean()),
                "worst": float(100 * np.abs(relative).max()),
                "spearman": float(spearmanr(predicted, latency[test]).statistic),
                "factor": model.factor_,
                "per_kernel_ms": model.per_kernel_,
                "per_mb_ms": model.per_mb_,
                "constant_ms": model.constant_,
            }
        )
        print(f"{name:14} MAPE {rows[-1]['mape']:.2f} %, bias {rows[-1]['bias']:+.2f} %, worst "
              f"{rows[-1]['worst']:.1f} %, Spearman {rows[-1]['spearman']:.4f} (factor {model.factor_:.3f}, "
              f"{1e3 * model.per_kernel_:.2f} us a kernel, {1e3 * model.per_mb_:.1f} us a MB of weights of "
              f"convolutions, {model.constant_:.4f} ms)")  # fmt: skip
    save(
        options.json,
        {
            "settings": vars(options) | {"logs": [str(p) for p in options.logs], "json": None},
            "kernels": len(union.kernels),
            "kernels_with_times_of_this_device": own,
            "results": rows,
            "measured_ms": latency.tolist(),
            "mad_ms": [m.mad_ms for m in measured],
            "archs": [arch.to_json() for arch in archs],
        },
    )


if __name__ == "__main__":
    main()

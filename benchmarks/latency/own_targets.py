"""Our own compiled latencies, each target left out: `python benchmarks/latency/own_targets.py FOLDER`.

FOLDER holds tables of `ofa-tvm collect`, one a target and thread count, collected on this machine, e.g.
`ofa-tvm collect --target x86-64-v3 --threads 2 --space ofa_digits -n 24 -o FOLDER/v3_t2.csv`. The targets
share one device and differ in instructions and threads, so here a target, not a device, is what is left out.
Prints zero-shot and 10-sample errors and writes `benchmarks/results/latency_own_targets.json`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from provenance import save

from ofa_tvm.latency.dataset import LatencyTable, read_table
from ofa_tvm.latency.generalized import GeneralizedLatency, Series, fit_families, reference_of
from ofa_tvm.latency.regression import errors
from ofa_tvm.targets import get_target
from ofa_tvm.targets.devices import Device, Platform

OUTPUT = Path(__file__).resolve().parents[1] / "results" / "latency_own_targets.json"
SAMPLES = 10


def platform_of(table: LatencyTable) -> Platform:
    """This machine, with the vector width of the column's target and the threads of the rows."""
    machine, target = get_target("x86").hardware, get_target(table.columns[0].target)
    bits = target.hardware.simd_bits or machine.simd_bits
    # Before x86-64-v3 there is no fused multiply-add: half the operations a cycle.
    units = (machine.fma_units or 1) * (1.0 if (bits or 0) > 128 else 0.5)
    cores, clock = machine.cores or 1, machine.clock_ghz or 1.0
    hardware = replace(
        machine,
        device=Path(table.path).stem,
        simd_bits=bits,
        peak_gflops=2 * cores * clock * (bits or 128) / 32 * units,
    )
    threads = int(table.meta[0]["threads"])
    return Platform(Device(Path(table.path).stem, target.kind, hardware), threads=threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    series = []
    for path in sorted(options.folder.glob("*.csv")):
        table = read_table(path)
        genes = table.space.encode(table.archs)
        name = path.stem
        ms = table.values[:, 0]
        series.append(Series(name, platform_of(table), table.space, genes, ms, "ofa-tvm", table.n_classes))
    references = {s.name: reference_of(s) for s in series}
    rows = []
    print(f"{'target':10} {'rows':>5} {'zero-shot':>10} {'rho':>6}   {SAMPLES} samples: error, rho, in 95 %")
    for s in series:
        rest = [other for other in series if other is not s]
        model = GeneralizedLatency()
        model.families = fit_families(rest)
        model.references = tuple(references[other.name] for other in rest)
        zero = errors(model.zero_shot(s.space, s.platform, s.source, s.n_classes)(s.genes), s.ms)
        found = []
        for seed in range(options.seeds):
            order = np.random.default_rng(seed).permutation(len(s.ms))
            train, test = order[:SAMPLES], order[SAMPLES:]
            estimator = model.prior(s.space, s.platform, s.source, s.n_classes)
            mean, std = estimator.fit(s.genes[train], s.ms[train]).predict(s.genes[test], return_std=True)
            inside = float((np.abs(mean - s.ms[test]) < 1.96 * std).mean())
            found.append(errors(mean, s.ms[test]) | {"within95": inside})
        adapted = {key: float(np.mean([f[key] for f in found])) for key in found[0]}
        rows.append({"target": s.name, "rows": len(s.ms), "zero_shot": zero, "adapted": adapted})
        print(
            f"{s.name:10} {len(s.ms):5} {zero['mape']:10.1%} {zero['spearman']:6.3f}   "
            f"{adapted['mape']:.1%} {adapted['spearman']:.3f} {adapted['within95']:.1%}",
            flush=True,
        )
    save(OUTPUT, {"space": series[0].space.name, "samples": SAMPLES, "seeds": options.seeds, "rows": rows})


if __name__ == "__main__":
    main()

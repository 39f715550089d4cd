"""Our own compiled latencies, each target left out: `python benchmarks/latency/own_targets.py FOLDER`.

FOLDER holds tables of `ofa-tvm collect`, one a target and thread count, collected on this machine, e.g.
`ofa-tvm collect --target x86-64-v3 --threads 2 --space ofa_digits -n 40 -o FOLDER/v3_t2.csv`. The targets
share one device and differ in instructions, threads and runtime (PoCL), so here a target, not a device, is
what is left out. Emulated targets are apart: their unit is millions of instructions, so that of the others'
milliseconds only the ranking can carry over; with 10 samples the model is in their own unit.
Prints zero-shot and 10-sample errors and writes `benchmarks/results/latency_own_targets.json`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from provenance import save

from ofa_tvm.estimators.metrics import errors
from ofa_tvm.latency.dataset import LatencyTable, read_table
from ofa_tvm.latency.families import fit_families
from ofa_tvm.latency.generalized import GeneralizedLatency
from ofa_tvm.latency.references import reference_of
from ofa_tvm.latency.series import Series
from ofa_tvm.targets import get_target
from ofa_tvm.targets.devices import Device, Platform

OUTPUT = Path(__file__).resolve().parents[1] / "results" / "latency_own_targets.json"
SAMPLES = 10


def platform_of(table: LatencyTable) -> Platform:
    """What ran: this machine's CPU, also through PoCL, or the board that an emulator stands for.

    Of this machine the target decides the vector width, and the rows the threads.
    """
    machine, target = get_target("x86").hardware, get_target(table.columns[0].target)
    name, threads = Path(table.path).stem, int(table.meta[0]["threads"])
    if target.emulated:
        return Platform(Device(name, target.kind, replace(target.hardware, device=name)), threads=threads)
    bits = target.hardware.simd_bits or machine.simd_bits
    # Before x86-64-v3 there is no fused multiply-add: half the operations a cycle.
    units = (machine.fma_units or 1) * (1.0 if (bits or 0) > 128 else 0.5)
    cores, clock = machine.cores or 1, machine.clock_ghz or 1.0
    hardware = replace(
        machine,
        device=name,
        simd_bits=bits,
        peak_gflops=2 * cores * clock * (bits or 128) / 32 * units,
    )
    return Platform(Device(name, "x86", hardware), threads=threads)


def row_of(s: Series, model: GeneralizedLatency, unit: str, seeds: int) -> dict[str, Any]:
    """Errors on one series of a model that does not know it: zero-shot and with samples."""
    zero: dict[str, float | None] = {
        **errors(model.zero_shot(s.space, s.platform, s.source, s.n_classes)(s.genes), s.ms)
    }
    if unit != "ms":  # milliseconds against instructions: only ranks compare
        zero = {key: zero[key] for key in ("n", "spearman", "kendall")}
    found = []
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(s.ms))
        train, test = order[:SAMPLES], order[SAMPLES:]
        estimator = model.prior(s.space, s.platform, s.source, s.n_classes)
        mean, std = estimator.fit(s.genes[train], s.ms[train]).predict(s.genes[test], return_std=True)
        inside = float((np.abs(mean - s.ms[test]) < 1.96 * std).mean())
        found.append(errors(mean, s.ms[test]) | {"within95": inside})
    adapted = {key: float(np.mean([f[key] for f in found])) for key in found[0]}
    return {"target": s.name, "unit": unit, "rows": len(s.ms), "zero_shot": zero, "adapted": adapted}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    series: list[Series] = []
    units: dict[str, str] = {}
    states: dict[str, dict[str, int]] = {}
    for path in sorted(options.folder.glob("*.csv")):
        table = read_table(path)
        genes, values = table.space.encode(table.archs), table.values[:, 0]
        series.append(
            Series(path.stem, platform_of(table), table.space, genes, values, "ofa-tvm", table.n_classes)
        )
        units[path.stem] = table.columns[0].unit
        states[path.stem] = {
            state: sum(bool(entry.get(state)) for entry in table.meta) for state in ("noisy", "drifted")
        }
    real = [s for s in series if units[s.name] == "ms"]
    references = {s.name: reference_of(s) for s in real}
    rows = []
    print(f"{'target':10} {'rows':>5} {'zero-shot':>10} {'rho':>6}   {SAMPLES} samples: error, rho, in 95 %")
    for s in series:
        rest = [other for other in real if other is not s]
        model = GeneralizedLatency()
        model.families = fit_families(rest)
        model.references = tuple(references[other.name] for other in rest)
        row = row_of(s, model, units[s.name], options.seeds) | states[s.name]
        rows.append(row)
        zero, adapted = row["zero_shot"], row["adapted"]
        error = f"{zero['mape']:10.1%}" if "mape" in zero else f"{row['unit']:>10}"
        print(
            f"{s.name:10} {len(s.ms):5} {error} {zero['spearman']:6.3f}   "
            f"{adapted['mape']:.1%} {adapted['spearman']:.3f} {adapted['within95']:.1%}"
            f"   {row['noisy']} noisy, {row['drifted']} drifted",
            flush=True,
        )
    save(OUTPUT, {"space": series[0].space.name, "samples": SAMPLES, "seeds": options.seeds, "rows": rows})


if __name__ == "__main__":
    main()

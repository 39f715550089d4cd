"""Fit the generalized model that ships: `python benchmarks/latency/fit_shipped.py`.

Reads the public measurements from `OFA_TVM_DATA`, else from `../shared/data` beside the checkout, and writes
`ofa_tvm/latency/data/generalized.model`. Sources, none of which is copied into the model as it stands:

- OFA-MobileNetV3 on GPUs at batch 1, 32 and 64: HELP (arXiv 2106.08630), github.com/HayeonLee/HELP, MIT;
- OFA-MobileNetV3 on RTX 2080 Ti and Tesla P40, and sums of a Note10's lookup table: arXiv 2101.00732,
  github.com/RhythmSyed/NAS_PerformanceEstimation, Apache-2.0; training rows only;
- FBNet, 20 columns of 12 devices: HELP and HW-NAS-Bench (arXiv 2103.10584), MIT.
"""

from __future__ import annotations

from pathlib import Path

from public_data import public_series

from ofa_tvm.latency.generalized import GeneralizedLatency

OUTPUT = Path(__file__).resolve().parents[2] / "ofa_tvm" / "latency" / "data" / "generalized.model"


def main() -> None:
    model = GeneralizedLatency().fit(public_series(), rows_used=2000)
    model.save(OUTPUT)
    for name, scores in model.validation_.items():
        print(f"{name:45} left out: {scores['mape']:7.1%}  rank correlation {scores['spearman']:.3f}")
    print(f"{OUTPUT}: {OUTPUT.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()

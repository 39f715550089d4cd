"""The README's figures: `python benchmarks/quickstart.py`.

Runs the quickstart (into a fresh folder unless `-o` names one to continue), prints its table and saves it
with machine, versions and date to benchmarks/results/quickstart.json.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from provenance import save

import ofa_tvm
from ofa_tvm.bars import RichProgress
from ofa_tvm.workflow.quickstart import quickstart
from ofa_tvm.workflow.quickstart_result import summary

RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, help="folder of a quickstart to continue")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=RESULTS / "quickstart.json")
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp(prefix="ofa-tvm-quickstart-"))
    result = quickstart(out, ofa_tvm.get_target("x86"), seed=options.seed, progress=RichProgress())
    content = summary(result)
    print("| subnet | M MACs | test accuracy | predicted | measured | ONNX Runtime | PyTorch |")
    print("|---|---|---|---|---|---|---|")
    for row in content["subnets"]:
        print(f"| {row['name']} | {row['macs'] / 1e6:.1f} | {row['test_accuracy']:.1%} | "
              f"{row['predicted_ms']:.4f} ms | {row['measured_ms']:.4f} ms | "
              f"{row['onnxruntime_ms']:.4f} ms | {row['pytorch_ms']:.3f} ms |")  # fmt: skip
    print(f"budget {result.budget}; {sum(result.stages.values()):.0f} s in all")
    del content["artefact"], content["images"]
    save(options.json, content)


if __name__ == "__main__":
    main()

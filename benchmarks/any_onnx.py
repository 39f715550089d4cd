"""Networks from outside against ONNX Runtime: `python benchmarks/any_onnx.py --models FOLDER`.

Every ONNX file under the folder (published networks, as the packages of `FOLDER` carry them; the environment
variable OFA_TVM_MODELS names it too) and the plain PyTorch networks of `plain_networks.py`, exported by
`torch.onnx`, are compiled, compared with ONNX Runtime on random input, and timed beside it in interleaved
rounds with the same number of threads: first with what the logs that ship hold, then after `--minutes` of
tuning each. What does not compile is listed with its reason. With `--only` the other rows of the JSON stay.

Tuning logs stay in `--logs`, where a stopped campaign goes on: `--no-timing` only tunes, on a busy machine,
and the same command with `--minutes 0` times what was tuned, on a quiet one.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from compiled_latency import ratio
from plain_networks import NETWORKS, network
from provenance import save

import ofa_tvm
from ofa_tvm.errors import UserError
from ofa_tvm.measurement import measure_callables
from ofa_tvm.targets import Target
from ofa_tvm.workflow.tune import model_kernels, tune

RESULTS = Path(__file__).resolve().parent / "results"
NUMPY = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64,
    "tensor(int32)": np.int32, "tensor(bool)": np.bool_,
}  # fmt: skip
# Sizes of dynamic inputs, by a part of the file's name.
SIZES: dict[str, dict[str, tuple[int, ...]]] = {
    "_det_": {"x": (1, 3, 640, 640)},
    "_rec_": {"x": (1, 3, 48, 320)},
    "_cls_": {"x": (1, 3, 48, 192)},
    "320n": {"images": (1, 3, 320, 320)},
    "nmp": {"serving_default_input_2:0": (1, 43844, 1)},
    "magika": {"bytes": (1, 2048)},
    "16k_sequence": {"input": (1, 576), "h": (1, 1, 128), "c": (1, 1, 128)},
    "openvino_16k": {"input": (1, 576), "state": (2, 1, 128)},
    "silero": {"input": (1, 512), "state": (2, 1, 128)},
}


def exported(folder: Path) -> list[Path]:
    """The plain networks as ONNX files, by torch's TorchScript exporter and its newer one."""
    import torch

    paths = []
    image = torch.zeros(1, 3, 224, 224)
    for name in NETWORKS:
        for dynamo in (False, True):
            path = folder / f"{name}{'_dynamo' if dynamo else ''}.onnx"
            names = {"input_names": ["input"], "output_names": ["output"]}
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    torch.onnx.export(network(name), (image,), str(path), dynamo=dynamo, **names)
            except Exception as error:  # the newer exporter needs onnxscript
                print(f"{path.stem}: not exported: {str(error).splitlines()[0]}", flush=True)
                continue
            paths.append(path)
    return paths


def sizes_of(path: Path) -> dict[str, tuple[int, ...]]:
    return next((shapes for part, shapes in SIZES.items() if part in str(path)), {})


def inputs_of(session: onnxruntime.InferenceSession, sizes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    inputs = {}
    for value in session.get_inputs():
        shape = sizes.get(value.name) or tuple(d if isinstance(d, int) else 1 for d in value.shape)
        dtype = NUMPY[value.type]
        drawn = rng.standard_normal(shape) if dtype in (np.float32, np.float64) else rng.integers(0, 2, shape)
        inputs[value.name] = np.asarray(drawn, dtype)
    return inputs


def timed(path: Path, so: Path, target: Target, logs: list[Path], seconds: float) -> dict[str, Any]:
    """One network compiled with `logs`, checked and timed beside ONNX Runtime."""
    sizes = sizes_of(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = target.threads, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = inputs_of(session, sizes)
    dynamic = {v.name: inputs[v.name].shape for v in session.get_inputs() if inputs[v.name].shape}
    made = ofa_tvm.compile(path, target, so, shape=dynamic, logs=logs)
    run = ofa_tvm.load(so)
    expected, got = session.run(None, inputs), run(*inputs.values())
    outputs = got if isinstance(got, tuple) else (got,)
    error = max(
        float(np.abs(a.astype(float) - b).max() / max(float(np.abs(b).max()), 1e-30))
        for a, b in zip(outputs, expected, strict=True)
        if b.size
    )
    values = list(inputs.values())
    subjects = {"ofa-tvm": lambda: run(*values), "onnxruntime": lambda: session.run(None, inputs)}
    results = measure_callables(subjects, target, seconds=seconds)
    return {
        "error": error,
        "tuned_fraction": made.tuned_fraction,
        "untemplated": sorted(use.name for use in made.kernels if use.origin == "none"),
        "ofa_tvm_ms": results["ofa-tvm"].cost,
        "onnxruntime_ms": results["onnxruntime"].cost,
        "ratio": ratio(results["ofa-tvm"], results["onnxruntime"]),
    }


def tuned(path: Path, target: Target, logs: Path, seconds: float) -> None:
    """Tune a network's kernels, those that stand for the most time first."""
    kernels = model_kernels(path, target, sizes_of(path) or None)
    weights = {kernel.key: float(kernel.calls) for kernel in kernels}
    result = tune(kernels, target, logs, trials=64, seconds=seconds, weights=weights)
    note = logs / "seconds.json"
    before = json.loads(note.read_text()) if note.exists() else 0.0
    note.write_text(json.dumps(before + result.seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=Path, default=os.environ.get("OFA_TVM_MODELS"), help="a folder")
    parser.add_argument("--target", default="x86")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=0, help="of tuning, each network")
    parser.add_argument("--seconds", type=float, default=5, help="of timing, each network")
    parser.add_argument("--logs", type=Path, help="folder that keeps the tuning logs, one for each network")
    parser.add_argument("--no-timing", action="store_true", help="tune only")
    parser.add_argument("--only", nargs="*", default=[], help="networks whose names contain one of these")
    parser.add_argument("--json", type=Path, default=RESULTS / "any_onnx.json")
    options = parser.parse_args()

    target = ofa_tvm.get_target(options.target).with_threads(options.threads)
    rows: dict[str, dict[str, Any]] = {}
    if options.only and options.json.exists():
        rows = {row["network"]: row for row in json.loads(options.json.read_text())["rows"]}
    print(f"{'network':32} {'ORT ms':>8} {'ratio':>6} {'tuned':>6} {'error':>8}  not by a template")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        published = sorted(options.models.rglob("*.onnx")) if options.models else []
        for path in [*exported(folder), *published]:
            row: dict[str, Any] = {"network": path.stem if path.stem != "model" else path.parts[-4]}
            if options.only and not any(part in str(path) for part in options.only):
                continue
            so, logs = folder / "network.so", (options.logs or folder) / f"{row['network']}-logs"
            try:
                if options.minutes:
                    tuned(path, target, logs, 60 * options.minutes)
                if options.no_timing:
                    continue
                row["untuned"] = timed(path, so, target, [], options.seconds)
                if logs.exists():
                    row["tuned"] = timed(path, so, target, [logs], options.seconds)
                    row["tuning_seconds"] = json.loads((logs / "seconds.json").read_text())
            except UserError as error:
                row["refused"] = str(error)
            except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument as error:
                row["refused"] = f"ONNX Runtime: {str(error).splitlines()[0]}"
            rows[row["network"]] = row
            untuned = row.get("untuned")
            if untuned is None:
                print(f"{row['network']:32} {row['refused'][:120]}", flush=True)
            else:
                after = f"{row['tuned']['ratio']:6.2f}" if "tuned" in row else "     -"
                print(
                    f"{row['network']:32} {untuned['onnxruntime_ms']:8.2f} {untuned['ratio']:6.2f} {after} "
                    f"{untuned['error']:8.1e}  {', '.join(n.split()[0] for n in untuned['untemplated'])}",
                    flush=True,
                )
            save(options.json, {"target": target.name, "threads": target.threads, "rows": [*rows.values()]})


if __name__ == "__main__":
    main()

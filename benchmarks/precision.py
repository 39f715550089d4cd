"""Number formats against each other and other runtimes': `python benchmarks/precision.py`.

Random subnets that nobody tuned for are quantised (every layer, by MinMax: time does not depend on ranges)
and compiled in float32, with float16 weights, in bfloat16, and in int8. All are timed on one image beside
ONNX Runtime in float32 and on the same quantised file, in interleaved rounds in this process, pinned, with
the same number of threads; ratios are paired by round. `--rivals openvino` adds OpenVINO in float32, in
bfloat16 and on the quantised file.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from compiled_latency import RESULTS, Subject, geometric, random_subnets, ratio
from provenance import save

import ofa_tvm
from ofa_tvm.export import export_onnx
from ofa_tvm.logs import find_records
from ofa_tvm.measurement import measure_callables
from ofa_tvm.number_formats import DType
from ofa_tvm.targets import Target

INTEGERS = "int8"
OURS: dict[str, tuple[DType, bool]] = {  # the target's format, and whether the model is quantised
    "float32": ("float32", False),
    "float16-weights": ("float16-weights", False),
    "bfloat16": ("bfloat16", False),
    INTEGERS: ("float32", True),
}
OPENVINO = {  # precision of what is not quantised (None: as OpenVINO chooses), and whether the model is
    "OpenVINO float32": ("f32", False),
    "OpenVINO bfloat16": ("bf16", False),
    "OpenVINO int8": (None, True),
    "OpenVINO int8, else float32": ("f32", True),
}
BASE, ORT_INTEGERS = "ONNX Runtime float32", "ONNX Runtime int8"
_PICTURES = 8


def files_of(subject: Subject, folder: Path, number: int) -> dict[bool, Path]:
    """The subnet in float32 (False) and quantised (True)."""
    single, quantised = folder / f"{number}.onnx", folder / f"{number}.int8.onnx"
    export_onnx(subject.net, single, resolution=subject.side)
    pictures = np.random.default_rng(number).standard_normal((_PICTURES, 3, subject.side, subject.side))
    ofa_tvm.quantize(single, pictures, quantised, method="minmax", accuracy_drop=100)
    return {False: single, True: quantised}


def compiled(
    files: dict[bool, Path], target: Target, records: Any, folder: Path, formats: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Each format's library with its size, the seconds that compiling takes, and how much is tuned."""
    found = {}
    for name in formats:
        dtype, quantised = OURS[name]
        so = folder / f"{files[False].stem}.{name}.so"
        os.environ["OFA_TVM_CACHE"] = str(folder / f"cache of {so.name}")  # every kernel is compiled
        start = time.perf_counter()
        module = ofa_tvm.compile(files[quantised], target.with_dtype(dtype), so, records=records)
        found[name] = {
            "so": so,
            "compile_s": time.perf_counter() - start,
            "bytes": so.stat().st_size,
            "tuned_fraction": module.tuned_fraction,
        }
    return found


def onnxruntime_call(path: Path, x: np.ndarray, threads: int) -> Callable[[], object]:
    """One inference of ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"input": x})


def openvino_call(path: Path, x: np.ndarray, threads: int, precision: str | None) -> Callable[[], object]:
    """One inference of OpenVINO."""
    import openvino

    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    if precision:
        settings["INFERENCE_PRECISION_HINT"] = precision
    request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    return lambda: request.infer({"input": x}, share_inputs=True, share_outputs=True)


def times(
    made: dict[str, dict[str, Any]], files: dict[bool, Path], target: Target, rivals: bool, seconds: float
) -> dict[str, tuple[float, float, float]]:
    """Milliseconds of every subject, its share of ONNX Runtime's float32 time, and its least milliseconds.

    The share is paired by round; the least of all rounds is what others on the machine disturbed least.
    """
    modules = {name: ofa_tvm.load(entry["so"]) for name, entry in made.items()}
    x = np.random.default_rng(0).standard_normal(modules["float32"].inputs[0].shape).astype(np.float32)
    calls: dict[str, Callable[[], object]] = {name: partial(run, x) for name, run in modules.items()}
    calls[BASE] = onnxruntime_call(files[False], x, target.threads)
    calls[ORT_INTEGERS] = onnxruntime_call(files[True], x, target.threads)
    for name, (precision, quantised) in OPENVINO.items() if rivals else ():
        calls[name] = openvino_call(files[quantised], x, target.threads, precision)
    timed = measure_callables(calls, target, seconds=seconds)
    return {name: (one.cost, ratio(one, timed[BASE]), min(one.samples_ms)) for name, one in timed.items()}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Geometric means over the subnets."""
    shares = {
        name: geometric([row["of_onnxruntime_float32"][name] for row in rows])
        for name in rows[0]["of_onnxruntime_float32"]
    }
    integers, least = shares[INTEGERS], [row["least_ms"] for row in rows]
    rivals = [name for name in shares if name not in OURS and ("int8" in name or "bfloat16" in name)]
    best = min(rivals, key=lambda name: shares[name])
    return {
        "of_onnxruntime_float32": shares,
        **({"bfloat16_of_float32": shares["bfloat16"] / shares["float32"]} if "bfloat16" in shares else {}),
        "int8_of_float32": integers / shares["float32"],
        "int8_of_float32_least": geometric([ms[INTEGERS] / ms["float32"] for ms in least]),
        "best_rival": best,
        "int8_of_best_rival": integers / shares[best],
        "int8_bytes_of_float32": geometric([r["bytes"][INTEGERS] / r["bytes"]["float32"] for r in rows]),
        "int8_compile_of_float32": geometric(
            [r["compile_s"][INTEGERS] / r["compile_s"]["float32"] for r in rows]
        ),
    }


def show(names: Sequence[str], values: Sequence[float], head: str) -> None:
    print(head + " ".join(f"{value:{len(name)}.3f}" for name, value in zip(names, values, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--space", default="ofa_mbv3_w1.0")
    parser.add_argument("--target", default="x86")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[160, 192, 224])
    parser.add_argument("-n", type=int, default=6, help="subnets")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--logs", type=Path, nargs="*", default=[], help="folders of tuning logs")
    parser.add_argument("--rivals", nargs="*", default=[], choices=["openvino"])
    parser.add_argument(
        "--formats", nargs="*", default=[name for name in OURS if name != "float32"], choices=OURS,
        help="ours beside float32; int8 has to be among them",
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=5.0, help="of timing, a subject")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path, default=RESULTS / "precision.json")
    options = parser.parse_args()

    target = ofa_tvm.get_target(options.target).with_threads(options.threads)
    records = find_records(target, options.logs)
    rows: list[dict[str, Any]] = []
    names: list[str] = []
    os.environ["TVM_BIND_THREADS"] = "0"  # the affinity that is set here is the one that counts
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        subnets = random_subnets(options.space, options.n, options.resolutions, options.seed)
        for number, subject in enumerate(subnets):
            files = files_of(subject, folder, number)
            made = compiled(files, target, records, folder, ["float32", *options.formats])
            found = times(made, files, target, bool(options.rivals), options.seconds)
            if not rows:
                names = list(found)
                print("   r int8/float32  ms: " + " ".join(names))
            row: dict[str, Any] = {"arch": subject.name, "r": subject.side, "macs": subject.macs}
            row |= {
                key: {name: entry[key] for name, entry in made.items()}
                for key in ("compile_s", "bytes", "tuned_fraction")
            }
            row["ms"] = {name: ms for name, (ms, _, _) in found.items()}
            row["of_onnxruntime_float32"] = {name: share for name, (_, share, _) in found.items()}
            row["least_ms"] = {name: least for name, (_, _, least) in found.items()}
            rows.append(row)
            share = found[INTEGERS][1] / found["float32"][1]
            show(names, list(row["ms"].values()), f"{subject.side:4} {share:12.3f}      ")
            sys.stdout.flush()
    means = summary(rows)
    show(names, list(means["of_onnxruntime_float32"].values()), "of ONNX Runtime float32: ".ljust(23))
    if "bfloat16" in options.formats:
        print(f"bfloat16: {means['bfloat16_of_float32']:.3f} of float32's time")
    print(
        f"int8: {means['int8_of_float32']:.3f} of float32's time (least times: "
        f"{means['int8_of_float32_least']:.3f}), {means['int8_of_best_rival']:.3f} of "
        f"{means['best_rival']}'s; library {means['int8_bytes_of_float32']:.2f}, compiling "
        f"{means['int8_compile_of_float32']:.2f} of float32's; {options.threads} thread(s)"
    )
    settings = vars(options) | {"logs": [str(path) for path in options.logs], "json": None}
    save(options.json, {"settings": settings, "rows": rows, **means})


if __name__ == "__main__":
    main()

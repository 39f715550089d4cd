"""What int8 costs the subnets of a supernet: CIFAR-10 in small, a small MobileNetV3-style space.

    python benchmarks/quantized_supernet.py            # everything; run it again after a kill
    python benchmarks/quantized_supernet.py --table    # what is done so far, and the results file

A supernet is trained in float32 and then, each from there, with the full net teaching and for as long:
  float32          no integers, what longer training alone gives
  observed         a map's range is the batch's own, later the calibration images' (what ships)
  learned factors  that range times two learned factors a map (BatchQuant, arXiv 2105.08952)
  learned ranges   two learned ends a map, the same for all subnets (LSQ+, arXiv 2004.09576)

Accuracies are of random subnets on the test images; a few are compiled as well. Predictors: the Gaussian
process fitted to all subnets but 20 in float32, moved by n of these in int8 (`transferred`), against what the
20 have in int8.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import save
from shrinking_cifar import ALL, HERE, RATE, SPACE, Lines, config, default_images, sized
from torch import Tensor, nn

from ofa_tvm.accuracy.correction import transferred
from ofa_tvm.accuracy.evaluate import evaluate_subnets
from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.files import write_atomic
from ofa_tvm.number_formats import Arithmetic
from ofa_tvm.supernet import Supernet, build_supernet, set_dtype
from ofa_tvm.supernet.fake_quantization import STEPS, MapQuantizer
from ofa_tvm.targets import get_target
from ofa_tvm.training import ArrayData, Phase, load_data, train
from ofa_tvm.workflow.compiled_check import check_compiled

RESULTS = HERE / "results" / "quantized_supernet.json"
SIDE = 24
SUBNETS = [SPACE.sample(np.random.default_rng(i)).replace(r=SIDE) for i in range(40)]
COMPILED = 3
HELD_OUT = 20
CALIBRATION = 1000
PHASES = (Phase("full", {}, 9, 1, RATE), Phase("all", ALL, 6, 1, RATE, 2, sort_channels=True))
QUANTIZE = Phase("quantize", ALL, 2, 0, RATE / 4, 2, quantize=True)

Range = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def learnable(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """On the grid between two values, with gradients for them as in LSQ (arXiv 1902.08153)."""
    scale = ((high.clamp(min=0) - low.clamp(max=0)) / STEPS).clamp(min=1e-8)
    zero = (-low.clamp(max=0) / scale).round().detach().clamp(0, STEPS)
    steps = x / scale
    steps = steps + (steps.round() - steps).detach()
    return torch.minimum(torch.maximum(steps, -zero), STEPS - zero) * scale


def damped(parameter: Tensor, count: int) -> Tensor:
    """With the gradient that LSQ gives a step size of so many values."""
    factor = 1 / math.sqrt(count * STEPS)
    return (parameter - parameter * factor).detach() + parameter * factor


@contextmanager
def learned(rule: str) -> Iterator[None]:
    """Let quantisers learn their ranges, by one of the rules, inside."""
    before = MapQuantizer.enable, MapQuantizer.disable, MapQuantizer.forward
    observe = MapQuantizer.forward

    def enable(self: Any, device: torch.device | None = None) -> None:
        if not self.enabled:
            before[0](self, device)
            self.ends = nn.Parameter(torch.zeros(2, device=device))

    def disable(self: Any) -> None:
        if self.enabled:
            before[1](self)
            del self.ends

    def forward(self: Any, x: Tensor) -> Tensor:
        if not self.enabled:
            return x
        with torch.no_grad():
            seen = x.aminmax()
            if self.training:
                observe(self, x)
            if rule == "learned ranges" and not self.ends.any():
                self.ends.copy_(torch.stack(seen))
        ends = damped(self.ends, x.numel())
        if rule == "learned ranges":
            return learnable(x, *ends)
        low, high = seen if self.training else (self.low, self.high)
        return learnable(x, low * ends[0].exp(), high * ends[1].exp())

    if rule.startswith("learned"):
        MapQuantizer.enable, MapQuantizer.disable, MapQuantizer.forward = enable, disable, forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        MapQuantizer.enable, MapQuantizer.disable, MapQuantizer.forward = before  # type: ignore[method-assign]


RULES = ("float32", "observed", "learned factors", "learned ranges")


def trained(path: Path) -> Supernet:
    net = build_supernet(SPACE, 10)
    net.load_checkpoint(path)
    return net


def evaluated(net: Supernet, dtype: Arithmetic, data: ArrayData, out: Path, lines: Lines) -> list[float]:
    set_dtype(net, dtype)
    found = evaluate_subnets(
        net, SUBNETS, data, "test", calibration_images=CALIBRATION, cache_path=out / "accuracy.jsonl",
        progress=lines,
    )  # fmt: skip
    return found.tolist()


def campaign(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    data, out = sized(load_data(options.data), options.images), options.out
    settings = config(PHASES, resolutions=(SIDE,), threads=1)
    base = train(settings, data, out / "base", space=SPACE, progress=Lines("base")).checkpoint
    record(out, "base", float32=evaluated(trained(base), "float32", data, out, Lines("base")),
           int8=evaluated(trained(base), "int8", data, out, Lines("base")))  # fmt: skip
    for rule in RULES:
        lines, phase = Lines(rule), QUANTIZE
        if rule == "float32":
            phase = Phase(phase.name, phase.open, phase.epochs, 0, phase.learning_rate, phase.subnets)
        with learned(rule):
            folder = out / rule.replace(" ", "-")
            result = train(
                settings.replace(phases=(phase,)), data, folder, space=SPACE, init=base, progress=lines
            )
            net = trained(result.checkpoint)
            dtype: Arithmetic = "float32" if rule == "float32" else "int8"
            record(out, rule, **{dtype: evaluated(net, dtype, data, out, lines)})
            if rule == "observed":
                record(out, rule, float32=evaluated(trained(result.checkpoint), "float32", data, out, lines),
                       compiled=[compiled(net, i, data) for i in range(COMPILED)])  # fmt: skip


def compiled(net: Supernet, index: int, data: ArrayData) -> dict[str, float]:
    arch = SUBNETS[index].replace(r=32)  # the least that is exported
    found = check_compiled(net, arch, data, "test", get_target("x86"), calibration_images=CALIBRATION)
    return {
        "images": found.images,
        "pytorch": found.pytorch,
        "compiled": found.compiled,
        "same": found.same,
    }


def record(out: Path, name: str, **values: Any) -> None:
    path = out / "results.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known.setdefault(name, {}).update(values)
    write_atomic(path, json.dumps(known))


def predictors(float32: list[float], int8: list[float]) -> list[dict[str, float]]:
    """Root mean square error on the held-out subnets, in points, by subnets evaluated in int8."""
    rest, held = slice(HELD_OUT, None), slice(0, HELD_OUT)
    model = AccuracyPredictor(SPACE).fit(SUBNETS[rest], 100 * np.array(float32[rest]))
    truth = 100 * np.array(int8[held])
    rows = []
    for n in (0, 1, 2, 4, 8, 12, 20):
        few = slice(HELD_OUT, HELD_OUT + n)
        moved = model if n == 0 else transferred(model, SUBNETS[few], 100 * np.array(int8[few]), "int8")
        error = moved.predict(SUBNETS[held]) - truth
        level = model.predict(SUBNETS[held]) - 100 * np.array(float32[held])
        rows.append({"subnets": n, "rmse": float(np.sqrt((error**2).mean())), "mean": float(error.mean()),
                     "rmse_in_float32": float(np.sqrt((level**2).mean()))})  # fmt: skip
    return rows


def table(options: argparse.Namespace) -> None:
    known = json.loads((options.out / "results.json").read_text())
    rows = []
    for name, values in known.items():
        for dtype in ("float32", "int8"):
            if dtype in values:
                accuracies = 100 * np.array(values[dtype])
                rows.append({"supernet": name, "dtype": dtype, "mean": float(accuracies.mean())})
                print(f"{name:16} {dtype:8} {accuracies.mean():6.2f} %")
    after = known.get("observed", {})
    learned_from: dict[str, Any] = {}
    for name, before, now in (
        ("post-training", known["base"].get("float32"), known["base"].get("int8")),
        ("after the phase", known.get("float32", {}).get("float32"), after.get("int8")),
    ):
        if before and now:
            drop = 100 * (np.array(before) - np.array(now))
            learned_from[name] = {
                "mean_drop": float(drop.mean()),
                "largest": float(drop.max()),
                "predictors": predictors(before, now),
            }
            print(f"{name}: {drop.mean():.2f} points on average, {drop.max():.2f} at most")
            for row in learned_from[name]["predictors"]:
                print(f"  {row['subnets']:3} in int8: RMSE {row['rmse']:.2f}, {row['mean']:+.2f} on average")
    for row in after.get("compiled", []):
        print(f"compiled {row['compiled']:.2%}, PyTorch {row['pytorch']:.2%}, the same {row['same']:.2%}")
    save(options.results, {"subnets": len(SUBNETS), "images": options.images, "side": SIDE, "table": rows,
                           "cost": learned_from, "runs": known})  # fmt: skip
    print(f"written to {options.results}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("quantized_supernet"), help="folder of the runs"
    )
    parser.add_argument("--data", type=Path, default=default_images(), help="CIFAR-10 as an .npz")
    parser.add_argument(
        "--images", type=int, default=10_000, help="training images; a quarter as many to test"
    )
    parser.add_argument("--table", action="store_true", help="show what is done, run nothing")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not options.table:
        options.out.mkdir(parents=True, exist_ok=True)
        campaign(options)
    table(options)


if __name__ == "__main__":
    main()

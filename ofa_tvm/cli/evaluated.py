"""What `ofa-tvm evaluate` answers: accuracies, what int8 costs, a compiled subnet's answers, a predictor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ofa_tvm.cli.console import Console
from ofa_tvm.cli.networks import post_training

if TYPE_CHECKING:
    from ofa_tvm.number_formats import Arithmetic
    from ofa_tvm.spaces import Arch, Space
    from ofa_tvm.supernet import Supernet
    from ofa_tvm.training.data import ImageData

_SHOWN = 50


def row(name: str, arch: Arch, space: Space, n_classes: int, accuracy: float) -> dict[str, Any]:
    """A subnet's line in the answer; the accuracy is 0..1."""
    return {
        "subnet": name,
        "arch": arch.to_dict(),
        "macs": space.macs(arch, n_classes),
        "params": space.params(arch, n_classes),
        "accuracy": accuracy,
    }


def show(
    console: Console, rows: Sequence[dict[str, Any]], archs: Sequence[Arch], split: str, cache: Path
) -> None:
    """Print the subnets with their accuracies, the first fifty of them."""
    console.table(
        ["subnet", "r", "M MACs", "M parameters", f"{split} accuracy", "architecture"],
        [
            [r["subnet"], a.r, r["macs"] / 1e6, r["params"] / 1e6, f"{r['accuracy']:.2%}", a.to_json()]
            for r, a in list(zip(rows, archs, strict=True))[:_SHOWN]
        ],
    )  # fmt: skip
    if len(rows) > _SHOWN:
        console.print(f"... and {len(rows) - _SHOWN} more, all in {cache}")


def say_cost(
    console: Console, net: Supernet, arch: Arch, data: ImageData, split: str, calibration: int, cache: Path,
    weights: Path, in_int8: float,
) -> None:  # fmt: skip
    """That these are accuracies after training, and what that costs the first subnet."""
    from ofa_tvm.accuracy.evaluate import evaluate_subnets
    from ofa_tvm.supernet import set_dtype

    set_dtype(net, "float32")
    (in_float32,) = evaluate_subnets(
        net, [arch], data, split, calibration_images=calibration, cache_path=cache, seed=console.seed
    )
    set_dtype(net, "int8")
    console.say(post_training(weights, "the first subnet", float(in_float32), in_int8))


def check(
    console: Console, net: Supernet, arch: Arch, data: ImageData, split: str, target: str, calibration: int
) -> dict[str, Any]:
    """Whether the subnet, compiled for the target, answers as PyTorch does; shown and as plain data."""
    from ofa_tvm.targets import get_target
    from ofa_tvm.training.data import split_name
    from ofa_tvm.workflow.compiled_check import check_compiled

    found = check_compiled(
        net, arch, data, split_name(split), get_target(target), calibration_images=calibration,
        seed=console.seed,
    )  # fmt: skip
    console.print(
        f"compiled for {target}, the first subnet has {found.compiled:.2%} of {found.images} images right, "
        f"{found.pytorch:.2%} by PyTorch; {found.same:.2%} of the answers are the same"
    )
    return {
        "target": target,
        "images": found.images,
        "accuracy": found.compiled,
        "pytorch": found.pytorch,
        "same": found.same,
    }


def fit(
    console: Console, space: Space, archs: Sequence[Arch], accuracies: np.ndarray, kind: str,
    dtype: Arithmetic, earlier: Path | None, path: Path,
) -> dict[str, Any]:  # fmt: skip
    """Fit a predictor to the accuracies, or correct an earlier one by them; how good it is, as plain data."""
    from ofa_tvm.accuracy.correction import transferred
    from ofa_tvm.accuracy.predictor import AccuracyPredictor
    from ofa_tvm.workflow.models import fit_accuracy

    # Of a subnet that was named twice one row counts.
    first = dict(zip(archs, accuracies.tolist(), strict=True))
    rows, values = list(first), np.array(list(first.values()))
    fitted = (
        fit_accuracy(space, rows, values, kind=kind, seed=console.seed, dtype=dtype)
        if earlier is None
        else transferred(AccuracyPredictor.load(earlier, space), rows, values, dtype)
    )
    fitted.save(path)
    name, v = fitted.METHOD, fitted.validation_
    console.print(
        f"{path}: {name} fitted to {len(first)} subnets; on {int(v['n'])} that it had not seen: RMSE "
        f"{100 * v['rmse']:.3f} points, rank correlation {v['spearman']:.4f}"
    )
    return {"path": str(path), "kind": name, "rmse": v["rmse"], "spearman": v["spearman"], "held_out": v["n"]}

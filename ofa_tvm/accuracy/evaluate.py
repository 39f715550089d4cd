"""Measured accuracy of subnets: calibrate each one's batch norm, count over a split, remember the answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ofa_tvm.errors import UserError
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.lines import append_line
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.spaces import Arch
from ofa_tvm.supernet import Supernet, dtype_of
from ofa_tvm.supernet.checkpoint import weights_hash
from ofa_tvm.training.data import ImageData, split_name
from ofa_tvm.training.validation import accuracy, calibrated_subnet


def evaluate_subnets(
    net: Supernet,
    archs: Sequence[Arch],
    data: ImageData,
    split: str = "val",
    *,
    calibration_images: int = 2000,
    cache_path: str | Path | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> npt.NDArray[np.float64]:
    """Accuracy (0..1) of every subnet at its own resolution, (n,).

    Each subnet is extracted and its batch-norm statistics are estimated on training images (and the ranges of
    its maps where the supernet computes in int8), so the supernet stays as it was. The sample of images
    depends on `seed` alone: an architecture's accuracy does not depend on which others are evaluated with it.

    Parameters
    ----------
    calibration_images
        Training images behind the statistics (2,000 in the paper).
    cache_path
        JSON lines of finished evaluations, read and extended; a killed call continues there. Lines count
        only for the same weights, data, split and calibration.

    Raises
    ------
    UsageError
        If an architecture is not in the supernet's space, or the split is unknown.
    UserError
        If the cache cannot be read or written.
    """
    which = split_name(split)
    for arch in archs:
        net.space.validate(arch)
    key = _evaluation_key(net, data, which, calibration_images, seed)
    known = _read_cache(cache_path, key)
    with progress.task("evaluate subnets", total=len(archs)) as bar:
        for arch in archs:
            if arch not in known:
                sub = calibrated_subnet(net, arch, data, calibration_images, seed)
                known[arch] = accuracy(sub, data, which, arch.r)
                if cache_path is not None:
                    line = {"key": key, "arch": arch.to_dict(), "accuracy": known[arch]}
                    append_line(cache_path, json.dumps(line))
            bar.advance(1, note=f"{known[arch]:.1%}")
    return np.array([known[arch] for arch in archs], dtype=np.float64)


def _evaluation_key(net: Supernet, data: ImageData, split: str, calibration_images: int, seed: int) -> str:
    preprocessing = json.dumps(data.preprocessing.to_dict(), sort_keys=True)
    parts = [net.space.name, weights_hash(net), data.fingerprint, preprocessing, split]
    parts += [str(min(calibration_images, data.size("train"))), str(seed)]
    if (dtype := dtype_of(net)) != "float32":
        parts.append(dtype)
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]


def _read_cache(cache_path: str | Path | None, key: str) -> dict[Arch, float]:
    known: dict[Arch, float] = {}
    if cache_path is None or not Path(cache_path).exists():
        return known
    try:
        content = Path(cache_path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {cache_path}: {error.strerror}") from error
    for line in content.split(b"\n"):
        try:
            record = parse_json(line)
            if record["key"] == key:
                value = record["accuracy"]
                if type(value) in (int, float) and 0 <= value <= 1:
                    known[Arch.from_dict(record["arch"])] = float(value)
        except (ValueError, KeyError, TypeError, UserError):
            continue  # cut short or no line of ours: evaluated again
    return known

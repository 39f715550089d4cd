"""Measured accuracy of subnets: calibrate each one's batch norm, count over a split, remember the answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ofa_tvm.accuracy.cache import AccuracyCache
from ofa_tvm.accuracy.shares import Claims, claims_file, share
from ofa_tvm.errors import UsageError
from ofa_tvm.job import Part, in_job
from ofa_tvm.progress import NEVER, SILENT, Deadline, Progress
from ofa_tvm.spaces import Arch
from ofa_tvm.supernet import Supernet, dtype_of
from ofa_tvm.supernet.checkpoint import weights_hash
from ofa_tvm.supernet.fake_quantization import WEIGHTS_GRID
from ofa_tvm.training.data import ImageData, split_name
from ofa_tvm.training.distributed import ALONE, Rank
from ofa_tvm.training.validation import accuracy, calibrated_subnet

_PHASE, _GUESSED_S = "evaluate subnets", 1.0


def evaluate_subnets(
    net: Supernet,
    archs: Sequence[Arch],
    data: ImageData,
    split: str = "val",
    *,
    calibration_images: int = 2000,
    cache_path: str | Path | None = None,
    rank: Rank = ALONE,
    deadline: Deadline = NEVER,
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
    rank
        Of several processes with the same arguments, which share the subnets through the cache, on one
        machine or on a file system that all have. Of rank 0 every accuracy is there; another one that waited
        in vain for one has NaN.
    deadline
        Once it is over no subnet is begun but the first; those that are missing have NaN.

    Raises
    ------
    UsageError
        If an architecture is not in the supernet's space, the split is unknown, or several processes have no
        cache to share.
    UserError
        If the cache cannot be read or written.
    """
    which = split_name(split)
    for arch in archs:
        net.space.validate(arch)
    key = evaluation_key(net, data, which, calibration_images, seed)
    shared = None
    if rank.processes > 1:
        if cache_path is None:
            raise UsageError("several processes share their evaluations through a cache; name its file")
        shared = claims_file(cache_path)
    cache = AccuracyCache(cache_path, key)
    wanted = list(dict.fromkeys(archs))

    def evaluate(arch: Arch) -> None:
        sub = calibrated_subnet(net, arch, data, calibration_images, seed)
        cache.add(arch, accuracy(sub, data, which, arch.r))

    ours, told = set(wanted), 0
    parts = [Part(_PHASE, _PHASE, len(wanted), _GUESSED_S)]
    with (
        in_job(progress, "evaluate", parts, deadline) as job,
        job.phase(_PHASE),
        job.task(_PHASE, total=len(wanted)) as bar,
    ):

        def tell() -> None:
            nonlocal told
            new = list(islice(cache.known, told, None))
            told += len(new)
            if done := ours.intersection(new):
                bar.advance(len(done), note=f"{cache.known[done.pop()]:.1%}")

        tell()
        if not ours <= cache.known.keys():
            with Claims(shared) as claims:
                share(wanted, cache, evaluate, claims, rank, tell, deadline)
            if shared is not None and not rank.index:
                shared.unlink(missing_ok=True)
    return np.array([cache.known.get(arch, np.nan) for arch in archs], dtype=np.float64)


def unevaluated(
    net: Supernet,
    archs: Sequence[Arch],
    data: ImageData,
    split: str = "val",
    *,
    calibration_images: int = 2000,
    cache_path: str | Path | None = None,
    seed: int = 0,
) -> list[Arch]:
    """Which subnets `evaluate_subnets` would have to evaluate, those that the cache lacks.

    Raises
    ------
    UserError
        If the cache cannot be read.
    """
    cache = AccuracyCache(cache_path, evaluation_key(net, data, split_name(split), calibration_images, seed))
    return [arch for arch in dict.fromkeys(archs) if arch not in cache.known]


def evaluation_key(net: Supernet, data: ImageData, split: str, calibration_images: int, seed: int) -> str:
    """Hex digest of all that an evaluation depends on besides the architecture."""
    preprocessing = json.dumps(data.preprocessing.to_dict(), sort_keys=True)
    parts = [net.space.name, weights_hash(net), data.fingerprint, preprocessing, split]
    parts += [str(min(calibration_images, data.size("train"))), str(seed)]
    if (dtype := dtype_of(net)) != "float32":
        parts.append(f"{dtype}, {WEIGHTS_GRID}")
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]

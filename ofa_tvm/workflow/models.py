"""Predictors that a project keeps: which kinds there are, fitted, and read from their files."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from ofa_tvm.accuracy.mlp import MLPAccuracyPredictor
from ofa_tvm.accuracy.official import load_official
from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.accuracy.table import AccuracyTable
from ofa_tvm.errors import UsageError, UserError, shown
from ofa_tvm.estimators.base import kind_among
from ofa_tvm.estimators.contract import AccuracyModel, CostModel
from ofa_tvm.estimators.metrics import spearman, within95
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.spaces import Arch, get_space
from ofa_tvm.spaces.space import Space
from ofa_tvm.workflow.project import find_project

_LARGEST_GP = 3000
_ACCURACY: tuple[type[AccuracyPredictor | MLPAccuracyPredictor], ...] = (
    AccuracyPredictor,
    MLPAccuracyPredictor,
)


@dataclass(frozen=True)
class KnownLatency:
    """A cost model of one target, and the subnets that it was measured with, in its unit."""

    model: CostModel
    measured: Mapping[Arch, float]


def fit_accuracy(
    space: Space,
    archs: Sequence[Arch],
    accuracies: np.ndarray,
    *,
    kind: str = "auto",
    seed: int = 0,
    dtype: str = "float32",
) -> AccuracyPredictor | MLPAccuracyPredictor:
    """A predictor of measured accuracies.

    Parameters
    ----------
    kind
        "gp" (the Gaussian process), "mlp" (the paper's 3x400 network), or "auto": the process up to 3,000
        subnets, beyond which its cost, the cube of their number, is no longer worth it.
    seed
        Of the network's weights.
    dtype
        What the subnets were evaluated in.

    Raises
    ------
    UsageError
        If the kind is unknown.
    UserError
        If there are too few subnets.
    """
    if kind not in ("auto", "gp", "mlp"):
        raise UsageError(f"unknown kind {shown(kind)} of accuracy predictor; use auto, gp or mlp")
    if kind == "mlp" or (kind == "auto" and len(archs) > _LARGEST_GP):
        return MLPAccuracyPredictor(space, seed=seed, dtype=dtype).fit(archs, accuracies)
    return AccuracyPredictor(space, dtype=dtype).fit(archs, accuracies)


def accuracy_space(path: Path, named: str | None) -> Space:
    """The space of an accuracy predictor: what its file says; else the one that is named, or the project's.

    Raises
    ------
    UserError
        If the file is missing.
    """
    if path.is_file() and _is_own_model(path):
        space = kind_among(path, _ACCURACY).load(path).space
        return space if named is None else get_space(named)
    return get_space(named or find_project().space)


def accuracy_scores(model: AccuracyModel, table: AccuracyTable) -> dict[str, float]:
    """How near predictions are to measured accuracies; errors in shares of 1."""
    predicted = model.predict(table.archs)
    gaps = predicted - table.accuracies
    scores = {
        "n": len(gaps),
        "rmse": float(np.sqrt((gaps**2).mean())),
        "bias": float(gaps.mean()),
        "spearman": spearman(predicted, table.accuracies),
    }
    if isinstance(model, AccuracyPredictor):
        mean, deviation = model.predict(table.archs, return_std=True)
        scores["within95"] = within95(mean, deviation, table.accuracies)
    return scores


def load_accuracy(path: Path, space: Space, dtype: str = "float32") -> AccuracyModel:
    """An own accuracy predictor, or a published one of Once-for-All, which is of float32.

    Parameters
    ----------
    dtype
        What the subnets compute in whose accuracy is wanted.

    Raises
    ------
    UsageError
        If it was made for another space or dtype.
    UserError
        If the file is missing or neither.
    """
    if not path.is_file():
        raise UserError(f"there is no accuracy predictor {path}")
    if _is_own_model(path):
        own = kind_among(path, _ACCURACY).load(path, space)
        model, of = cast("AccuracyModel", own), own.dtype
    else:
        model, of = load_official(path, space), "float32"
    if of != dtype:
        how = (
            f"--dtype {dtype} -n 12 --fit NEW --from {path}"
            if of == "float32"
            else f"--dtype {dtype} --fit NEW"
        )
        raise UsageError(
            f"the accuracy predictor {path} is of subnets in {of}, not in {dtype}; make one that is: ofa-tvm "
            f"evaluate {how}"
        )
    return model


def _is_own_model(path: Path) -> bool:
    """PyTorch's files are zip archives, too."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return "header.npy" in archive.namelist()


def load_latency(path: Path, space: Space) -> LatencyRegressor:
    """A fitted latency predictor.

    Raises
    ------
    UsageError
        If it was made for another space.
    UserError
        If the file is missing or no such predictor.
    """
    return LatencyRegressor.load(path, space)

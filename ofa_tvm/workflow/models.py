"""Predictors that a project keeps, read from their files."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ofa_tvm.accuracy.mlp import MLPAccuracyPredictor
from ofa_tvm.accuracy.official import load_official
from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.estimators.contract import AccuracyModel, CostModel
from ofa_tvm.estimators.files import model_kind
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.spaces import Arch
from ofa_tvm.spaces.space import Space


@dataclass(frozen=True)
class KnownLatency:
    """A cost model of one target, and the subnets that it was measured with, in its unit."""

    model: CostModel
    measured: Mapping[Arch, float]


def load_accuracy(path: Path, space: Space) -> AccuracyModel:
    """An own accuracy predictor, or a published one of Once-for-All.

    Raises
    ------
    UsageError
        If it was made for another space.
    UserError
        If the file is missing or neither.
    """
    if not path.is_file():
        raise UserError(f"there is no accuracy predictor {path}")
    if not _is_own_model(path):
        return load_official(path, space)
    kind = model_kind(path)
    predictor = (MLPAccuracyPredictor if kind == "accuracy_mlp" else AccuracyPredictor).load(path)
    if predictor.space.name != space.name:
        raise UsageError(f"the accuracy predictor {path} is for {predictor.space.name}, not {space.name}")
    return predictor


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
    model = LatencyRegressor.load(path)
    if model.space.name != space.name:
        raise UsageError(f"the latency predictor {path} is for {model.space.name}, not {space.name}")
    return model

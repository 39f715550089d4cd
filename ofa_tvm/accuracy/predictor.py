"""Accuracy of subnets, learned from few measured ones.

A Gaussian process over the genes: linear effects of what the whole network costs, of each stage and of each
block, and smooth deviations from them. How much each may explain is learned from the data. The linear
effects carry the model beyond the sampled subnets, where a search goes; far from all of them its uncertainty
grows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import ClassVar, Self

import numpy as np
from scipy.linalg import solve_triangular

from ofa_tvm.errors import UserError, shown
from ofa_tvm.estimators.base import Arrays, Header, SubnetEstimator
from ofa_tvm.estimators.contract import Function, LeftOut, UncertainSubnetModel, as_genes
from ofa_tvm.estimators.files import (
    FLAG,
    SCORES,
    TEXT,
    damaged,
    data_sha256,
    genes_array,
    learned_arrays,
    learned_of,
    rebuilding,
    space_of,
)
from ofa_tvm.estimators.gaussian import Posterior, fit
from ofa_tvm.estimators.metrics import spearman
from ofa_tvm.estimators.scales import Learned
from ofa_tvm.number_formats import DTYPES
from ofa_tvm.spaces import Arch, LayeredSpace, get_space
from ofa_tvm.spaces.blocks import block_structure
from ofa_tvm.spaces.space import Space


class _Features:
    """Views of a population that the kernels are made of, each centred and of unit length over random
    subnets."""

    def __init__(self, space: Space) -> None:
        self.space = space
        structure = block_structure(space)
        self._macs, self._params = (
            structure.tables(lambda layers: sum(layer.macs for layer in layers)),
            structure.tables(lambda layers: sum(layer.params for layer in layers)),
        )
        choices = [(gene, i) for gene, n in enumerate(space.cardinalities) if n <= 8 for i in range(n)]
        self._choice_genes, self._choices = np.array(choices, dtype=np.int64).reshape(-1, 2).T
        self._scales: dict[str, tuple[np.ndarray, float]] = {}
        for name, values in self._raw(space.sample_genes(np.random.default_rng(0), 1024)).items():
            centre = values.mean(axis=0)
            length = float(np.sqrt(((values - centre) ** 2).sum(axis=1).mean()))
            self._scales[name] = (centre, length or 1.0)

    def __call__(self, genes: np.ndarray) -> dict[str, np.ndarray]:
        """(n, n_genes) -> name -> (n, n_features)."""
        scaled = {}
        for name, values in self._raw(genes).items():
            centre, length = self._scales[name]
            scaled[name] = (values - centre) / length
        return scaled

    def _raw(self, genes: np.ndarray) -> dict[str, np.ndarray]:
        space = self.space
        active = space.active(genes)
        cardinalities = np.asarray(space.cardinalities)
        # Choices from -1 to 1, 0 where the gene does not count.
        ordinal = np.where(active, 2.0 * genes / np.maximum(cardinalities - 1, 1) - 1.0, 0.0)
        blocks = space.columns("e")
        on = active[:, blocks].astype(float)
        cost = np.column_stack([np.log(self._macs(genes)), np.log(self._params(genes))])
        resolution = ordinal[:, -1:]
        # Sums over each stage of depth, kernel and expand.
        starts = np.cumsum([0, *(stage.blocks for stage in space.stages[:-1])])
        sums = [np.add.reduceat(on, starts, axis=1), np.add.reduceat(ordinal[:, blocks], starts, axis=1)]
        kernels = space.columns("ks")
        if kernels.stop > kernels.start:
            sums.append(np.add.reduceat(ordinal[:, kernels], starts, axis=1))
        stage = np.hstack(sums)
        every = np.hstack([on, ordinal[:, :-1], 4.0 * resolution])
        choice = active[:, self._choice_genes] & (genes[:, self._choice_genes] == self._choices)
        return {
            "cost": cost,
            "resolution": np.column_stack([resolution, resolution**2]),
            "stage": stage,
            "block": np.hstack([on, ordinal[:, :-1]]),
            "choice": choice.astype(float),
            "every": every,
            "shape": np.hstack([stage, 2.0 * resolution]),
        }


# Linear effects, then smooth ones: (features, length scale or None, share of the variance expected
# beforehand).
_KERNELS: tuple[tuple[str, float | None, float], ...] = (
    ("cost", None, 0.3),
    ("resolution", None, 0.1),
    ("stage", None, 0.1),
    ("block", None, 0.05),
    ("choice", None, 0.02),
    ("every", 2.5, 0.02),
    ("shape", 1.5, 0.02),
    ("cost", 1.0, 0.05),
)
_EXPECTED_NOISE = 0.01
_CONSTANT = 4.0


def _smooth(a: np.ndarray, b: np.ndarray, length: float) -> np.ndarray:
    # In place: new arrays of this size cost as much as the exponential.
    values = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)
    values -= 2.0 * a @ b.T
    np.maximum(values, 0.0, out=values)
    values /= -2.0 * length**2
    return np.asarray(np.exp(values, out=values))


class AccuracyPredictor(UncertainSubnetModel, SubnetEstimator):
    """Estimator of a supernet's subnet accuracies.

    Parameters
    ----------
    space : Space
    robust : bool
        Weigh down rows that the others contradict.
    dtype : str
        What the subnets compute in.

    Attributes
    ----------
    noise_ : float
        Standard deviation of a measured accuracy around the model.
    loo_prediction_ : (n,) array
        Of each training row by the others.
    validation_ : dict
        Leave-one-out: n, rmse, spearman, and within95, the share inside the 95 % interval.
    """

    KIND = "accuracy_predictor"
    METHOD = "Gaussian process"  # for people
    FEATURES = tuple(f"{name}:{length or 'linear'}" for name, length, _ in _KERNELS)
    HEADER: ClassVar = {"space": TEXT, "robust": FLAG, "data_sha256": TEXT, "validation": SCORES}
    ARRAYS = ("genes", "accuracy", "log_variances")

    unit = ""
    space: Space

    def __init__(self, space: Space, *, robust: bool = True, dtype: str = "float32") -> None:
        self.space = space
        self.robust = robust
        self.dtype = dtype

    def fit(self, archs: Sequence[Arch] | np.ndarray, accuracy: np.ndarray) -> Self:
        """Fit to measured accuracies, in any unit.

        Parameters
        ----------
        archs : n architectures, or their genes (n, n_genes)
        accuracy : (n,) array

        Raises
        ------
        UserError
            If there are fewer than 2 rows, lengths differ, or an accuracy is not finite.
        """
        genes = as_genes(self.space, archs).astype(np.int64)
        accuracy = check_accuracies(genes, accuracy)
        self.genes_, self.accuracy_ = genes, accuracy
        self._condition(None)
        residuals, std = self._posterior.loo_residuals, self._posterior.loo_std
        self.validation_ = {
            "n": len(accuracy),
            "rmse": float(self._scale * np.sqrt((residuals**2).mean())),
            "spearman": spearman(self.loo_prediction_, accuracy),
            "within95": float((np.abs(residuals) < 1.96 * std).mean()),
        }
        return self

    @property
    def left_out(self) -> LeftOut:
        """Each training row by the others."""
        return LeftOut(self.accuracy_, self.loo_prediction_, self.validation_)

    def corrected(self, archs: Sequence[Arch], accuracies: np.ndarray) -> Function:
        """One fitted to its own rows and n more, whose measured accuracies (n,) replace its own ones.

        Raises
        ------
        UserError
            If an accuracy is not finite.
        """
        genes = np.concatenate([self.space.encode(archs), self.genes_])
        values = np.concatenate([accuracies, self.accuracy_])
        _, first = np.unique(self.space.canonical(genes), axis=0, return_index=True)
        return self.clone().fit(genes[first], values[first])

    def _condition(self, known: Learned | None) -> None:
        self._features = _Features(self.space)
        self._trained = self._features(self.genes_)
        self._mean = float(self.accuracy_.mean())
        self._scale = float(self.accuracy_.std()) or 1.0
        y = (self.accuracy_ - self._mean) / self._scale

        def kernel(name: str, length: float | None, constant: float) -> Callable[[np.ndarray], np.ndarray]:
            x = self._trained[name]
            if length is None:
                return lambda rows: x[rows] @ x[rows].T + constant
            return lambda rows: _smooth(x[rows], x[rows], length)

        kernels = [
            kernel(name, length, _CONSTANT if i == 0 else 0.0) for i, (name, length, _) in enumerate(_KERNELS)
        ]
        expected = np.log([*(share for _, _, share in _KERNELS), _EXPECTED_NOISE])
        self._posterior: Posterior = fit(kernels, y, expected, known=known, robust=self.robust)
        p = self._posterior
        self._weights = {
            name: v * (self._trained[name].T @ p.alpha)
            for v, (name, length, _) in zip(p.variances, _KERNELS, strict=True)
            if length is None
        }
        self._offset = float(_CONSTANT * p.variances[0] * p.alpha.sum())
        self.loo_prediction_ = self.accuracy_ - self._scale * p.loo_residuals
        self.noise_ = float(self._scale * np.sqrt(p.noise))

    def __call__(self, genes: np.ndarray) -> np.ndarray:
        """`predict` for genes; what searches call."""
        p, features = self._posterior, self._features(genes)
        values = np.full(len(genes), self._offset)
        for v, (name, length, _) in zip(p.variances, _KERNELS, strict=True):
            if length is None:
                values += features[name] @ self._weights[name]
            else:
                values += v * (_smooth(features[name], self._trained[name], length) @ p.alpha)
        return self._mean + self._scale * values

    def _std(self, genes: np.ndarray) -> np.ndarray:
        p = self._posterior
        out = np.empty(len(genes))
        for start in range(0, len(genes), 1024):
            features = self._features(genes[start : start + 1024])
            n = len(features["cost"])
            cross = np.full((n, len(self.genes_)), _CONSTANT * p.variances[0])
            own = np.full(n, _CONSTANT * p.variances[0])
            for v, (name, length, _) in zip(p.variances, _KERNELS, strict=True):
                x, trained = features[name], self._trained[name]
                cross += v * (x @ trained.T if length is None else _smooth(x, trained, length))
                own += v * ((x**2).sum(axis=1) if length is None else 1.0)
            solved = solve_triangular(p.factor[0], cross.T, lower=True, check_finite=False)
            out[start : start + 1024] = np.maximum(own - (solved**2).sum(axis=0), 0.0) + p.noise
        return self._scale * p.inflation * np.sqrt(out)

    def _stored(self) -> tuple[Header, Arrays]:
        header = {
            "space": self.space.name,
            "robust": self.robust,
            **dtype_entry(self.dtype),
            "data_sha256": data_sha256(self.genes_, self.accuracy_),
            "validation": self.validation_,
        }
        arrays = {"genes": self.genes_.astype(np.int16), "accuracy": self.accuracy_}
        return header, arrays | learned_arrays(self._posterior.learned)

    @classmethod
    def _restored(
        cls, path: str | os.PathLike[str], header: Header, arrays: Arrays, space: LayeredSpace | None
    ) -> Self:
        model = cls(
            space_of(path, header, get_space, space), robust=header["robust"], dtype=dtype_in(path, header)
        )
        model.genes_, model.accuracy_ = genes_array(path, model.space, arrays["genes"]), arrays["accuracy"]
        learned = learned_of(path, header, arrays, model.genes_, model.accuracy_, len(cls.FEATURES))
        model.validation_ = header["validation"]
        with rebuilding(path):
            model._condition(learned)
        return model


def dtype_entry(dtype: str) -> Header:
    """What a header says of the subnets' dtype: nothing of float32, as before there were others."""
    return {} if dtype == "float32" else {"dtype": dtype}


def dtype_in(path: str | os.PathLike[str], header: Header) -> str:
    """What the subnets of a file's model compute in.

    Raises
    ------
    UserError
        If there is no such dtype.
    """
    dtype = header.get("dtype", "float32")
    if dtype not in DTYPES:
        raise damaged(path, f"there is no dtype {shown(dtype, 40)}")
    return str(dtype)


def check_accuracies(genes: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Training values as float64, (n,).

    Raises
    ------
    UserError
        If there are fewer than 2, their number is not the subnets', or one is not finite.
    """
    accuracy = np.asarray(accuracy, dtype=np.float64)
    if len(genes) != len(accuracy) or len(accuracy) < 2:
        raise UserError(
            "an accuracy predictor needs as many accuracies as subnets, and at least two; "
            f"got {len(accuracy)} and {len(genes)}"
        )
    if not np.isfinite(accuracy).all():
        row = int(np.flatnonzero(~np.isfinite(accuracy))[0])
        raise UserError(f"the accuracy of sample {row} is {accuracy[row]}; measure it again")
    return accuracy

"""Latency of a target's subnets, learned from few measured ones.

The model is linear in groups of features that follow the network: physical quantities of the whole network
and of each stage, then one effect for every kind of block (kernel, expand, widths), for every block shape
(the same with its resolution) and for every position. Shapes are shared by the positions where they occur.
How much each group may explain is learned (see `gaussian`), so that 30 samples give a physical model and
7,000 a full table. Once fitted it collapses into one table a block. A first guess, and the directions in
which other targets differ from one another, come before all that where they are known (see `generalized`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from scipy import sparse

from ofa_tvm.errors import UserError
from ofa_tvm.estimators.base import Arrays, Header, SubnetEstimator
from ofa_tvm.estimators.contract import Function, UncertainSubnetModel, as_genes, checked_costs
from ofa_tvm.estimators.files import (
    CLASSES,
    FLAG,
    NUMBER,
    SCORES,
    TEXT,
    between,
    damaged,
    data_sha256,
    genes_array,
    learned_arrays,
    learned_of,
    space_of,
    tables_array,
    tables_of,
)
from ofa_tvm.estimators.gaussian import LinearPosterior, fit_linear
from ofa_tvm.estimators.metrics import errors
from ofa_tvm.estimators.scales import Learned
from ofa_tvm.latency.groups import GROUPS, context_matrices, incidence
from ofa_tvm.latency.suggest import telling_rows
from ofa_tvm.spaces import Arch, LayeredSpace, get_layered_space
from ofa_tvm.spaces.blocks import BlockTables, block_structure

# Log variances expected of each of `FEATURES`, in units of the latencies' variance; the last is the noise's.
_EXPECTED = np.log([1.0, 1.0, 0.1, 0.05, 0.05, 0.01, 0.01, 0.003, 0.003])
_EXPECTED_PRIOR = np.log([1.0, 0.1, 0.01, 0.003, 0.003, 0.001, 0.001, 0.0003, 0.003])
# Standard deviation, in that unit, of the constant that every fit is free to choose.
_CONSTANT = 2.0
# That unit in multiples of the latencies' level: by so much subnets of a space differ.
_VARIATION = 0.25

# Subnets that suggestions are chosen from, and measured ones that are taken into account.
_POOL, _MOST_MEASURED = 800, 600


@dataclass(frozen=True)
class _Fitted:
    """What conditioning on the training data gives: all that predictions need."""

    posterior: LinearPosterior
    scale: float
    factor: float
    tables: BlockTables


class LatencyRegressor(UncertainSubnetModel, SubnetEstimator):
    """Estimator of a target's latency.

    Parameters
    ----------
    space : Space
    prior : BlockTables or callable, optional
        A first guess (the kernel sum of the tuning log, a lookup table, another target's model). The model
        is then fitted to what the guess gets wrong: its scale, a constant, and the groups of features.
    target, unit : str
        Recorded in the saved file; the unit is "ms" or "Minstr".
    n_classes : int
        Of the subnets that were measured.
    robust : bool
        Weigh down rows that the others contradict (Student-t noise).
    variations : sequence of BlockTables
        Directions in which the latency may differ from the prior, each as large, in multiples of the latency,
        as one standard deviation of what is to be expected.
    width : float
        What deviations are multiplied by, where others than the rows tell how far off the model is (see
        `adaptation`).

    Attributes
    ----------
    tables : BlockTables
        The fitted model, collapsed (without the prior if that is a callable).
    noise_ : float
        Standard deviation of a measurement around the model, in the unit.
    loo_prediction_ : (n,) array
        Of each training row by the others.
    validation_ : dict
        Leave-one-out errors, see `ofa_tvm.estimators.metrics.errors`.
    """

    KIND = "latency_regressor"
    FEATURES = ("variations", *GROUPS)
    HEADER: ClassVar = {
        "space": TEXT,
        "target": TEXT,
        "unit": {"enum": ["ms", "Minstr"]},
        "n_classes": CLASSES,
        "robust": FLAG,
        "noise": NUMBER,
        "data_sha256": TEXT,
        "validation": SCORES,
        "width": {**between(0, 1e6), "default": 1.0},
    }
    ARRAYS = ("genes", "latency", "log_variances", "tables")

    def __init__(
        self,
        space: LayeredSpace,
        prior: BlockTables | Function | None = None,
        *,
        target: str = "",
        unit: str = "ms",
        n_classes: int = 1000,
        robust: bool = True,
        variations: Sequence[BlockTables] = (),
        width: float = 1.0,
    ) -> None:
        self.space = space
        self.prior = prior
        self.target = target
        self.unit = unit
        self.n_classes = n_classes
        self.robust = robust
        self.variations = variations
        self.width = width

    # ---- fitting ----

    def fit(self, archs: Sequence[Arch] | np.ndarray, latency: np.ndarray) -> Self:
        """Fit to measured latencies.

        Parameters
        ----------
        archs : n architectures, or their genes (n, n_genes)
        latency : (n,) array
            In the estimator's unit.

        Raises
        ------
        UserError
            If there are no rows, lengths differ, or a latency is not positive and finite.
        """
        genes, latency = checked_costs(as_genes(self.space, archs), np.asarray(latency, np.float64))
        self.genes_, self.latency_ = genes.astype(np.int64), latency
        fitted = self._fitted = self._condition(None)
        posterior = fitted.posterior
        self.tables, self._learned = fitted.tables, posterior.learned
        self.noise_ = float(np.sqrt(posterior.noise) * fitted.scale)
        self.validation_ = {}
        if len(latency) > 1:
            inside = np.abs(self.loo_deviations_) < 1.96 * self.width
            self.validation_ = errors(self.loo_prediction_, latency) | {"within95": float(inside.mean())}
        return self

    @cached_property
    def _fitted(self) -> _Fitted:
        """Of a model from a file, the same as after its `fit`; made when it is first asked for."""
        return self._condition(self._learned)

    @property
    def loo_prediction_(self) -> np.ndarray:
        """Of each training row by the others, (n,)."""
        return self.latency_ - self._fitted.posterior.loo_residuals * self._fitted.scale

    @property
    def loo_deviations_(self) -> np.ndarray:
        """How far each training row is from its prediction by the others, in the deviations that `width`
        multiplies, (n,)."""
        posterior = self._fitted.posterior
        return posterior.loo_residuals / posterior.loo_std

    def _condition(self, known: Learned | None) -> _Fitted:
        structure = block_structure(self.space, self.n_classes)
        # Unit: spread of the latencies in a typical space, so that one measurement is enough to have one.
        level = float(np.median(self.latency_))
        scale = _VARIATION * level
        # With a guess the whole of it may be off by a factor; without, only the level is free.
        factor, offset, guess = 1.0, level, np.zeros(len(self.latency_))
        if self.prior is not None:
            guess = self.prior(self.genes_)
            factor, offset = float(np.median(self.latency_ / np.maximum(guess, 1e-12))), 0.0
        y = (self.latency_ - offset - factor * guess) / scale
        guess_spread = self._guess_spread(self.genes_)
        p = fit_linear(
            self._features(self.genes_, guess_spread),
            y,
            self._expected,
            known=known,
            robust=self.robust,
            row_noise=self._row_noise(self.latency_),
        )
        variations, network, *others = p.weights
        network, constant, correction = network[:-2], network[-2], network[-1]
        groups = zip(context_matrices(structure), (network, *others), strict=True)
        flat = sum(matrix @ weights for matrix, weights in groups)
        tables = structure.unstacked(flat * scale, offset + scale * _CONSTANT * float(constant))
        for weight, variation in zip(variations, self.variations, strict=False):
            tables = tables + variation.scaled(float(weight) * scale / _VARIATION)
        if self.prior is not None:
            factor += scale * float(correction) / guess_spread
        if isinstance(self.prior, BlockTables):
            tables = tables + self.prior.scaled(factor)
        return _Fitted(p, scale, factor, tables)

    @property
    def _expected(self) -> np.ndarray:
        return _EXPECTED if self.prior is None else _EXPECTED_PRIOR

    def _guess_spread(self, genes: np.ndarray) -> float:
        """Standard deviation of the prior over a population, but no less than 5 % of its mean."""
        if self.prior is None:
            return 1.0
        guess = self.prior(genes)
        return max(float(np.std(guess)), 1e-12 + 0.05 * float(np.mean(guess)))

    def _features(self, genes: np.ndarray, guess_spread: float) -> list[sparse.csr_matrix]:
        """One matrix for each of `FEATURES`; the second also has the constant and the guess, whose scale is
        free."""
        structure = block_structure(self.space, self.n_classes)
        contexts = incidence(structure, genes)
        network, *others = ((contexts @ matrix).tocsr() for matrix in context_matrices(structure))
        free = np.full((len(genes), 2), _CONSTANT)
        free[:, 1] = 0.0 if self.prior is None else self.prior(genes) / guess_spread
        variations = np.zeros((len(genes), max(1, len(self.variations))))
        for column, variation in enumerate(self.variations):
            variations[:, column] = variation(genes) / _VARIATION
        return [sparse.csr_matrix(variations), sparse.hstack([network, free]).tocsr(), *others]

    def _row_noise(self, latency: np.ndarray) -> np.ndarray:
        """Noise variance of each row against that at the median latency: a share of it is in proportion."""
        return 0.5 + 0.5 * (latency / float(np.median(self.latency_))) ** 2

    def suggest(
        self,
        n: int,
        *,
        seed: int = 0,
        resolutions: Sequence[int] | None = None,
        candidates: np.ndarray | None = None,
    ) -> list[Any]:
        """The subnets whose measurements would tell most about all others.

        Greedy choice from a random pool: each subnet is the one that, together with those measured before,
        leaves the least variance in the pool. Latencies play no part, so an estimator that was not fitted
        yet, but has a prior, can be asked as well.

        Parameters
        ----------
        n : number of subnets
        resolutions : those to choose from, default all
        candidates : the pool, as genes; default 800 random subnets
        """
        if candidates is None:
            rng = np.random.default_rng(seed)
            candidates = self.space.sample_genes(rng, max(_POOL, n), resolutions)
        candidates = np.unique(self.space.canonical(candidates), axis=0)
        fitted = hasattr(self, "genes_")
        measured = self.genes_[:_MOST_MEASURED] if fitted else candidates[:0]
        log_variances = self._learned.log_variances if fitted else self._expected
        rows = np.concatenate([measured, candidates])
        features = self._features(rows, self._guess_spread(self.genes_ if fitted else candidates))
        chosen = telling_rows(features, log_variances, len(measured), n)
        return self.space.decode(rows[chosen])

    # ---- predicting ----

    @property
    def collapsed(self) -> Function:
        """The fitted model as plain tables where its prior allows, else the model itself."""
        return self if self._opaque_prior else self.tables

    @property
    def _opaque_prior(self) -> bool:
        return self.prior is not None and not isinstance(self.prior, BlockTables)

    def __call__(self, genes: np.ndarray) -> np.ndarray:
        """`predict` for genes; what searches call."""
        values = self.tables(genes)
        if self.prior is not None and self._opaque_prior:
            values = values + self._fitted.factor * self.prior(genes)
        return values

    def _std(self, genes: np.ndarray) -> np.ndarray:
        p, guess_spread = self._fitted.posterior, self._guess_spread(self.genes_)
        noise = p.noise * self._row_noise(np.maximum(self(genes), 0.0))
        out = np.empty(len(genes))
        for start in range(0, len(genes), 1024):
            piece = slice(start, start + 1024)
            out[piece] = p.spread(self._features(genes[piece], guess_spread)) + noise[piece]
        return np.sqrt(out) * self._fitted.scale * p.inflation * self.width

    # ---- files ----

    def _stored(self) -> tuple[Header, Arrays]:
        if self._opaque_prior:
            raise UserError(
                "a latency model whose prior is a function cannot be saved; give it as BlockTables"
            )
        header = {
            "space": self.space.name,
            "target": self.target,
            "unit": self.unit,
            "n_classes": self.n_classes,
            "robust": self.robust,
            "noise": self.noise_,
            "data_sha256": data_sha256(self.genes_, self.latency_),
            "validation": self.validation_,
            "width": self.width,
        }
        arrays = {
            "genes": self.genes_.astype(np.int16),
            "latency": self.latency_,
            "tables": tables_array(self.tables),
            **learned_arrays(self._learned),
        }
        if isinstance(self.prior, BlockTables):
            arrays["prior"] = tables_array(self.prior)
        if self.variations:
            arrays["variations"] = np.array([tables_array(variation) for variation in self.variations])
        return header, arrays

    @classmethod
    def _restored(
        cls, path: str | os.PathLike[str], header: Header, arrays: Arrays, space: LayeredSpace | None
    ) -> Self:
        space = space_of(path, header, get_layered_space, space)
        structure = block_structure(space, header["n_classes"])
        model = cls(
            space,
            tables_of(structure, arrays["prior"], path) if "prior" in arrays else None,
            target=header["target"],
            unit=header["unit"],
            n_classes=header["n_classes"],
            robust=header["robust"],
            width=header["width"],
            variations=[tables_of(structure, array, path) for array in arrays.get("variations", ())],
        )
        model.genes_, model.latency_ = genes_array(path, space, arrays["genes"]), arrays["latency"]
        groups = len(cls.FEATURES)
        model._learned = learned_of(path, header, arrays, model.genes_, model.latency_, groups)
        model.tables = tables_of(structure, arrays["tables"], path)
        model.noise_, model.validation_ = header["noise"], header["validation"]
        if not (model.latency_ > 0).all():
            raise damaged(path, "it holds latencies that are not above 0")
        return model

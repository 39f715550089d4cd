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
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import sparse

from ofa_tvm.errors import UserError
from ofa_tvm.estimators.contract import Function, UncertainSubnetModel, as_genes, resolutions_of
from ofa_tvm.estimators.files import (
    CLASSES,
    FLAG,
    NUMBER,
    SCORES,
    TEXT,
    check_fit,
    check_predictions,
    damaged,
    data_sha256,
    genes_array,
    read_model,
    space_of,
    tables_array,
    tables_of,
    write_model,
)
from ofa_tvm.estimators.gaussian import LinearPosterior, fit_linear
from ofa_tvm.estimators.metrics import errors
from ofa_tvm.latency.features import context_features
from ofa_tvm.spaces import Arch, Layer, LayeredSpace, get_layered_space
from ofa_tvm.spaces.blocks import (
    BlockStructure,
    BlockTables,
    block_structure,
    resolution_of_contexts,
    stacked_contexts,
)

KIND = "latency_regressor"
GROUPS = ("variations", "network", "stage", "kind", "kind_area", "shape", "position", "position_shape")

# Log variances expected of each group, in units of the latencies' variance; the last is the noise's.
_EXPECTED = np.log([1.0, 1.0, 0.1, 0.05, 0.05, 0.01, 0.01, 0.003, 0.003])
_EXPECTED_PRIOR = np.log([1.0, 0.1, 0.01, 0.003, 0.003, 0.001, 0.001, 0.0003, 0.003])
# Standard deviation, in that unit, of the constant that every fit is free to choose.
_CONSTANT = 2.0
# That unit in multiples of the latencies' level: by so much subnets of a space differ.
_VARIATION = 0.25

# Subnets that suggestions are chosen from.
_POOL = 800
_HEADER = {
    "space": TEXT,
    "target": TEXT,
    "unit": {"enum": ["ms", "Minstr"]},
    "n_classes": CLASSES,
    "robust": FLAG,
    "noise": NUMBER,
    "data_sha256": TEXT,
    "validation": SCORES,
}


def _kind(layers: Sequence[Layer]) -> tuple[tuple[object, ...], ...]:
    """A block's shape without its resolution."""
    return tuple(
        (la.kind, la.c_in, la.c_out, la.kernel, la.stride, la.activation, la.residual, la.groups)
        for la in layers
    )


def _shape(layers: Sequence[Layer]) -> tuple[object, ...]:
    return tuple((*kind, la.h_in) for kind, la in zip(_kind(layers), layers, strict=True))


def _indicators(keys: Sequence[object], values: np.ndarray | None = None) -> sparse.csr_matrix:
    """One column for each distinct key; None has no column."""
    numbers = {key: i for i, key in enumerate(dict.fromkeys(k for k in keys if k is not None))}
    rows = [i for i, key in enumerate(keys) if key is not None]
    columns = [numbers[keys[i]] for i in rows]
    data = np.ones(len(rows)) if values is None else values[rows]
    return sparse.csr_matrix((data, (rows, columns)), shape=(len(keys), max(1, len(numbers))))


@lru_cache(maxsize=8)
def _context_matrices(structure: BlockStructure) -> tuple[sparse.csr_matrix, ...]:
    """For each of `GROUPS`, the features of all contexts of all blocks stacked: (total contexts,
    n_features)."""
    physical = np.concatenate(context_features(structure))
    stages, kinds, shapes, positions, position_shapes = [], [], [], [], []
    resolutions = np.array(structure.space.resolutions)
    areas = (resolutions[resolution_of_contexts(structure)] / max(resolutions)) ** 2
    for block in structure.blocks:
        for layers in block.contexts:
            at = (block.stage, block.block)
            stages.append(block.stage if layers else None)
            kinds.append(_kind(layers) if layers else None)
            shapes.append(_shape(layers) if layers else None)
            positions.append((at, _kind(layers)) if layers else None)
            position_shapes.append((at, _shape(layers)) if layers else None)
    # Physical features are scaled to a spread of one over random subnets, so that a shared variance is fair.
    sample = _incidence(structure, structure.space.sample_genes(np.random.default_rng(0), 512))
    network = sparse.csr_matrix(physical)
    spread = (sample @ network).toarray().std(axis=0)
    network = network @ sparse.diags(np.where(spread > 1e-9, 1 / np.maximum(spread, 1e-9), 0.0))
    stage_of = _indicators(stages)
    by_stage = sparse.hstack([network.multiply(stage_of[:, [i]]) for i in range(stage_of.shape[1])]).tocsr()
    groups = [
        network.tocsr(),
        by_stage,
        _indicators(kinds),
        _indicators(kinds, areas),
        _indicators(shapes),
        _indicators(positions),
        _indicators(position_shapes),
    ]
    # Each group is scaled so that its weights' variance is the variance of its share of the latency.
    scaled = []
    for group in groups:
        features = (sample @ group).toarray()
        share = float(features.var(axis=0).sum())
        scaled.append(group / np.sqrt(share) if share > 0 else group)
    return tuple(scaled)


def _incidence(structure: BlockStructure, genes: np.ndarray) -> sparse.csr_matrix:
    """Which contexts each subnet uses: (n, total contexts), one entry a block."""
    index = stacked_contexts(structure, genes)
    n, n_blocks = index.shape
    size = sum(len(block.contexts) for block in structure.blocks)
    return sparse.csr_matrix(
        (np.ones(index.size), index.ravel(), np.arange(0, index.size + 1, n_blocks)), shape=(n, size)
    )


class LatencyRegressor(UncertainSubnetModel):
    """Estimator of a target's latency (scikit-learn's `fit`/`predict`).

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

    Attributes
    ----------
    tables : BlockTables
        The fitted model, collapsed (without the prior if that is a callable).
    noise_ : float
        Standard deviation of a measurement around the model, in the unit.
    validation_ : dict
        Leave-one-out errors, see `errors`.
    """

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
    ) -> None:
        self.space = space
        self.prior = prior
        self.target = target
        self.unit = unit
        self.n_classes = n_classes
        self.robust = robust
        self.variations = tuple(variations)

    # ---- fitting ----

    def fit(self, archs: Sequence[Arch] | np.ndarray, latency: np.ndarray) -> LatencyRegressor:
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
        genes = as_genes(self.space, archs)
        latency = np.asarray(latency, dtype=np.float64)
        if len(genes) != len(latency) or not len(latency):
            raise UserError(
                f"a latency model needs as many latencies as subnets, and at least one; "
                f"got {len(latency)} and {len(genes)}"
            )
        if bad := np.flatnonzero(~(np.isfinite(latency) & (latency > 0))).tolist():
            raise UserError(
                f"the latency of sample {bad[0]} is {latency[bad[0]]}; it must be above 0 and finite"
            )
        self.genes_, self.latency_ = genes.astype(np.int64), latency
        self._condition(None)
        return self

    def _condition(self, fixed: np.ndarray | None) -> None:
        structure = block_structure(self.space, self.n_classes)
        guess = np.zeros(len(self.latency_)) if self.prior is None else self.prior(self.genes_)
        # Unit: spread of the latencies in a typical space, so that one measurement is enough to have one.
        level = float(np.median(self.latency_))
        self._scale = _VARIATION * level
        # With a guess the whole of it may be off by a factor; without, only the level is free.
        self._factor = (
            1.0 if self.prior is None else float(np.median(self.latency_ / np.maximum(guess, 1e-12)))
        )
        self._offset = level if self.prior is None else 0.0
        y = (self.latency_ - self._offset - self._factor * guess) / self._scale
        self._guess_spread = 1.0
        if self.prior is not None:
            self._guess_spread = max(float(np.std(guess)), 1e-12 + 0.05 * float(np.mean(guess)))
        features = self._features(self.genes_)
        expected = _EXPECTED if self.prior is None else _EXPECTED_PRIOR
        self._posterior: LinearPosterior = fit_linear(
            features, y, expected, fixed=fixed, robust=self.robust, row_noise=self._row_noise(self.latency_)
        )
        p = self._posterior
        variations, network, *others = p.weights
        matrices = _context_matrices(structure)
        network, constant, factor = network[:-2], network[-2], network[-1]
        flat = sum(matrix @ weights for matrix, weights in zip(matrices, (network, *others), strict=True))
        shift = self._offset + self._scale * _CONSTANT * float(constant)
        residual = structure.unstacked(flat * self._scale, shift)
        for weight, variation in zip(variations, self.variations, strict=False):
            residual = residual + variation.scaled(float(weight) * self._scale / _VARIATION)
        if self.prior is not None:
            self._factor += self._scale * float(factor) / self._guess_spread
        self.tables = residual
        if isinstance(self.prior, BlockTables):
            self.tables = residual + self.prior.scaled(self._factor)
        self._log_variances = np.log(np.append(p.variances, p.noise))
        self.noise_ = float(np.sqrt(p.noise) * self._scale)
        predicted = self.latency_ - p.loo_residuals * self._scale
        self.loo_prediction_ = predicted
        self.validation_ = errors(predicted, self.latency_) if len(self.latency_) > 1 else {}
        if self.validation_:
            inside = np.abs(p.loo_residuals) < 1.96 * p.loo_std
            self.validation_["within95"] = float(inside.mean())

    def _features(self, genes: np.ndarray) -> list[sparse.csr_matrix]:
        """One matrix a group; the second also has the constant and the guess, whose scale is free."""
        structure = block_structure(self.space, self.n_classes)
        incidence = _incidence(structure, genes)
        network, *others = ((incidence @ matrix).tocsr() for matrix in _context_matrices(structure))
        free = np.full((len(genes), 2), _CONSTANT)
        free[:, 1] = 0.0 if self.prior is None else self.prior(genes) / self._guess_spread
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
        measured = np.zeros((0, candidates.shape[1]), dtype=np.int64)
        if hasattr(self, "genes_"):
            measured = self.genes_
            log_variances = self._log_variances
        else:
            log_variances = _EXPECTED if self.prior is None else _EXPECTED_PRIOR
            self._guess_spread = 1.0
            if self.prior is not None:
                guess = self.prior(candidates)
                self._guess_spread = max(float(np.std(guess)), 0.05 * float(np.mean(guess)))
        rows = np.concatenate([measured[:600], candidates])
        features = [
            np.sqrt(v) * f for v, f in zip(np.exp(log_variances[:-1]), self._features(rows), strict=True)
        ]
        stacked = sparse.hstack(features).tocsr()
        covariance = (stacked @ stacked.T).toarray()
        noise = float(np.exp(log_variances[-1]))
        first = len(rows) - len(candidates)
        chosen: list[int] = []
        for step in range(first + min(n, len(candidates))):
            if step < first:
                pick = step
            else:
                told = (covariance[first:] ** 2).sum(axis=0) / (np.diag(covariance) + noise)
                told[:first] = -1.0
                told[chosen] = -1.0
                pick = int(told.argmax())
                chosen.append(pick)
            column = covariance[:, pick].copy()
            covariance -= np.outer(column, column) / (column[pick] + noise)
        return self.space.decode(rows[chosen])

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Those of the training data."""
        return resolutions_of(self.space, self.genes_)

    @property
    def collapsed(self) -> Function:
        """The fitted model as plain tables where its prior allows, else the model itself."""
        return self if self._opaque_prior else self.tables

    @property
    def _opaque_prior(self) -> bool:
        return self.prior is not None and not isinstance(self.prior, BlockTables)

    # ---- predicting ----

    def __call__(self, genes: np.ndarray) -> np.ndarray:
        """`predict` for genes; what searches call."""
        values = self.tables(genes)
        if self.prior is not None and self._opaque_prior:
            values = values + self._factor * self.prior(genes)
        return values

    def _std(self, genes: np.ndarray) -> np.ndarray:
        if not hasattr(self, "_posterior"):  # read from a file
            self._condition(self._log_variances)
        p = self._posterior
        noise = p.noise * self._row_noise(np.maximum(self(genes), 0.0))
        out = np.empty(len(genes))
        for start in range(0, len(genes), 1024):
            piece = slice(start, start + 1024)
            out[piece] = p.spread(self._features(genes[piece])) + noise[piece]
        return np.sqrt(out) * self._scale * p.inflation

    # ---- files ----

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model as an npz file without pickles.

        Raises
        ------
        UserError
            If the prior is a callable (collapse it into `BlockTables` first), or the file cannot be written.
        """
        if self._opaque_prior:
            raise UserError(
                "a latency model whose prior is a function cannot be saved; give it as BlockTables"
            )
        header = {
            "space": self.space.name,
            "target": self.target,
            "unit": self.unit,
            "n_classes": self.n_classes,
            "features": list(GROUPS),
            "robust": self.robust,
            "noise": self.noise_,
            "data_sha256": data_sha256(self.genes_, self.latency_),
            "validation": self.validation_,
        }
        arrays: dict[str, np.ndarray] = {
            "genes": self.genes_.astype(np.int16),
            "latency": self.latency_,
            "log_variances": self._log_variances,
            "tables": tables_array(self.tables),
        }
        if isinstance(self.prior, BlockTables):
            arrays["prior"] = tables_array(self.prior)
        if self.variations:
            arrays["variations"] = np.array([tables_array(variation) for variation in self.variations])
        write_model(path, KIND, header, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LatencyRegressor:
        """Read what `save` wrote.

        Raises
        ------
        UserError
            If the file is missing or is no such model.
        """
        header, arrays = read_model(path, KIND, _HEADER, ("genes", "latency", "log_variances", "tables"))
        space = space_of(path, header, get_layered_space)
        model = cls(
            space,
            target=header["target"],
            unit=header["unit"],
            n_classes=header["n_classes"],
            robust=header["robust"],
        )
        structure = block_structure(space, model.n_classes)
        for name in ("tables", "prior"):
            if name in arrays:
                setattr(model, name, tables_of(structure, arrays[name], path))
        model.variations = tuple(tables_of(structure, array, path) for array in arrays.get("variations", ()))
        model.genes_, model.latency_ = genes_array(path, space, arrays["genes"]), arrays["latency"]
        model._log_variances = arrays["log_variances"]
        groups = len(_EXPECTED if model.prior is None else _EXPECTED_PRIOR) - 1
        check_fit(path, header, model.genes_, model.latency_, model._log_variances, groups)
        model.noise_, model.validation_ = header["noise"], header["validation"]
        if not (model.latency_ > 0).all():
            raise damaged(path, "it holds latencies that are not above 0")
        check_predictions(path, model)
        return model

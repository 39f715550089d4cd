"""The paper's accuracy predictor: a network of three layers of 400 (Once-for-All, section 3.4).

It learns slower than the Gaussian process of `predictor` and has no uncertainty, but its cost grows with the
number of subnets and not with its cube: it is for the paper's 16,000.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from ofa_tvm.accuracy.official import feed_forward
from ofa_tvm.accuracy.predictor import check_accuracies
from ofa_tvm.errors import UserError
from ofa_tvm.estimators.contract import SubnetModel, as_genes, resolutions_of
from ofa_tvm.estimators.files import (
    COUNT,
    NUMBER,
    SCORES,
    TEXT,
    check_predictions,
    damaged,
    genes_array,
    read_model,
    space_of,
    write_model,
)
from ofa_tvm.estimators.metrics import spearman
from ofa_tvm.spaces import Arch, get_space
from ofa_tvm.spaces.space import Space

_KIND = "accuracy_mlp"
_HEADER = {"space": TEXT, "seed": COUNT, "mean": NUMBER, "scale": NUMBER, "validation": SCORES}
_LAYERS = (400, 400, 400)
_HELD_OUT = 0.1


class MLPAccuracyPredictor(SubnetModel):
    """Estimator of a supernet's subnet accuracies (scikit-learn's `fit`/`predict`).

    The encoding is the published one's: a one-hot of every choice, zeros for blocks that depth switches off.

    Parameters
    ----------
    space : Space
    seed : int
        Of the first weights, the order of rows and the held-out ones.

    Attributes
    ----------
    validation_ : dict
        On a tenth of the rows, held out: n, rmse, spearman.
    """

    unit = ""
    space: Space

    def __init__(self, space: Space, *, seed: int = 0) -> None:
        self.space = space
        self.seed = seed

    def encode(self, genes: np.ndarray) -> np.ndarray:
        """(n, n_genes) -> (n, sum of choices) float32."""
        active = self.space.active(genes)
        hot = [
            active[:, [g]] & (genes[:, [g]] == np.arange(n)) for g, n in enumerate(self.space.cardinalities)
        ]
        return np.hstack(hot).astype(np.float32)

    def fit(self, archs: Sequence[Arch] | np.ndarray, accuracy: np.ndarray) -> MLPAccuracyPredictor:
        """Fit to measured accuracies, in any unit.

        Raises
        ------
        UserError
            If there are fewer than 20 rows, lengths differ, or an accuracy is not finite.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPRegressor

        genes = as_genes(self.space, archs).astype(np.int64)
        accuracy = check_accuracies(genes, accuracy)
        if len(genes) < 20:
            raise UserError("the 3x400 network needs at least 20 measured subnets; use the Gaussian process")
        order = np.random.default_rng(self.seed).permutation(len(genes))
        held, kept = np.split(order, [max(2, round(_HELD_OUT * len(order)))])
        self._mean, self._scale = float(accuracy[kept].mean()), float(accuracy[kept].std()) or 1.0
        x, y = self.encode(genes), (accuracy - self._mean) / self._scale
        network = MLPRegressor(
            hidden_layer_sizes=_LAYERS,
            alpha=1e-3,
            batch_size=min(64, len(kept) // 2),
            early_stopping=True,
            validation_fraction=_HELD_OUT,
            n_iter_no_change=30,
            max_iter=500,
            random_state=self.seed,
        )
        # The matrices are too small to share: waiting for a busy core costs more than the work.
        with warnings.catch_warnings(), threadpool_limits(limits=1, user_api="blas"):
            warnings.simplefilter("ignore", ConvergenceWarning)  # 500 passes are the limit that is meant
            network.fit(x[kept], y[kept])
        self.weights_ = tuple(w.astype(np.float32) for w in network.coefs_)
        self.biases_ = tuple(b.astype(np.float32) for b in network.intercepts_)
        self.genes_, self.accuracy_ = genes, accuracy
        predicted = self(genes[held])
        self.validation_ = {
            "n": len(held),
            "rmse": float(np.sqrt(np.mean((predicted - accuracy[held]) ** 2))),
            "spearman": spearman(predicted, accuracy[held]),
        }
        return self

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Those of the training data."""
        return resolutions_of(self.space, self.genes_)

    def __call__(self, genes: np.ndarray) -> np.ndarray:
        """`predict` for genes; what searches call."""
        return self._mean + self._scale * feed_forward(self.encode(genes), self.weights_, self.biases_)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the predictor and its data as an npz file without pickles.

        Raises
        ------
        UserError
            If the file cannot be written.
        """
        header = {
            "space": self.space.name,
            "seed": self.seed,
            "mean": self._mean,
            "scale": self._scale,
            "validation": self.validation_,
        }
        arrays = {"genes": self.genes_.astype(np.int16), "accuracy": self.accuracy_}
        arrays |= {f"weight{i}": w for i, w in enumerate(self.weights_)}
        arrays |= {f"bias{i}": b for i, b in enumerate(self.biases_)}
        write_model(path, _KIND, header, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MLPAccuracyPredictor:
        """Read what `save` wrote.

        Raises
        ------
        UserError
            If the file is missing, damaged, or no such predictor.
        """
        layers = range(len(_LAYERS) + 1)
        names = [f"{what}{i}" for what in ("weight", "bias") for i in layers]
        header, arrays = read_model(path, _KIND, _HEADER, ["genes", "accuracy", *names])
        model = cls(space_of(path, header, get_space), seed=header["seed"])
        model.weights_ = tuple(arrays[f"weight{i}"] for i in layers)
        model.biases_ = tuple(arrays[f"bias{i}"] for i in layers)
        model.genes_, model.accuracy_ = genes_array(path, model.space, arrays["genes"]), arrays["accuracy"]
        model._mean, model._scale = header["mean"], header["scale"]
        model.validation_ = header["validation"]
        if model.accuracy_.shape != (len(model.genes_),):
            raise damaged(path, "it has not an accuracy a subnet")
        check_predictions(path, model)
        return model

"""The paper's accuracy predictor: a network of three layers of 400 (Once-for-All, section 3.4).

It learns slower than the Gaussian process of `predictor` and has no uncertainty, but its cost grows with the
number of subnets and not with its cube: it is for the paper's 16,000.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
from threadpoolctl import threadpool_limits

from ofa_tvm.accuracy.correction import learn_error
from ofa_tvm.accuracy.official import feed_forward
from ofa_tvm.accuracy.predictor import check_accuracies, dtype_entry, dtype_in
from ofa_tvm.errors import UserError
from ofa_tvm.estimators.base import Arrays, Header, SubnetEstimator
from ofa_tvm.estimators.contract import Function, LeftOut, as_genes
from ofa_tvm.estimators.files import COUNT, NUMBER, SCORES, TEXT, damaged, genes_array, space_of
from ofa_tvm.estimators.metrics import spearman
from ofa_tvm.spaces import Arch, LayeredSpace, get_space
from ofa_tvm.spaces.space import Space

_LAYERS = (400, 400, 400)
_HELD_OUT = 0.1


class MLPAccuracyPredictor(SubnetEstimator):
    """Estimator of a supernet's subnet accuracies.

    The encoding is the published one's: a one-hot of every choice, zeros for blocks that depth switches off.

    Parameters
    ----------
    space : Space
    seed : int
        Of the first weights, the order of rows and the held-out ones.
    dtype : str
        What the subnets compute in.

    Attributes
    ----------
    validation_ : dict
        On a tenth of the rows, held out: n, rmse, spearman.
    """

    KIND = "accuracy_mlp"
    METHOD = "3x400 network"  # for people
    FEATURES = ("choices:one-hot",)
    HEADER: ClassVar = {"space": TEXT, "seed": COUNT, "mean": NUMBER, "scale": NUMBER, "validation": SCORES}
    ARRAYS = (
        "genes",
        "accuracy",
        *(f"{what}{i}" for what in ("weight", "bias") for i in range(len(_LAYERS) + 1)),
    )

    unit = ""
    space: Space

    def __init__(self, space: Space, *, seed: int = 0, dtype: str = "float32") -> None:
        self.space = space
        self.seed = seed
        self.dtype = dtype

    def encode(self, genes: np.ndarray) -> np.ndarray:
        """(n, n_genes) -> (n, sum of choices) float32."""
        active = self.space.active(genes)
        hot = [
            active[:, [g]] & (genes[:, [g]] == np.arange(n)) for g, n in enumerate(self.space.cardinalities)
        ]
        return np.hstack(hot).astype(np.float32)

    def fit(self, archs: Sequence[Arch] | np.ndarray, accuracy: np.ndarray) -> Self:
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
        held, kept = self._split(len(genes))
        self._mean = float(accuracy[kept].mean())
        # Of equal accuracies the network would learn nothing, and its first weights would be predictions.
        self._scale = float(accuracy[kept].std()) if np.ptp(accuracy[kept]) > 0 else 0.0
        x, y = self.encode(genes), (accuracy - self._mean) / (self._scale or 1.0)
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

    def _split(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Which of n rows are held out, and which it is fitted to."""
        order = np.random.default_rng(self.seed).permutation(n)
        held, kept = np.split(order, [max(2, round(_HELD_OUT * n))])
        return held, kept

    @property
    def left_out(self) -> LeftOut:
        """The rows that were held out."""
        held, _ = self._split(len(self.genes_))
        return LeftOut(self.accuracy_[held], self(self.genes_[held]), self.validation_)

    def corrected(self, archs: Sequence[Arch], accuracies: np.ndarray) -> Function:
        """Itself and its error on n subnets with measured accuracies (n,); see `learn_error`."""
        return learn_error(self.space, self, archs, accuracies)

    def __call__(self, genes: np.ndarray) -> np.ndarray:
        """`predict` for genes; what searches call."""
        return self._mean + self._scale * feed_forward(self.encode(genes), self.weights_, self.biases_)

    def _stored(self) -> tuple[Header, Arrays]:
        header = {
            "space": self.space.name,
            "seed": self.seed,
            **dtype_entry(self.dtype),
            "mean": self._mean,
            "scale": self._scale,
            "validation": self.validation_,
        }
        arrays = {"genes": self.genes_.astype(np.int16), "accuracy": self.accuracy_}
        arrays |= {f"weight{i}": w for i, w in enumerate(self.weights_)}
        return header, arrays | {f"bias{i}": b for i, b in enumerate(self.biases_)}

    @classmethod
    def _restored(
        cls, path: str | os.PathLike[str], header: Header, arrays: Arrays, space: LayeredSpace | None
    ) -> Self:
        model = cls(
            space_of(path, header, get_space, space), seed=header["seed"], dtype=dtype_in(path, header)
        )
        layers = range(len(_LAYERS) + 1)
        model.weights_ = tuple(arrays[f"weight{i}"] for i in layers)
        model.biases_ = tuple(arrays[f"bias{i}"] for i in layers)
        model.genes_, model.accuracy_ = genes_array(path, model.space, arrays["genes"]), arrays["accuracy"]
        model._mean, model._scale = header["mean"], header["scale"]
        model.validation_ = header["validation"]
        if model.accuracy_.shape != (len(model.genes_),):
            raise damaged(path, "it has not an accuracy a subnet")
        return model

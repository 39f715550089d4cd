"""The published accuracy predictors of Once-for-All, evaluated with numpy.

Encodings (mit-han-lab/once-for-all, file format of the released `acc_predictor.pth` and
`ofa_resnet50_acc_predictor.pth`): one-hots of every active block's choices, zeros for blocks that depth
switches off, and a one-hot of the resolution.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ofa_tvm.accuracy.correction import learn_error
from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.estimators.contract import Function, LeftOut, SubnetModel
from ofa_tvm.spaces import Arch
from ofa_tvm.spaces.space import Space

_MBV3_RESOLUTIONS = tuple(range(112, 225, 16))
_RESNET_RESOLUTIONS = (128, 144, 160, 176, 192, 224, 240, 256)


@dataclass(frozen=True, eq=False)
class OfficialPredictor(SubnetModel):
    """A published network of four linear layers with ReLU between them.

    Attributes
    ----------
    space : Space
    weights, biases : tuples of arrays
        Layer i maps by `x @ weights[i] + biases[i]`.
    base : float
        Added to the output.
    """

    unit = ""
    space: Space
    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    base: float = 0.0

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Resolutions that the encoding has a place for and the space allows."""
        known = _RESNET_RESOLUTIONS if self.space.family == "resnet" else _MBV3_RESOLUTIONS
        return tuple(r for r in self.space.resolutions if r in known)

    @property
    def left_out(self) -> LeftOut | None:
        """None: its training data were not published."""
        return None

    def corrected(self, archs: Sequence[Arch], accuracies: np.ndarray) -> Function:
        """Itself and its error on n subnets with measured accuracies (n,); see `learn_error`."""
        return learn_error(self.space, self, archs, accuracies)

    def encode(self, genes: np.ndarray) -> np.ndarray:
        """The published encoding of a population: (n, n_genes) -> (n, n_inputs) float32.

        Raises
        ------
        UsageError
            If a resolution has no place in the encoding.
        """
        space, n = self.space, len(genes)
        known = _RESNET_RESOLUTIONS if space.family == "resnet" else _MBV3_RESOLUTIONS
        slots = np.array([known.index(r) if r in known else -1 for r in space.resolutions])
        slot = slots[genes[:, -1]]
        if n and slot.min() < 0:
            r = space.resolutions[genes[int(slot.argmin()), -1]]
            raise UsageError(
                f"the published predictor of {space.name} does not know resolution {r}; "
                f"choose from {', '.join(map(str, self.resolutions))}"
            )
        resolution = np.eye(len(known), dtype=np.float32)[slot]
        active = space.active(genes)

        def one_hot(field: str, choices: int) -> np.ndarray:
            columns = space.columns(field)
            hot = np.eye(choices, dtype=np.float32)[genes[:, columns]]
            return (hot * active[:, columns, None]).reshape(n, hot.shape[1] * choices)

        if space.family == "resnet":
            stem = np.eye(2, dtype=np.float32)[genes[:, 0]]
            return np.hstack([resolution, stem, one_hot("w", 3), one_hot("e", 3)])
        return np.hstack([one_hot("ks", 3), one_hot("e", 3), resolution])

    def __call__(self, genes: np.ndarray) -> np.ndarray:
        """Top-1 accuracy (0..1) of a population: (n, n_genes) -> (n,)."""
        return feed_forward(self.encode(genes), self.weights, self.biases) + self.base


def feed_forward(x: np.ndarray, weights: Sequence[np.ndarray], biases: Sequence[np.ndarray]) -> np.ndarray:
    """Output (n,) of linear layers with ReLU between them for inputs (n, n_inputs)."""
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = np.maximum(x @ weight + bias, 0.0)
    return (x @ weights[-1] + biases[-1])[:, 0].astype(np.float64)


def load_official(path: str | os.PathLike[str], space: Space) -> OfficialPredictor:
    """Read a published predictor (a torch file of plain tensors).

    Raises
    ------
    UserError
        If the file is missing, damaged, not safe to load, or no such network.
    UsageError
        If it is for another space.
    """
    if not Path(path).is_file():
        raise UserError(f"the accuracy predictor {path} does not exist")
    from ofa_tvm.supernet.checkpoint import read_checkpoint  # needs torch, only to read the file

    state, _ = read_checkpoint(path)
    numbers = {key: v.float().numpy() for key, v in state.items() if not v.is_complex()}
    if len(numbers) < len(state) or not all(np.isfinite(v).all() for v in numbers.values()):
        raise UserError(f"{path} is not an accuracy predictor: its weights are not finite numbers")
    matrices = [key for key, v in numbers.items() if v.ndim == 2]
    weights = [numbers[key].T.copy() for key in matrices]
    biases = []
    for key, weight in zip(matrices, weights, strict=True):
        bias = numbers.get(key.removesuffix("weight") + "bias")  # the last layer may have none
        biases.append(np.zeros(weight.shape[1], np.float32) if bias is None else bias)
    base = float(numbers["base_acc"].reshape(-1)[0]) if numbers.get("base_acc", np.empty(0)).size else 0.0
    chained = all(a.shape[1] == b.shape[0] for a, b in pairwise(weights))
    fitting = all(b.shape == w.shape[1:] for w, b in zip(weights, biases, strict=True))
    if not weights or not chained or not fitting or weights[-1].shape[1] != 1:
        raise UserError(f"{path} is not a published accuracy predictor: its layers do not form a chain")
    predictor = OfficialPredictor(space, tuple(weights), tuple(biases), base)
    wrong_space = UsageError(
        f"{path} takes {weights[0].shape[0]} inputs, which is not the encoding of {space.name}: "
        "it was made for another space"
    )
    if not predictor.resolutions or (space.family == "mbconv" and space.n_blocks != 20):
        raise wrong_space
    largest = space.encode([space.max_arch(predictor.resolutions[-1])])
    if weights[0].shape[0] != predictor.encode(largest).shape[1]:
        raise wrong_space
    return predictor

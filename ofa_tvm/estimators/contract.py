"""How predictors are asked: what a search, a report or a stored file may count on.

A predictor is a function of a population's genes that also says what it is about: its space, its unit, and
the resolutions that it knows. A cost model is a predictor of what running a subnet costs on one target.
Searches take any object that has these; `FunctionCost` makes one of a plain function.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, overload

import numpy as np

from ofa_tvm.errors import UserError
from ofa_tvm.spaces import Arch, LayeredSpace

Function = Callable[[np.ndarray], np.ndarray]
"""Genes (n, n_genes) -> values (n,)."""


class Predictor(Protocol):
    """A quantity of a space's subnets."""

    @property
    def space(self) -> LayeredSpace:
        """Whose subnets."""

    @property
    def unit(self) -> str:
        """Of the predictions: "ms", "Minstr" (millions of guest instructions), or "" for shares of 1."""

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Resolutions that it knows, ascending: those of its tables, its encoding or its training data."""

    @property
    def collapsed(self) -> Function:
        """The quickest function of genes that predicts the same."""

    def __call__(self, genes: np.ndarray) -> np.ndarray:
        """`predict` for genes (n, n_genes) -> (n,); what searches call."""

    def predict(self, archs: Sequence[Arch] | np.ndarray) -> np.ndarray:
        """Predictions (n,) for n architectures or their genes, in `unit`."""


class CostModel(Predictor, Protocol):
    """What running a subnet costs on one target."""

    @property
    def n_classes(self) -> int:
        """Of the networks' classifier."""


@dataclass(frozen=True, eq=False)
class LeftOut:
    """How measured subnets are predicted by a model that was fitted without them.

    Attributes
    ----------
    measured, predicted : (n,) arrays
    errors : mapping of str to float
        At least n, rmse and spearman.
    """

    measured: np.ndarray
    predicted: np.ndarray
    errors: Mapping[str, float]


class AccuracyModel(Predictor, Protocol):
    """Accuracies of a supernet's subnets, 0..1."""

    @property
    def left_out(self) -> LeftOut | None:
        """How good it is; None where its training data are not known."""

    def corrected(self, archs: Sequence[Arch], accuracies: np.ndarray) -> Function:
        """A function of genes that knows the measured accuracies (n,) of n subnets besides."""


Correct = Callable[[CostModel, Sequence[Arch], np.ndarray], CostModel]
"""A cost model, n architectures and what they were measured to cost (n,), in its unit -> one that knows."""


def as_genes(space: LayeredSpace, archs: Sequence[Arch] | np.ndarray) -> np.ndarray:
    """A population as genes, whichever way it came: (n, n_genes)."""
    return archs if isinstance(archs, np.ndarray) else space.encode(archs)


def checked_costs(genes: np.ndarray, latency: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Genes (n, n_genes) and latencies (n,) as they are.

    Raises
    ------
    UserError
        If there are none, lengths differ, or a latency is not above 0 and finite.
    """
    if len(genes) != len(latency) or not len(latency):
        raise UserError(
            f"a latency model needs as many latencies as subnets, and at least one; "
            f"got {len(latency)} and {len(genes)}"
        )
    if bad := np.flatnonzero(~(np.isfinite(latency) & (latency > 0))).tolist():
        raise UserError(f"the latency of sample {bad[0]} is {latency[bad[0]]}; it must be above 0 and finite")
    return genes, latency


def resolutions_of(space: LayeredSpace, genes: np.ndarray) -> tuple[int, ...]:
    """Resolutions that occur in a population (n, n_genes), ascending."""
    return tuple(sorted(space.resolutions[i] for i in np.unique(genes[:, -1])))


class SubnetModel(ABC):
    """What `Predictor`s need not write themselves."""

    space: LayeredSpace

    @abstractmethod
    def __call__(self, genes: np.ndarray) -> np.ndarray:
        """`predict` for genes (n, n_genes) -> (n,); what searches call."""

    def predict(self, archs: Sequence[Arch] | np.ndarray) -> np.ndarray:
        """Predictions (n,) for n architectures or their genes, in the unit of the training data."""
        return self(as_genes(self.space, archs))

    @property
    def collapsed(self) -> Function:
        """The quickest function of genes that predicts the same."""
        return self


class UncertainSubnetModel(SubnetModel):
    """A `SubnetModel` that also knows how far off it may be."""

    @abstractmethod
    def _std(self, genes: np.ndarray) -> np.ndarray:
        """Standard deviation (n,) of a measurement around the prediction."""

    @overload
    def predict(self, archs: Sequence[Arch] | np.ndarray, return_std: Literal[False] = ...) -> np.ndarray: ...

    @overload
    def predict(
        self, archs: Sequence[Arch] | np.ndarray, return_std: Literal[True]
    ) -> tuple[np.ndarray, np.ndarray]: ...

    def predict(
        self, archs: Sequence[Arch] | np.ndarray, return_std: bool = False
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Predictions for a population, in the unit of the training data.

        Parameters
        ----------
        archs : n architectures, or their genes (n, n_genes)
        return_std : bool
            Also return the standard deviation of a measurement around the prediction.

        Returns
        -------
        (n,) array, or two of them
        """
        genes = as_genes(self.space, archs)
        mean = self(genes)
        return (mean, self._std(genes)) if return_std else mean


@dataclass(frozen=True, eq=False)
class FunctionCost(SubnetModel):
    """A cost model of a plain function, such as `BlockTables`.

    Parameters
    ----------
    space : LayeredSpace
    function : callable
        Genes (n, n_genes) -> costs (n,) in the unit.
    unit : str
    n_classes : int
    known : tuple of int, optional
        Resolutions that it holds for; by default all of the space's.
    """

    space: LayeredSpace
    function: Function
    unit: str = "ms"
    n_classes: int = 1000
    known: tuple[int, ...] | None = None

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Those that it holds for."""
        return self.space.resolutions if self.known is None else self.known

    @property
    def collapsed(self) -> Function:
        """The function itself."""
        return self.function

    def __call__(self, genes: np.ndarray) -> np.ndarray:
        """Costs (n,) of genes (n, n_genes)."""
        return self.function(genes)

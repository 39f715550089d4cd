"""Estimators: parameters from the constructor, `fit`, `clone`, and a file that gives the same predictions.

The constructor takes every parameter by its name and keeps it under that name, as in scikit-learn, so that
`clone` (and `sklearn.base.clone`) make an unfitted copy. What `fit` learns ends in an underscore. A model
that was loaded is as whole as one that was fitted.
"""

from __future__ import annotations

import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, TypeVar

import numpy as np

from ofa_tvm.errors import UsageError, shorten
from ofa_tvm.estimators.contract import SubnetModel, resolutions_of
from ofa_tvm.estimators.files import check_predictions, model_kind, read_model, write_model
from ofa_tvm.spaces import Arch, LayeredSpace

Header = dict[str, Any]
Arrays = dict[str, np.ndarray]


class Estimator(ABC):
    """Something that is fitted and kept in a file.

    Attributes
    ----------
    KIND : str
        Of its files.
    FEATURES : tuple of str
        Names of what it is fitted to; a file of other ones is refused.
    HEADER : mapping
        Schemas of the keys of its files' headers, all of which have to be there; files of older formats may
        lack those with a default.
    ARRAYS : tuple of str
        Arrays that its files have to have.
    """

    KIND: ClassVar[str]
    FEATURES: ClassVar[tuple[str, ...]]
    HEADER: ClassVar[Mapping[str, Any]]
    ARRAYS: ClassVar[tuple[str, ...]] = ()

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters of the constructor, by name; `deep` is scikit-learn's and makes no difference."""
        taken = list(inspect.signature(type(self).__init__).parameters.values())[1:]
        named = (p.name for p in taken if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        return {name: getattr(self, name) for name in named}

    def clone(self, **changes: Any) -> Self:
        """An unfitted estimator of the same parameters, but for the changes."""
        return type(self)(**{**self.get_params(), **changes})

    def __sklearn_clone__(self) -> Self:
        return self.clone()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as an npz file without pickles.

        Raises
        ------
        UserError
            If the file cannot be written, or the model holds something that no file can.
        """
        header, arrays = self._stored()
        write_model(path, self.KIND, {"features": list(self.FEATURES), **header}, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str], space: LayeredSpace | None = None) -> Self:
        """Read what `save` wrote.

        Parameters
        ----------
        space : LayeredSpace, optional
            Of its subnets; needed of one that has no name among those that ship and plugins.

        Raises
        ------
        UserError
            If the file is missing, damaged, or of another version.
        UsageError
            If it holds a model of another kind.
        """
        header, arrays = read_model(path, cls.KIND, cls.HEADER, cls.ARRAYS, cls.FEATURES)
        return cls._restored(path, header, arrays, space)

    @abstractmethod
    def _stored(self) -> tuple[Header, Arrays]:
        """What a file keeps of it."""

    @classmethod
    @abstractmethod
    def _restored(
        cls, path: str | os.PathLike[str], header: Header, arrays: Arrays, space: LayeredSpace | None
    ) -> Self:
        """The model that `_stored` these."""


class SubnetEstimator(Estimator, SubnetModel):
    """An estimator of a quantity of a space's subnets.

    Attributes
    ----------
    genes_ : (n, n_genes) array
        The subnets that it was fitted to.
    validation_ : dict
        How well it predicts what was left out.
    """

    genes_: np.ndarray
    validation_: dict[str, float]

    @abstractmethod
    def fit(self, archs: Sequence[Arch] | np.ndarray, values: np.ndarray, /) -> Self:
        """Fit to measured values (n,) of n architectures or their genes."""

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Those of the training data."""
        return resolutions_of(self.space, self.genes_)

    @classmethod
    def load(cls, path: str | os.PathLike[str], space: LayeredSpace | None = None) -> Self:
        """Read what `save` wrote.

        Parameters
        ----------
        space : LayeredSpace, optional
            The one that is wanted.

        Raises
        ------
        UserError
            If the file is missing, damaged, of another version, or gives no numbers.
        UsageError
            If it holds a model of another kind, or of another space.
        """
        model = super().load(path, space)
        if space is not None and model.space.name != space.name:
            raise UsageError(f"the predictor {path} is for {model.space.name}, not {space.name}")
        check_predictions(path, model)
        return model


E = TypeVar("E", bound=Estimator)


def kind_among(path: str | os.PathLike[str], kinds: Sequence[type[E]]) -> type[E]:
    """Which of some estimators a file holds.

    Raises
    ------
    UserError
        If the file is missing or no model file.
    UsageError
        If it holds another one.
    """
    kind = model_kind(path)
    for estimator in kinds:
        if kind == estimator.KIND:
            return estimator
    wanted = " or ".join(estimator.KIND for estimator in kinds)
    raise UsageError(f"{path} holds a {shorten(kind, 40)}, not a {wanted}")

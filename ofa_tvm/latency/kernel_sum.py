"""Latency as the sum of a subnet's kernel times, plus what running them as a network adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import nnls

from ofa_tvm.errors import UserError
from ofa_tvm.estimators.contract import Function, SubnetModel, as_genes
from ofa_tvm.spaces import Arch, Layer, LayeredSpace
from ofa_tvm.spaces.blocks import block_structure

_PULL = 0.1


class KernelSum(SubnetModel):
    """Sum of kernel times; `fit` adds the overhead seen in a few whole networks.

    latency = factor * sum + per_kernel * kernels + per_mb * weights + constant, none of them negative: a
    launch costs something, and weights that were last read an inference ago come from far away. (A layer on
    a single pixel does nothing but read its weights; the kernel's own time says what that costs.) The factor
    is pulled to 1 and the overheads to 0, so that one measurement is enough to start with.

    Parameters
    ----------
    space : Space
    block_cost : callable
        Kernel time of the layers of one block position (a tuple of `Layer`; the first and the last tuple are
        what lies before and behind the stages), e.g. from the tuning log's records. It is called once for
        each shape.
    n_classes : int
        Of the networks that the records are for.
    unit : str
        Of the records' costs.
    resolutions : sequence of int, optional
        Those that there are records for; by default all of the space's.

    Attributes
    ----------
    sum : BlockTables
        The plain sum.
    tables : BlockTables
        With the fitted overhead; equal to `sum` before `fit`. Serves as `LatencyRegressor`'s prior.
    factor_, per_kernel_, per_mb_, constant_ : float
    """

    def __init__(
        self,
        space: LayeredSpace,
        block_cost: Callable[[tuple[Layer, ...]], float],
        *,
        n_classes: int = 1000,
        unit: str = "ms",
        resolutions: Sequence[int] | None = None,
    ) -> None:
        self.space = space
        self.n_classes = n_classes
        self.unit = unit
        self.resolutions = tuple(sorted(space.resolutions if resolutions is None else resolutions))
        structure = block_structure(space, n_classes)
        known: dict[tuple[Layer, ...], float] = {}

        def entry(layers: tuple[Layer, ...]) -> float:
            if layers not in known:
                known[layers] = float(block_cost(layers))
            return known[layers]

        self.sum = structure.tables(entry)
        self._kernels = structure.tables(lambda layers: float(len(layers)))
        self._weights = structure.tables(_convolution_mb)
        self.factor_, self.per_kernel_, self.per_mb_, self.constant_ = 1.0, 0.0, 0.0, 0.0
        self.tables = self.sum

    def fit(self, archs: Sequence[Arch] | np.ndarray, latency: np.ndarray) -> KernelSum:
        """Fit factor and overheads to measured whole networks, (n,) in the unit of `block_cost`.

        Raises
        ------
        UserError
            If there is no measurement, or the kernel times are all zero.
        """
        genes = as_genes(self.space, archs)
        latency = np.asarray(latency, dtype=np.float64)
        total, kernels, weights = self.sum(genes), self._kernels(genes), self._weights(genes)
        if len(latency) == 0 or len(latency) != len(genes):
            raise UserError(f"the kernel sum needs one latency a subnet; got {len(latency)} for {len(genes)}")
        if not (total > 0).all():
            raise UserError("the kernel sum of a measured subnet is 0: the tuning log has no records for it")
        level = float(np.median(latency))
        # Columns in units of the latency's level; the last rows pull the factor to 1 and the overheads to 0.
        columns = [total / level, kernels / kernels.mean(), weights / weights.mean(), np.ones(len(latency))]
        relative = level / latency
        aim = np.array([_PULL, 0.0, 0.0, 0.0])
        (factor, per_kernel, per_mb, constant), _ = nnls(
            np.vstack([np.column_stack(columns) * relative[:, None], np.diag([_PULL] * len(columns))]),
            np.concatenate([np.ones(len(latency)), aim]),
        )
        self.factor_ = float(factor)
        self.per_kernel_ = float(per_kernel * level / kernels.mean())
        self.per_mb_ = float(per_mb * level / weights.mean())
        self.constant_ = float(constant * level)
        self.tables = (
            self.sum.scaled(self.factor_, self.constant_)
            + self._kernels.scaled(self.per_kernel_)
            + self._weights.scaled(self.per_mb_)
        )
        return self

    @property
    def collapsed(self) -> Function:
        """The tables."""
        return self.tables

    def __call__(self, genes: np.ndarray) -> np.ndarray:
        """Latency of a population, (n, n_genes) -> (n,)."""
        return self.tables(genes)


def _convolution_mb(layers: tuple[Layer, ...]) -> float:
    return sum(4e-6 * layer.params for layer in layers if layer.h_out > 1)

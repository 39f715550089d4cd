"""A first estimate of a target's latency, where nothing was measured and searches have to begin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ofa_tvm.errors import UserError
from ofa_tvm.estimators.contract import FunctionCost
from ofa_tvm.latency.features import FEATURE_NAMES, KERNEL_CLASSES, context_features
from ofa_tvm.latency.generalized import GeneralizedLatency
from ofa_tvm.latency.sources import choose_source
from ofa_tvm.spaces import LayeredSpace, get_layered_space
from ofa_tvm.spaces.blocks import block_structure, stacked_contexts
from ofa_tvm.targets.devices import Platform

# A space's mean subnet may have so many times more or less work than those that were measured.
_BEYOND = 2.0


@dataclass(frozen=True, eq=False)
class Estimate(FunctionCost):
    """Latencies of a device that was not measured; `spread` is their logarithm's standard deviation."""

    spread: float = 0.0

    @property
    def factor(self) -> float:
        """In 95 % of cases the true latency is at most so many times more or less."""
        return float(np.exp(1.96 * self.spread))


def first_estimate(
    model: GeneralizedLatency, space: LayeredSpace, platform: Platform, n_classes: int = 1000
) -> Estimate:
    """`zero_shot` for spaces like those that a model was fitted to.

    Raises
    ------
    UserError
        As `zero_shot`, and if the space's networks are smaller than any that the model was fitted to or
        do other work.
    """
    source = choose_source(model, space, platform, n_classes)
    tables = model.zero_shot(space, platform, source, n_classes)
    seen = {r.space: _work(get_layered_space(r.space), r.n_classes) for r in model.references}
    work = _work(space, n_classes)
    least = min(w.sum() for w in seen.values()) / _BEYOND
    most = _BEYOND * np.max(list(seen.values()), axis=0)
    if space.name not in seen and (work.sum() < least or (work > most).any()):
        raise UserError(
            f"the model was fitted to networks like those of {', '.join(sorted(seen))}, and the space "
            f"{space.name} is unlike them"
        )
    # The software is none of those that were measured, however it is estimated.
    return Estimate(space, tables, n_classes=n_classes, spread=model.deviation(platform))


def _work(space: LayeredSpace, n_classes: int) -> np.ndarray:
    """Millions of multiply-adds of a mean subnet in each kernel class."""
    structure = block_structure(space, n_classes)
    genes = space.sample_genes(np.random.default_rng(0), 64)
    features = np.concatenate(context_features(structure))[stacked_contexts(structure, genes)]
    macs = [FEATURE_NAMES.index(f"{kind}_macs") for kind in KERNEL_CLASSES]
    return np.asarray(features[..., macs].sum(axis=1).mean(axis=0))

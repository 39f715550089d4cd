"""Which data set's way of measuring a latency is meant: software and timing are part of its level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ofa_tvm.errors import UsageError, shown
from ofa_tvm.latency.generalized import GeneralizedLatency
from ofa_tvm.latency.references import Reference
from ofa_tvm.latency.series import family_of
from ofa_tvm.spaces import LayeredSpace
from ofa_tvm.targets.devices import Platform

# How much likelier, beforehand, a data set of the same space is, and one that also has the batch.
_SAME_SPACE, _SAME_BATCH = np.log(10.0), np.log(2.0)


@dataclass(frozen=True)
class Source:
    """A data set that a model was fitted to.

    Attributes
    ----------
    name : str
    references : tuple of Reference
        Its columns.
    levels : dict of str to float
        For each kind of device ("gpu", "cpu"), its level against the mean of all data sets of that kind.
    """

    name: str
    references: tuple[Reference, ...]
    levels: dict[str, float]

    @property
    def spaces(self) -> tuple[str, ...]:
        """In which it was measured, sorted."""
        return tuple(sorted({r.space for r in self.references}))

    @property
    def devices(self) -> tuple[str, ...]:
        """That were measured, sorted."""
        return tuple(sorted({r.device for r in self.references}))

    @property
    def batches(self) -> tuple[int, ...]:
        """Images an inference, ascending."""
        return tuple(sorted({r.batch for r in self.references}))


def list_sources(model: GeneralizedLatency) -> list[Source]:
    """The data sets of a model, by name."""
    names = {r.source for r in model.references}.union(*(f.sources for f in model.families.values()))
    found = []
    for name in sorted(names - {""}):
        levels = {
            kind: float(np.exp(family.sources[name] - np.mean(list(family.sources.values()))))
            for kind, family in model.families.items()
            if name in family.sources
        }
        found.append(Source(name, tuple(r for r in model.references if r.source == name), levels))
    return found


def require_source(model: GeneralizedLatency, name: str, space: LayeredSpace, platform: Platform) -> None:
    """Refuse a data set that says nothing of a device's kind in a space.

    Raises
    ------
    UsageError
        Lists those there are.
    """
    sources = {source.name: source for source in list_sources(model)}
    if name not in sources:
        raise UsageError(f"there is no source {shown(name, 60)} in the model; choose {_listed(sources)}")
    if space.name in sources[name].spaces:
        return
    fitting = [s for s in sources if space.name in sources[s].spaces]
    if fitting:
        raise UsageError(
            f"the source {name} was measured in {' and '.join(sources[name].spaces)}, not in {space.name}; "
            f"choose {_listed(fitting)}"
        )
    kind = family_of(platform)
    fitting = [s for s in sources if kind in sources[s].levels]
    if fitting and name not in fitting:
        raise UsageError(
            f"the source {name} has no {kind.upper()}, which {platform.device.name} is; "
            f"choose {_listed(fitting)}"
        )


def _listed(names: Sequence[str] | dict[str, Source]) -> str:
    return " or ".join(names) or "none"


def choose_source(
    model: GeneralizedLatency,
    space: LayeredSpace,
    platform: Platform,
    n_classes: int | None = None,
    measured: tuple[np.ndarray, np.ndarray] | None = None,
) -> str | None:
    """The data set whose way of measuring a device's latencies most likely are.

    Those of the same space come first, and among them those with the same batch; measurements count by how
    near each data set's prediction is to them, against how near predictions of unseen devices are.

    Parameters
    ----------
    measured : genes (n, n_genes) and latencies in ms (n,), optional

    Returns
    -------
    str or None
        None where nothing speaks for one: nothing was measured in the space, or no device of the kind was.
    """
    family = model.families.get(family_of(platform))
    if family is None:
        return None
    scores: dict[str, float] = {}
    for source in list_sources(model):
        if source.name not in family.sources:
            continue
        batches = {r.batch for r in source.references if r.space == space.name}
        scores[source.name] = _SAME_SPACE * bool(batches) + _SAME_BATCH * (platform.batch in batches)
        if measured is not None:
            genes, ms = measured
            gaps = np.log(model.zero_shot(space, platform, source.name, n_classes)(genes) / ms)
            scores[source.name] -= 0.5 * float(np.mean(gaps**2)) / family.spread**2
    best = max(scores, key=lambda name: scores[name], default=None)
    alike = len(scores) > 1 and len(set(scores.values())) == 1
    return None if alike else best

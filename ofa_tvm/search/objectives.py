"""What a search may trade: predicted latency and accuracy, and what follows from the shapes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ofa_tvm.errors import UsageError, shown
from ofa_tvm.estimators.contract import CostModel, Function
from ofa_tvm.spaces.blocks import block_structure
from ofa_tvm.spaces.network import Layer
from ofa_tvm.spaces.space import Space

_FLOAT32_BYTES = 4

NAMES = ("latency", "accuracy", "macs", "params", "memory", "size")


@dataclass(frozen=True)
class Objective:
    """One quantity of a subnet to make small, or large.

    Attributes
    ----------
    name : str
        One of `NAMES`.
    values : callable
        Genes (n, n_genes) -> (n,).
    unit : str
        Of the values; empty for counts and shares.
    maximise : bool
    """

    name: str
    values: Function
    unit: str
    maximise: bool = False

    @property
    def key(self) -> str:
        """Name with unit, as in JSON: latency_ms."""
        return f"{self.name}_{self.unit.lower()}" if self.unit else self.name


def peak_memory_mb(space: Space) -> Function:
    """Feature maps alive at once at the worst layer, float32, batch 1, in MB (10^6 bytes).

    A layer needs its input and its output; inside a residual block the block's input stays alive as well.
    Weights are not counted (see the objective "size"), and squeeze-and-excite's vectors are too small to.
    """
    structure = block_structure(space)
    tables = [np.array([_peak_bytes(c) for c in block.contexts]) for block in structure.blocks]
    flat = np.concatenate(tables) / 1e6
    offsets = np.cumsum([0, *(len(table) for table in tables[:-1])])

    def peak(genes: np.ndarray) -> np.ndarray:
        # The blocks run one after the other, so the worst of them counts.
        return np.asarray(flat[structure.contexts(genes) + offsets].max(axis=1, initial=0.0))

    return peak


def _peak_bytes(layers: Sequence[Layer]) -> int:
    layers = [la for la in layers if la.h_in > 1 or la.kind == "linear"]
    if not layers:
        return 0
    kept = layers[0].c_in * layers[0].h_in ** 2 if any(la.residual for la in layers) else 0
    alive = [
        la.c_in * la.h_in**2 + la.c_out * la.h_out**2 + (kept if i else 0) for i, la in enumerate(layers)
    ]
    return _FLOAT32_BYTES * max(alive)


def make_objectives(
    names: Sequence[str],
    space: Space,
    *,
    accuracy: Function | None = None,
    latency: Mapping[str, CostModel] | None = None,
    n_classes: int = 1000,
) -> tuple[Objective, ...]:
    """Objectives by name: latency and accuracy from the given predictors, the others from the shapes.

    Parameters
    ----------
    names : sequence of str
        Of `NAMES`.
    accuracy : callable, optional
    latency : mapping, optional
        Target -> its latency model; with several targets each one's latency is an objective of its own,
        named latency_<target>.
    n_classes : int
        Of the classifier, for MACs, parameters and size.

    Raises
    ------
    UsageError
        If a name is unknown or given twice, fewer than two are named, or a predictor is missing.
    """
    for name in names:
        if name not in NAMES:
            raise UsageError(f"unknown objective {shown(name)}; choose among {', '.join(NAMES)}")
    if len(set(names)) < max(2, len(names)):
        raise UsageError("a Pareto search needs at least two different objectives, such as latency,accuracy")
    for name, model in (("latency", latency), ("accuracy", accuracy)):
        if name in names and not model:
            raise UsageError(f"the objective {name} needs a predictor")

    def params(genes: np.ndarray) -> np.ndarray:
        return space.params_batch(genes, n_classes).astype(float)

    models = latency or {}
    made: dict[str, list[Objective]] = {
        "macs": [Objective("macs", lambda g: space.macs_batch(g, n_classes).astype(float), "")],
        "params": [Objective("params", params, "")],
        "size": [Objective("size", lambda g: _FLOAT32_BYTES * params(g) / 1e6, "MB")],
        "latency": [
            Objective("latency" if len(models) == 1 else f"latency_{target}", m, m.unit)
            for target, m in models.items()
        ],
    }
    if accuracy is not None:
        made["accuracy"] = [Objective("accuracy", accuracy, "", maximise=True)]
    if "memory" in names:
        made["memory"] = [Objective("memory", peak_memory_mb(space), "MB")]
    return tuple(objective for name in names for objective in made[name])

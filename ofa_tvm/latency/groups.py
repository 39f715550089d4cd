"""Features of the contexts of a space's blocks, in groups: what a linear latency model is fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import sparse

from ofa_tvm.latency.features import context_features
from ofa_tvm.spaces import Layer
from ofa_tvm.spaces.blocks import BlockStructure, resolution_of_contexts, stacked_contexts

GROUPS = ("network", "stage", "kind", "kind_area", "shape", "position", "position_shape")


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
def context_matrices(structure: BlockStructure) -> tuple[sparse.csr_matrix, ...]:
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
    sample = incidence(structure, structure.space.sample_genes(np.random.default_rng(0), 512))
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


def incidence(structure: BlockStructure, genes: np.ndarray) -> sparse.csr_matrix:
    """Which contexts each subnet uses: (n, total contexts), one entry a block."""
    index = stacked_contexts(structure, genes)
    n, n_blocks = index.shape
    size = sum(len(block.contexts) for block in structure.blocks)
    return sparse.csr_matrix(
        (np.ones(index.size), index.ravel(), np.arange(0, index.size + 1, n_blocks)), shape=(n, size)
    )

"""Physical features of the layers of a block: what a linear latency model is fitted on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofa_tvm.spaces import Layer
from ofa_tvm.spaces.blocks import BlockStructure

# Kernel classes whose cost per operation differs: a depthwise convolution is bound by memory, a pointwise
# one by arithmetic, a linear layer (classifier, squeeze-and-excitation) by reading its weights.
KERNEL_CLASSES = ("conv", "pointwise", "depthwise", "linear", "pool")

FEATURE_NAMES = tuple(
    f"{kind}_{what}" for kind in KERNEL_CLASSES for what in ("kernels", "macs", "activations", "weights")
)


def kernel_class(layer: Layer) -> str:
    """Class of a layer's kernel, one of `KERNEL_CLASSES`."""
    if layer.kind == "conv" and layer.kernel == 1:
        return "linear" if layer.h_out == 1 else "pointwise"
    return layer.kind


def layer_features(layers: Sequence[Layer]) -> np.ndarray:
    """Sums over layers, per kernel class: kernels, MACs, activation elements moved, weights read.

    Returns
    -------
    (len(FEATURE_NAMES),) float64 array
        In kernels, millions of MACs, thousands of elements, thousands of weights.
    """
    sums = np.zeros((len(KERNEL_CLASSES), 4))
    for layer in layers:
        moved = layer.c_in * layer.h_in**2 + layer.c_out * layer.h_out**2
        if layer.residual:
            moved += layer.c_out * layer.h_out**2
        sums[KERNEL_CLASSES.index(kernel_class(layer))] += (
            1.0,
            layer.macs / 1e6,
            moved / 1e3,
            layer.params / 1e3,
        )
    return sums.ravel()


def context_features(structure: BlockStructure) -> list[np.ndarray]:
    """`layer_features` of every context of every block: a list of (n_contexts, n_features) arrays."""
    return [np.array([layer_features(layers) for layers in block.contexts]) for block in structure.blocks]

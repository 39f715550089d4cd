"""From an architecture to its network, and from a population to the networks' sizes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from ofa_tvm.spaces.arch import Arch
from ofa_tvm.spaces.network import (
    BlockSpec,
    BottleneckSpec,
    ConvSpec,
    Layer,
    MBConvSpec,
    NetworkSpec,
    block_layers,
    expanded,
    head_layers,
    stem_layers,
)

if TYPE_CHECKING:
    from ofa_tvm.spaces.space import Space

Count = Literal["macs", "params"]


def network_of(space: Space, arch: Arch, n_classes: int) -> NetworkSpec:
    """The subnet that an architecture of the space describes."""
    runs = [s.base_blocks + d for s, d in zip(space.stages, arch.d[-len(space.stages) :], strict=True)]
    widths = arch.w or (0,) * (2 + len(space.stages))
    stem, width = _stem(space, widths[0], widths[1], not space.stem_depths or arch.d[0] > 0)
    blocks: list[BlockSpec] = [] if space.family == "resnet" else [_first_block(space)]
    position = 0
    for index, stage in enumerate(space.stages):
        for offset in range(runs[index]):
            c_out = stage.widths[widths[2 + index]]
            kernel = arch.ks[position + offset] if arch.ks else 3
            blocks.append(_block(space, index, offset, width, c_out, kernel, arch.e[position + offset]))
            width = c_out
        position += stage.blocks
    before, after = _head(space, width)
    return NetworkSpec(
        stem, tuple(blocks), before, after, n_classes, space.bn_eps, max_pool=space.family == "resnet"
    )


def _stem(space: Space, first: int, second: int, keep_block: bool) -> tuple[tuple[ConvSpec, ...], int]:
    """Stem convolutions for two width indices, and the channels that the first elastic block reads."""
    c0, c1 = space.stem_widths[0][first], space.stem_widths[1][second]
    act = space.stem_activation
    if space.family == "mbconv":
        return (ConvSpec("first_conv", space.in_channels, c0, 3, 2, act),), c1
    convs = [ConvSpec("input_stem.0", space.in_channels, c0, 3, 2, act)]
    if keep_block:
        convs.append(ConvSpec("input_stem.1.conv", c0, c0, 3, 1, act, residual=True))
    convs.append(ConvSpec(f"input_stem.{len(convs)}", c0, c1, 3, 1, act))
    return tuple(convs), c1


def _first_block(space: Space) -> MBConvSpec:
    c_in, c_out = space.stem_widths[0][0], space.stem_widths[1][0]
    return MBConvSpec(c_in, c_in, c_out, 3, 1, space.first_activation, False, False, residual=c_in == c_out)


def _block(
    space: Space, stage_index: int, offset: int, c_in: int, c_out: int, kernel: int, expand: float
) -> BlockSpec:
    stage = space.stages[stage_index]
    position = sum(s.blocks for s in space.stages[:stage_index]) + offset
    stride = stage.stride if offset == 0 else 1
    if space.family == "resnet":
        mid = expanded(c_out, expand)
        return BottleneckSpec(c_in, mid, c_out, stride, offset == 0, stage_index, position)
    return MBConvSpec(
        c_in, expanded(c_in, expand), c_out, kernel, stride, stage.activation, stage.se, True,
        stride == 1 and c_in == c_out, stage_index, position,
    )  # fmt: skip


def _head(space: Space, width: int) -> tuple[tuple[ConvSpec, ...], tuple[ConvSpec, ...]]:
    act = space.head_activation
    if space.final_width:
        return (
            (ConvSpec("final_expand_layer", width, space.final_width, 1, 1, act),),
            (ConvSpec("feature_mix_layer", space.final_width, space.feature_width, 1, 1, act, norm=False),),
        )
    if space.feature_width:
        return (ConvSpec("feature_mix_layer", width, space.feature_width, 1, 1, act),), ()
    return (), ()


def count_batch(space: Space, genes: np.ndarray, count: Count, n_classes: int) -> np.ndarray:
    """Multiply-accumulates or parameters of a population's networks, int64 (n,).

    A block's depend only on (resolution, widths before and after, kernel, expand), so they are added up from
    tables.
    """
    stem, blocks, head = _cost_tables(space, count)
    n = len(genes)
    resolution = genes[:, -1]
    kernel, expand = genes[:, space.columns("ks")], genes[:, space.columns("e")]
    widths = genes[:, space.columns("w")]
    if not space.elastic_width:
        widths = np.zeros((n, 2 + len(space.stages)), dtype=np.int64)
    on = space.active_blocks(genes)
    keep = genes[:, 0] if space.stem_depths else np.zeros(n, dtype=np.int64)
    total = stem[resolution, keep, widths[:, 0], widths[:, 1]] + head[resolution, widths[:, -1]]
    position = 0
    for index, stage in enumerate(space.stages):
        for offset in range(stage.blocks):
            before, after = widths[:, 1 + index + (offset > 0)], widths[:, 2 + index]
            k = kernel[:, position] if kernel.shape[1] else np.zeros(n, dtype=np.int64)
            cost = blocks[position][resolution, before, after, k, expand[:, position]]
            total = total + np.where(on[:, position], cost, 0)
            position += 1
    # The classifier is the only part that knows the number of classes; the tables hold 1000.
    features = np.array([space.feature_width or width for width in space.stages[-1].widths])[widths[:, -1]]
    per_class = features + (1 if count == "params" else 0)
    return total + (n_classes - 1000) * per_class


@lru_cache(maxsize=32)
def _cost_tables(space: Space, count: Count) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Costs of stem (r, kept, w0, w1), blocks (r, w before, w after, kernel, expand), head (r, w)."""

    def cost(layers: Sequence[Layer]) -> int:
        return sum(getattr(layer, count) for layer in layers)

    widths = (*space.stem_widths, *(stage.widths for stage in space.stages))
    kernels = space.kernels if space.family == "mbconv" else (3,)
    n_r = len(space.resolutions)
    stem = np.zeros((n_r, max(1, len(space.stem_depths)), len(widths[0]), len(widths[1])), dtype=np.int64)
    head = np.zeros((n_r, len(widths[-1])), dtype=np.int64)
    blocks: list[np.ndarray] = []
    for index, stage in enumerate(space.stages):
        for offset in range(stage.blocks):
            before = widths[1 + index] if offset == 0 else stage.widths
            blocks.append(
                np.zeros(
                    (n_r, len(before), len(stage.widths), len(kernels), len(space.expands)), dtype=np.int64
                )
            )
    for ri, r in enumerate(space.resolutions):
        for keep, w0, w1 in np.ndindex(*stem.shape[1:]):
            convs, _ = _stem(space, w0, w1, keep > 0)
            layers = stem_layers(convs, space.family == "resnet", r)
            if space.family == "mbconv":
                layers += block_layers(_first_block(space), layers[-1].h_out)
            stem[ri, keep, w0, w1] = cost(layers)
        position = 0
        for index, stage in enumerate(space.stages):
            for offset in range(stage.blocks):
                before = widths[1 + index] if offset == 0 else stage.widths
                side = layers[-1].h_out
                for at in np.ndindex(*blocks[position].shape[1:]):
                    b, a, k, e = at
                    if offset and b != a:
                        continue  # blocks of a stage share its width
                    spec = _block(
                        space, index, offset, before[b], stage.widths[a], kernels[k], space.expands[e]
                    )
                    layers = block_layers(spec, side)
                    blocks[position][(ri, *at)] = cost(layers)
                position += 1
        for wi, width in enumerate(space.stages[-1].widths):
            head[ri, wi] = cost(head_layers(*_head(space, width), width, 1000, layers[-1].h_out))
    return stem, blocks, head

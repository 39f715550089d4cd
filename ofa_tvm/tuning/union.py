"""The kernel union: every kernel that any subnet of a space can need, from a handful of subnets.

A kernel depends only on its own shape, and a block's shapes on few genes (`block_structure`). So a small
covering population, in which every block shows every form, contains all kernels of the space's 10^19
subnets.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ofa_tvm.compiler.build import kernel_calls, kernels_of, lower_onnx
from ofa_tvm.compiler.kernels import Kernel
from ofa_tvm.errors import UserError
from ofa_tvm.number_formats import arithmetic
from ofa_tvm.progress import SILENT, Progress, Task
from ofa_tvm.spaces import Arch, Layer
from ofa_tvm.spaces.blocks import block_structure, covering_population, split_blocks
from ofa_tvm.spaces.space import Space
from ofa_tvm.targets import Target
from ofa_tvm.tuning import union_cache
from ofa_tvm.tuning.union_cache import LoweredSpace

if TYPE_CHECKING:
    from ofa_tvm.supernet import Supernet

_ADVICE = ": its `layers` have to list what the network does, in order"
_MOST_LANES = 64  # values in the widest vector register, to which channels may be padded
_SAMPLED = 400  # subnets: a kernel of one block at one of four resolutions is then met several times


@dataclass(frozen=True)
class KernelUnion:
    """Distinct kernels of a space at some resolutions.

    Parameters
    ----------
    kernels
        Every kernel; `calls` counts how often it occurs in blocks of different shapes.
    by_block
        Keys of the kernels that a block's layers become, in order, by the shapes of those layers.
    resolutions
        Those.
    """

    kernels: tuple[Kernel, ...]
    by_block: dict[tuple[Layer, ...], tuple[str, ...]]
    resolutions: tuple[int, ...]

    def mean_calls(
        self, space: Space, resolutions: Sequence[int], n_classes: int = 1000, seed: int = 0
    ) -> dict[str, float]:
        """How often a subnet calls each kernel, by key: the mean over subnets sampled uniformly."""
        counts: Counter[str] = Counter()
        genes = space.sample_genes(np.random.default_rng(seed), _SAMPLED, resolutions)
        for arch in space.decode(genes):
            for layers in split_blocks(space.layers(arch, n_classes)).values():
                counts.update(self.of_block(layers))
        return {kernel.key: counts[kernel.key] / _SAMPLED for kernel in self.kernels}

    def of_block(self, layers: Sequence[Layer]) -> tuple[str, ...]:
        """Keys of the kernels that a block's layers become; none for a block outside the union."""
        return self.by_block.get(_nameless(layers), ())


def kernel_union(
    space: Space,
    resolutions: Sequence[int],
    target: Target,
    *,
    n_classes: int = 1000,
    progress: Progress = SILENT,
) -> KernelUnion:
    """Enumerate the union by lowering a covering population; weights are arbitrary, shapes are all.

    Parameters
    ----------
    space
        The space.
    resolutions
        Input resolutions, each of the space.
    target
        Decides layout and fusion; of its batch.
    n_classes
        Outputs of the classifier.
    progress
        Told of every lowered subnet; what another command lowered (of a space that ships) is read again.
    """
    sides = sorted(set(resolutions))
    places = {r: union_cache.place(space, r, target, n_classes) for r in sides}
    parts = {r: part for r, path in places.items() if path and (part := union_cache.kept(path))}
    if missing := [r for r in sides if r not in parts]:
        covering = {r: _covering(space, r, n_classes) for r in missing}
        with progress.task("enumerating kernels", sum(map(len, covering.values()))) as task:
            for r, archs in covering.items():
                parts[r] = _at(space, archs, target, n_classes, task)
                if path := places[r]:
                    union_cache.keep(path, parts[r])
    lowered = [parts[r] for r in sides]
    return KernelUnion(
        tuple(_distinct(kernel for part in lowered for kernel in part.kernels)),
        {layers: keys for part in lowered for layers, keys in part.by_block.items()},
        tuple(sides),
    )


def subnets_to_lower(
    space: Space, resolutions: Sequence[int], target: Target, *, n_classes: int = 1000
) -> int:
    """How many subnets `kernel_union` has to lower: none at resolutions that another command lowered."""
    places = {r: union_cache.place(space, r, target, n_classes) for r in sorted(set(resolutions))}
    missing = [r for r, path in places.items() if not path or union_cache.kept_keys(path) is None]
    return sum(len(_covering(space, r, n_classes)) for r in missing)


@lru_cache(maxsize=4)
def _population(space: Space, n_classes: int) -> np.ndarray:
    """Genes of subnets in which every block shows every form; their resolution is any."""
    structure = block_structure(space, n_classes)
    depths = set(range(*space.columns("d").indices(len(space.cardinalities))))
    # A depth hides blocks, or changes one that is always there (ResNet-50's stem).
    hiding = depths - {g for block in structure.blocks if all(block.contexts) for g in block.genes}
    fixed = {*hiding, space.columns("r").start}
    groups = sorted({tuple(g for g in block.genes if g not in fixed) for block in structure.blocks})
    population = covering_population(space, groups)
    for gene in hiding:
        population[:, gene] = space.cardinalities[gene] - 1  # at full depth no block is hidden
    return np.unique(population, axis=0)


@lru_cache(maxsize=64)
def _covering(space: Space, resolution: int, n_classes: int) -> tuple[Arch, ...]:
    """Subnets of one resolution that show whatever the population's blocks show, with few blocks in all.

    Later blocks of a stage often have the shapes of earlier ones, and what occurs once is known: depths are
    as small as leaves nothing out.
    """

    def at_resolution(rows: np.ndarray) -> tuple[Arch, ...]:
        return tuple(arch.replace(r=resolution) for arch in space.decode(rows))

    def shapes(row: np.ndarray) -> set[tuple[Layer, ...]]:
        (arch,) = at_resolution(row[None])
        return {_nameless(layers) for layers in split_blocks(space.layers(arch, n_classes)).values()}

    genes = _population(space, n_classes).copy()
    shown = [shapes(row) for row in genes]
    counts = Counter(layers for found in shown for layers in found)
    depths = range(*space.columns("d").indices(genes.shape[1]))
    for i, row in enumerate(genes):
        for gene in depths:
            for depth in range(row[gene]):
                shorter = row.copy()
                shorter[gene] = depth
                kept = shapes(shorter)
                if all(counts[layers] > 1 for layers in shown[i] - kept):
                    counts.subtract(shown[i] - kept)
                    counts.update(kept - shown[i])
                    row[:], shown[i] = shorter, kept
                    break
    return at_resolution(np.unique(genes, axis=0))


def _at(space: Space, archs: Sequence[Arch], target: Target, n_classes: int, task: Task) -> LoweredSpace:
    """Kernels of subnets of one resolution; what one subnet has shown is left out of later ones."""
    described = json.dumps(target.to_json(), sort_keys=True)
    kernels: dict[str, Kernel] = {}
    by_block: dict[tuple[Layer, ...], tuple[str, ...]] = {}
    for arch in archs:
        groups = split_blocks(space.layers(arch, n_classes))
        shown = {at for at, layers in groups.items() if _nameless(layers) in by_block}
        if len(shown) < len(groups):
            left_out = frozenset(at for at in shown if _may_be_left_out(groups[at]))
            found, blocks = _lowered(space, arch, left_out, described, n_classes)
            kernels |= {kernel.key: kernel for kernel in found}
            by_block |= blocks
        task.advance()
    calls = Counter(key for keys in by_block.values() for key in keys)
    return LoweredSpace(tuple(replace(kernel, calls=calls[key]) for key, kernel in kernels.items()), by_block)


def _may_be_left_out(block: Sequence[Layer]) -> bool:
    """Whether it makes maps of the shape that it reads, so that the network is one without it."""
    first, last = block[0], block[-1]
    return first.stage >= 0 and (first.c_in, first.h_in) == (last.c_out, last.h_out)


def _distinct(kernels: Iterable[Kernel]) -> Iterable[Kernel]:
    """One kernel of each key, with the calls of all."""
    found: dict[str, Kernel] = {}
    for kernel in kernels:
        known = found.get(kernel.key)
        found[kernel.key] = kernel if known is None else replace(known, calls=known.calls + kernel.calls)
    return found.values()


@lru_cache(maxsize=72)  # a space at eight resolutions: tuning it and learning its latencies both need them
def _lowered(
    space: Space, arch: Arch, left_out: frozenset[tuple[int, int]], target: str, n_classes: int
) -> tuple[tuple[Kernel, ...], dict[tuple[Layer, ...], tuple[str, ...]]]:
    """One subnet's kernels for a target (in JSON), and those of each of its blocks, but for some blocks."""
    from ofa_tvm.export import to_onnx
    from ofa_tvm.supernet import timed_subnet

    made_for = Target.from_json(json.loads(target))
    net = timed_subnet(_any_weights(space, n_classes), arch, arithmetic(made_for.dtype), left_out)
    mod = lower_onnx(to_onnx(net, arch.r, made_for.batch), made_for)
    kernels = kernels_of(mod)
    calls = [kernels[name] for name in kernel_calls(mod)]
    layers = [la for la in space.layers(arch, n_classes) if (la.stage, la.block) not in left_out]
    return tuple(kernels.values()), _blocks(layers, calls, made_for.batch)


@lru_cache(maxsize=1)
def _any_weights(space: Space, n_classes: int) -> Supernet:
    from ofa_tvm.supernet import build_supernet

    return build_supernet(space, n_classes).eval()


def _nameless(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Layers without what depends on their place in the network: the depth of earlier stages shifts names."""
    return tuple(replace(layer, name="", stage=-1, block=0) for layer in layers)


def _blocks(
    layers: Sequence[Layer], calls: Sequence[Kernel], batch: int
) -> dict[tuple[Layer, ...], tuple[str, ...]]:
    """Cut the sequence of kernel calls where blocks end: behind the kernel of a block's last product.

    Raises
    ------
    UserError
        If the calls do not have one product for each layer, or a block's products do not give its layers'
        outputs, so that blocks would be cut elsewhere.
    """
    described = sum(layer.kind != "pool" for layer in layers)
    computed = sum(kernel.signature.has_product for kernel in calls)
    if described != computed:
        raise UserError(
            f"the space describes {described} convolutions and products, but its network computes "
            f"{computed}{_ADVICE}"
        )
    result: dict[tuple[Layer, ...], tuple[str, ...]] = {}
    rest = list(calls)
    groups = list(split_blocks(layers).values())
    for number, group in enumerate(groups):
        multiplied = [layer for layer in group if layer.kind != "pool"]
        taken: list[Kernel] = []
        products: list[Kernel] = []
        while rest and (len(products) < len(multiplied) or number == len(groups) - 1):
            kernel = rest.pop(0)
            taken.append(kernel)
            if kernel.signature.has_product:
                products.append(kernel)
        _check_outputs(multiplied, products, batch)
        result[_nameless(group)] = tuple(kernel.key for kernel in taken)
    return result


def _check_outputs(layers: Sequence[Layer], products: Sequence[Kernel], batch: int) -> None:
    for layer, kernel in zip(layers, products, strict=True):
        pixels, size = batch * layer.h_out**2, math.prod(kernel.signature.shapes[-1])
        channels, rest = divmod(size, pixels)
        if rest or not layer.c_out <= channels < layer.c_out + _MOST_LANES:
            raise UserError(
                f"the space describes {layer.name} with {pixels * layer.c_out} outputs, but in its place the "
                f"network computes {size}{_ADVICE}"
            )

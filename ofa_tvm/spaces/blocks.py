"""A space seen as a sum of blocks: what each block's layers depend on, and tables over exactly that.

A block of a subnet is shaped by few genes (its own kernel size and expand ratio, its stage's depth, the
resolution; in ResNet-50 also the widths of its stage and the one before). A latency model that adds up
blocks is therefore a small table per block, and a million subnets cost a million rows of table look-ups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ofa_tvm.spaces.layered import LayeredSpace
from ofa_tvm.spaces.network import Layer

# Rows handled at once: indices and entries of one piece stay in the second-level cache.
_ROWS = 2048


@dataclass(frozen=True)
class Block:
    """One block position and everything that can stand there.

    Attributes
    ----------
    stage, block : int
        As in `Layer`; the layers before the first stage are (-1, 0), those behind the last are (n_stages, 0).
    genes : tuple of int
        Columns of the encoded population that shape the block, ascending.
    choices : tuple of int
        Number of choices of each of these genes.
    contexts : tuple of tuple of Layer
        The block's layers for every combination of the genes, the last gene counting fastest; empty where the
        block is switched off. Length prod(choices).
    """

    stage: int
    block: int
    genes: tuple[int, ...]
    choices: tuple[int, ...]
    contexts: tuple[tuple[Layer, ...], ...]

    @property
    def strides(self) -> np.ndarray:
        """Step in `contexts` of one step of each gene; shape (len(genes),)."""
        sizes = np.array((*self.choices, 1), dtype=np.int64)
        return np.cumprod(sizes[::-1])[::-1][1:]


@dataclass(frozen=True, eq=False)
class BlockStructure:
    """The blocks of a space. Obtain it with `block_structure(space)`, which keeps it."""

    space: LayeredSpace
    blocks: tuple[Block, ...]
    multipliers: np.ndarray
    """(n_genes, n_blocks) float32; a population times this gives each block's context."""

    def contexts(self, genes: np.ndarray) -> np.ndarray:
        """Context of every block of every subnet: (n, n_genes) genes -> (n, n_blocks) int64."""
        # Exact in float32: no block has anywhere near 2**24 contexts.
        return (np.asarray(genes, dtype=np.float32) @ self.multipliers).astype(np.int64)

    def tables(self, entry: Callable[[tuple[Layer, ...]], float], constant: float = 0.0) -> BlockTables:
        """Tables whose entries are `entry(layers)` of each block that is switched on."""
        return BlockTables(
            self,
            [np.array([entry(c) if c else 0.0 for c in block.contexts]) for block in self.blocks],
            constant,
        )

    def unstacked(self, entries: np.ndarray, constant: float = 0.0) -> BlockTables:
        """Tables from the entries of all blocks, one after the other."""
        ends = np.cumsum([len(block.contexts) for block in self.blocks])[:-1]
        return BlockTables(self, np.split(entries, ends), constant)


class BlockTables:
    """A function of a subnet that is a constant plus one table entry a block.

    Parameters
    ----------
    structure : BlockStructure
    tables : sequence of (n_contexts,) arrays
        One for each block, zero where the block is switched off.
    constant : float

    Attributes
    ----------
    stacked : array
        The entries of all tables, one after the other.
    """

    def __init__(
        self, structure: BlockStructure, tables: Sequence[np.ndarray], constant: float = 0.0
    ) -> None:
        self.structure = structure
        self.tables = tuple(np.asarray(table, dtype=np.float64) for table in tables)
        self.constant = float(constant)
        self.stacked = np.concatenate(self.tables)
        self._offsets = np.cumsum([0, *(len(table) for table in self.tables[:-1])])

    def __call__(self, genes: np.ndarray) -> np.ndarray:
        """Evaluate a population: (n, n_genes) choice indices -> (n,) values."""
        genes = np.asarray(genes)
        values = np.empty(len(genes))
        for start in range(0, len(genes), _ROWS):
            index = self.structure.contexts(genes[start : start + _ROWS])
            index += self._offsets
            values[start : start + _ROWS] = self.stacked.take(index).sum(axis=1)
        values += self.constant
        return values

    def scaled(self, factor: float, offset: float = 0.0) -> BlockTables:
        """`offset + factor * self`, again as tables."""
        return BlockTables(self.structure, [factor * t for t in self.tables], offset + factor * self.constant)

    def __add__(self, other: BlockTables) -> BlockTables:
        sums = [a + b for a, b in zip(self.tables, other.tables, strict=True)]
        return BlockTables(self.structure, sums, self.constant + other.constant)


def stacked_contexts(structure: BlockStructure, genes: np.ndarray) -> np.ndarray:
    """Where the context of each block of each subnet is when the contexts of all blocks are stacked:
    (n, n_genes) -> (n, n_blocks)."""
    sizes = [len(block.contexts) for block in structure.blocks]
    return structure.contexts(genes) + np.cumsum([0, *sizes[:-1]])


def resolution_of_contexts(structure: BlockStructure) -> np.ndarray:
    """Index of the resolution of every context in such stacks; 0 where a block does not depend on it."""
    last = len(structure.space.cardinalities) - 1
    return np.concatenate(
        [
            np.arange(len(block.contexts)) % (block.choices[-1] if last in block.genes else 1)
            for block in structure.blocks
        ]
    )


def split_blocks(layers: Sequence[Layer]) -> dict[tuple[int, int], tuple[Layer, ...]]:
    """Group the layers of a subnet by block; what lies behind the last stage is numbered as one more
    stage."""
    groups: dict[tuple[int, int], list[Layer]] = {}
    inside = False
    for layer in layers:
        inside = inside or layer.stage >= 0
        key = (layer.stage, layer.block) if layer.stage >= 0 else ((-1, 0) if not inside else (_BEHIND, 0))
        groups.setdefault(key, []).append(layer)
    return {key: tuple(group) for key, group in groups.items()}


_BEHIND = 1 << 20


def _shapes(group: Sequence[Layer]) -> tuple[object, ...]:
    return tuple(
        (
            la.kind,
            la.c_in,
            la.c_out,
            la.kernel,
            la.stride,
            la.h_in,
            la.h_out,
            la.activation,
            la.residual,
            la.groups,
        )
        for la in group
    )


def _shaping_genes(space: LayeredSpace) -> dict[tuple[int, int], set[int]]:
    """Genes that each block's layers depend on, found by changing one gene at a time."""
    rng = np.random.default_rng(0)
    largest = space.encode([space.max_arch()])
    # Around the largest subnet no block is hidden; the random ones find what only shows elsewhere.
    bases = np.concatenate([largest, space.sample_genes(rng, 4)])
    found: dict[tuple[int, int], set[int]] = {}
    for base in bases:
        variants = [base]
        changed = [-1]
        for gene, n in enumerate(space.cardinalities):
            others = [choice for choice in range(int(n)) if choice != base[gene]]
            for choice in others if len(others) <= 4 else (others[0], others[-1]):
                variant = base.copy()
                variant[gene] = choice
                variants.append(variant)
                changed.append(gene)
        split = [
            {key: _shapes(group) for key, group in split_blocks(space.layers(arch)).items()}
            for arch in space.decode(np.array(variants))
        ]
        for gene, groups in zip(changed[1:], split[1:], strict=True):
            for key in groups.keys() | split[0].keys():
                if groups.get(key) != split[0].get(key):
                    found.setdefault(key, set()).add(gene)
        for key in split[0]:
            found.setdefault(key, set())
    return found


def covering_population(space: LayeredSpace, groups: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Few subnets that show every combination of each of the gene groups at least once; (n, n_genes)."""
    missing = [np.ones([int(space.cardinalities[g]) for g in group], dtype=bool) for group in groups]
    rows = []
    while any(m.any() for m in missing):
        row = np.full(len(space.cardinalities), -1)
        for i in sorted(range(len(groups)), key=lambda i: -int(missing[i].sum())):
            group = np.array(groups[i], dtype=np.int64)
            free = row[group] < 0
            open_combinations = missing[i][
                tuple(slice(None) if f else row[g] for g, f in zip(group, free, strict=True))
            ]
            if free.any() and open_combinations.any():
                row[group[free]] = np.unravel_index(int(open_combinations.argmax()), open_combinations.shape)
        row[row < 0] = 0
        rows.append(row)
        for group_missing, genes in zip(missing, groups, strict=True):
            group_missing[tuple(row[list(genes)])] = False
    return np.array(rows)


@lru_cache(maxsize=8)
def block_structure(space: LayeredSpace, n_classes: int = 1000) -> BlockStructure:
    """Find the blocks of a space and every shape that each can take; needs only `space.layers`."""
    found = _shaping_genes(space)
    keys = sorted(found)
    n_stages = 1 + max((stage for stage, _ in keys if stage < _BEHIND), default=-1)
    genes = {key: tuple(sorted(found[key])) for key in keys}
    cardinalities = [int(n) for n in space.cardinalities]
    contexts: dict[tuple[int, int], dict[tuple[int, ...], tuple[Layer, ...]]] = {key: {} for key in keys}
    population = covering_population(space, sorted(set(genes.values())))
    for row, arch in zip(population, space.decode(population), strict=True):
        groups = split_blocks(space.layers(arch, n_classes))
        for key in keys:
            contexts[key].setdefault(tuple(int(row[g]) for g in genes[key]), groups.get(key, ()))
    blocks = []
    multipliers = np.zeros((len(cardinalities), len(keys)), dtype=np.float32)
    for i, key in enumerate(keys):
        choices = tuple(cardinalities[g] for g in genes[key])
        layers = tuple(contexts[key][combination] for combination in np.ndindex(*choices))
        block = Block(n_stages if key[0] == _BEHIND else key[0], key[1], genes[key], choices, layers)
        multipliers[list(block.genes), i] = block.strides
        blocks.append(block)
    return BlockStructure(space, tuple(blocks), multipliers)

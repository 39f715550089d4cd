from __future__ import annotations

import numpy as np
import pytest

from ofa_tvm.spaces import get_space, list_spaces
from ofa_tvm.spaces.blocks import BlockTables, block_structure


@pytest.mark.parametrize("name", list_spaces())
def test_sums_over_blocks_are_sums_over_layers(name: str, rng: np.random.Generator) -> None:
    space = get_space(name)
    structure = block_structure(space)
    genes = space.sample_genes(rng, 200)
    for what in ("macs", "params", "h_in"):
        tables = structure.tables(lambda layers: sum(getattr(la, what) for la in layers))  # noqa: B023
        expected = [sum(getattr(la, what) for la in space.layers(arch)) for arch in space.decode(genes)]
        np.testing.assert_array_equal(tables(genes), expected)


def test_the_number_of_classes_reaches_the_classifier(rng: np.random.Generator) -> None:
    space = get_space("ofa_digits")
    genes = space.sample_genes(rng, 20)
    tables = block_structure(space, 10).tables(lambda layers: sum(la.params for la in layers))
    np.testing.assert_array_equal(tables(genes), space.params_batch(genes, 10))


def test_switched_off_blocks_do_not_count(rng: np.random.Generator) -> None:
    space = get_space("ofa_mbv3_w1.0")
    structure = block_structure(space)
    tables = BlockTables(
        structure,
        [rng.random(len(b.contexts)) * [bool(c) for c in b.contexts] for b in structure.blocks],
    )
    genes = space.sample_genes(rng, 500)
    np.testing.assert_allclose(tables(genes), tables(space.canonical(genes)))


def test_tables_scale_and_add(rng: np.random.Generator) -> None:
    space = get_space("ofa_digits")
    structure = block_structure(space)
    one = structure.tables(lambda layers: float(len(layers)), constant=2.0)
    two = structure.tables(lambda layers: float(layers[0].c_in))
    genes = space.sample_genes(rng, 5000)  # more than one piece
    np.testing.assert_allclose((one.scaled(3.0, 1.0) + two)(genes), 3 * one(genes) + 1 + two(genes))
    assert one(genes[:0]).shape == (0,)

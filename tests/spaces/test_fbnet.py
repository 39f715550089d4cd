from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from ofa_tvm.errors import UsageError
from ofa_tvm.spaces import get_layered_space, get_space
from ofa_tvm.spaces.blocks import block_structure

SPACE = get_layered_space("fbnet")


def test_populations_and_json_round_trip(rng: np.random.Generator) -> None:
    genes = SPACE.sample_genes(rng, 30)
    archs = SPACE.decode(genes)
    np.testing.assert_array_equal(SPACE.encode(archs), genes)
    assert [SPACE.parse(arch.to_json()) for arch in archs] == archs


def test_its_layers_have_the_published_shapes() -> None:
    layers = SPACE.layers(SPACE.max_arch(), 100)
    assert (layers[0].h_in, layers[0].c_out) == (32, 16)
    by_stage = {la.stage: la for la in layers if la.name.endswith("project")}
    assert [la.c_out for la in by_stage.values()] == [16, 24, 32, 64, 112, 184, 352]
    assert [la.h_out for la in by_stage.values()] == [32, 32, 16, 8, 8, 4, 4]
    for before, after in itertools.pairwise(layers):
        assert before.h_out == after.h_in and before.c_out == after.c_in


def test_skips_and_groups_cost_less() -> None:
    def macs(*ops: str) -> int:
        arch = SPACE.parse(json.dumps([*ops, *["k3_e1"] * (22 - len(ops))]))
        return sum(la.macs for la in SPACE.layers(arch))

    # Where nothing changes its shape, a skip is nothing; else it is a strided 1x1 convolution.
    assert len(SPACE.layers(SPACE.min_arch())) == 1 + 6 + 3  # stem, six changing blocks, head
    assert macs("skip") < macs("k3_e1_g2") < macs("k3_e1") < macs("k3_e6") < macs("k5_e6")


def test_sums_over_blocks_are_sums_over_layers(rng: np.random.Generator) -> None:
    genes = SPACE.sample_genes(rng, 100)
    tables = block_structure(SPACE).tables(lambda layers: sum(la.macs for la in layers))
    expected = [sum(la.macs for la in SPACE.layers(arch)) for arch in SPACE.decode(genes)]
    np.testing.assert_array_equal(tables(genes), expected)


@pytest.mark.parametrize("text", ["{", "{}", '["k3_e1"]', json.dumps(["k9_e9"] * 22), "[1, 2]"])
def test_what_is_not_in_the_space_is_explained(text: str) -> None:
    with pytest.raises(UsageError):
        SPACE.parse(text)


def test_only_spaces_that_can_be_trained_are_offered_for_training() -> None:
    assert get_layered_space("ofa_digits") is get_space("ofa_digits")
    with pytest.raises(UsageError):
        get_space("fbnet")
    with pytest.raises(UsageError, match="fbnet"):
        get_layered_space("none")

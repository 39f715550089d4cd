"""Properties of populations, for every space."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa_tvm import UsageError, get_space, list_spaces
from ofa_tvm.spaces import Space


@pytest.fixture(params=list_spaces())
def space(request: pytest.FixtureRequest) -> Space:
    return get_space(request.param)


@given(st.sampled_from(list_spaces()), st.integers(0, 2**32 - 1))
def test_encode_and_decode_are_inverse(name: str, seed: int) -> None:
    space = get_space(name)
    genes = space.sample_genes(np.random.default_rng(seed), 5)
    archs = space.decode(genes)
    for arch in archs:
        space.validate(arch)
    assert (space.encode(archs) == genes).all()


@given(st.sampled_from(list_spaces()), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_variation_stays_in_the_space(name: str, seed: int, probability: float) -> None:
    space, rng = get_space(name), np.random.default_rng(seed)
    allowed = space.default_resolutions[:2]
    a, b = (space.sample_genes(rng, 6, allowed) for _ in range(2))
    child = space.mutate(space.crossover(a, b, rng), rng, probability, allowed)
    for arch in space.decode(child):
        space.validate(arch)
        assert arch.r in allowed


def test_same_seed_same_population(space: Space) -> None:
    a, b = (space.sample_genes(np.random.default_rng(3), 10) for _ in range(2))
    assert (a == b).all()
    assert space.sample(np.random.default_rng(3)) == space.sample(np.random.default_rng(3))


def test_each_choice_is_equally_likely(space: Space, rng: np.random.Generator) -> None:
    genes = space.sample_genes(rng, 6000)
    for column, count in enumerate(space.cardinalities):
        shares = np.bincount(genes[:, column], minlength=count) / len(genes)
        assert np.allclose(shares, 1 / count, atol=0.03)


def test_mutation_probability(space: Space, rng: np.random.Generator) -> None:
    genes = space.sample_genes(rng, 500)
    assert (space.mutate(genes, rng, 0.0) == genes).all()
    changed = (space.mutate(genes, rng, 0.5) != genes)[:, space.cardinalities == 3].mean()
    assert changed == pytest.approx(0.5 * 2 / 3, abs=0.03)


def test_crossover_takes_from_parents_only(space: Space, rng: np.random.Generator) -> None:
    a, b = space.sample_genes(rng, 50), space.sample_genes(rng, 50)
    child = space.crossover(a, b, rng)
    assert ((child == a) | (child == b)).all()
    assert (child != a).any()
    assert (child != b).any()


def test_canonical_rows_are_equal_exactly_when_architectures_are(
    space: Space, rng: np.random.Generator
) -> None:
    genes = space.sample_genes(rng, 100)
    noise = np.where(space.active(genes), genes, space.sample_genes(rng, 100))
    assert (noise != genes).any()
    assert (space.canonical(noise) == space.canonical(genes)).all()
    assert space.decode(noise) == space.decode(genes)
    assert space.decode(space.canonical(genes)) == space.decode(genes)
    flags = space.active_blocks(genes)
    assert [tuple(row) for row in flags.tolist()] == [arch.active_blocks for arch in space.decode(genes)]
    # Any gene that counts makes another network.
    base = space.canonical(genes)
    for row in range(5):
        for column in np.flatnonzero(space.active(genes)[row] & (space.cardinalities > 1)):
            other = base[row].copy()
            other[column] = (other[column] + 1) % space.cardinalities[column]
            assert space.decode(other[None]) != space.decode(base[row][None])


def test_gene_names_follow_the_columns(space: Space) -> None:
    assert len(space.gene_names) == len(space.cardinalities) == len(space.choices)
    assert space.gene_names[0] == "d0"
    assert space.gene_names[-1] == "r"
    for field in ("d", "ks", "e", "w"):
        assert all(name.startswith(field) for name in space.gene_names[space.columns(field)])


def test_bad_populations_are_refused(space: Space) -> None:
    genes = space.encode([space.min_arch()])
    with pytest.raises(UsageError, match="genes; got an array"):
        space.decode(genes[:, :-1])
    with pytest.raises(UsageError, match="gene indices"):
        space.decode(genes + 100)
    with pytest.raises(UsageError, match="resolution 31"):
        space.sample_genes(np.random.default_rng(0), 3, resolutions=(31,))
    with pytest.raises(UsageError, match="r = 31"):
        space.encode([space.min_arch(), space.max_arch().replace(r=31)])


def test_spaces_load_neither_torch_nor_tvm() -> None:
    code = (
        "import ofa_tvm, sys; ofa_tvm.get_space('ofa_digits'); "
        "print('torch' in sys.modules, 'tvm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]

"""The five spaces against their authors' figures and the official implementation's parameter counts."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from ofa_tvm import Arch, UsageError, get_space, list_spaces


def _uniform(d: int, e: int, k: int, r: int) -> Arch:
    return Arch(ks=(k,) * 20, e=(e,) * 20, d=(d,) * 5, r=r)


@pytest.mark.parametrize(
    ("d", "e", "k", "at_224", "at_128"),
    [
        (2, 3, 3, 121_278_672, 41_476_224),
        (4, 3, 3, 226_193_808, 75_979_392),
        (4, 6, 3, 433_141_536, 144_810_240),
        (4, 6, 7, 566_170_656, 188_248_320),
    ],
)
def test_macs_of_mbv3(d: int, e: int, k: int, at_224: int, at_128: int) -> None:
    space = get_space("ofa_mbv3_w1.0")
    assert space.macs(_uniform(d, e, k, 224)) == at_224
    assert space.macs(_uniform(d, e, k, 128)) == at_128


def test_params_of_mbv3() -> None:
    space = get_space("ofa_mbv3_w1.0")
    assert space.params(_uniform(2, 3, 3, 224)) == 3_410_792
    assert space.params(space.max_arch()) == 7_664_760


@pytest.mark.parametrize("name", ["ofa_mbv3_w1.0", "ofa_mbv3_w1.2", "ofa_proxyless_w1.3", "ofa_resnet50"])
def test_params_of_the_official_subnets(name: str, shared_data: Path) -> None:
    space = get_space(name)
    for case in json.loads((shared_data / "official" / f"{name}.json").read_text())["cases"]:
        assert space.params(Arch.from_dict(case["arch"])) == case["params"]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("ofa_mbv3_w1.0", 7371**5),
        ("ofa_mbv3_w1.2", 7371**5),
        ("ofa_proxyless_w1.3", 7371**5 * 9),
        ("ofa_resnet50", 2 * 3**6 * (9 + 27 + 81) ** 3 * (81 + 243 + 729)),
        ("ofa_digits", 7371**2),
    ],
)
def test_sizes(name: str, size: int) -> None:
    assert get_space(name).size == size


def test_extremes_and_median() -> None:
    space = get_space("ofa_mbv3_w1.0")
    assert space.min_arch() == _uniform(2, 3, 3, 128)
    assert space.median_arch() == _uniform(3, 4, 5, space.median_resolution)
    assert space.max_arch(r=160) == _uniform(4, 6, 7, 160)
    with pytest.raises(UsageError, match="r = 0"):
        space.min_arch(r=0)
    resnet = get_space("ofa_resnet50")
    assert resnet.min_arch().d == (0, 0, 0, 0, 0)
    assert resnet.max_arch().d == (2, 2, 2, 2, 2)
    assert resnet.max_arch().w == (2,) * 6
    for name in list_spaces():
        assert get_space(name).median_resolution in get_space(name).default_resolutions


def test_shapes_of_the_layers() -> None:
    layers = get_space("ofa_mbv3_w1.0").layers(_uniform(2, 3, 5, 224))
    assert (layers[0].c_in, layers[0].c_out, layers[0].h_in, layers[0].h_out) == (3, 16, 224, 112)
    for before, after in itertools.pairwise(layers):
        if after.kind in ("depthwise", "linear"):
            assert (before.c_out, before.h_out) == (after.c_in, after.h_in)
    assert sum(layer.kind == "depthwise" for layer in layers) == 11
    assert {layer.kernel for layer in layers if layer.kind == "depthwise" and layer.stage >= 0} == {5}
    assert sum(layer.residual for layer in layers) == 1 + 5
    assert layers[-1].c_out == 1000


def test_odd_maps_round_up() -> None:
    space = get_space("ofa_resnet50")
    layers = {layer.name: layer for layer in space.layers(space.max_arch(r=132))}
    assert layers["blocks.4.conv2"].h_in == 33
    assert layers["blocks.4.conv2"].h_out == layers["blocks.4.downsample.pool"].h_out == 17


def test_unknown_space_is_named() -> None:
    with pytest.raises(UsageError, match=r"'ofa_mbv4'.*ofa_mbv3_w1\.0"):
        get_space("ofa_mbv4")


@pytest.mark.parametrize("name", list_spaces())
def test_population_costs_equal_single_ones(name: str, rng: np.random.Generator) -> None:
    space = get_space(name)
    genes = space.sample_genes(rng, 40)
    archs = space.decode(genes)
    assert space.macs_batch(genes).tolist() == [space.macs(arch) for arch in archs]
    assert space.macs_batch(genes, n_classes=7).tolist() == [space.macs(arch, n_classes=7) for arch in archs]
    assert space.params_batch(genes, n_classes=7).tolist() == [
        space.params(arch, n_classes=7) for arch in archs
    ]

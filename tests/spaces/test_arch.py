"""Architectures as values: equality, JSON, and messages for bad ones."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ofa_tvm import Arch, UsageError, get_space, list_spaces
from ofa_tvm.spaces.arch import blocks_per_stage


def test_blocks_per_stage() -> None:
    assert blocks_per_stage(20, 5) == (4,) * 5
    assert blocks_per_stage(21, 6) == (4, 4, 4, 4, 4, 1)
    assert blocks_per_stage(8, 2) == (4, 4)


@pytest.mark.parametrize("name", list_spaces())
def test_json_round_trip(name: str, rng: np.random.Generator) -> None:
    space = get_space(name)
    for _ in range(20):
        arch = space.sample(rng)
        for again in (Arch.from_json(arch.to_json()), Arch.from_dict(arch.to_dict())):
            assert again == arch
            assert (again.ks, again.e, again.d, again.r, again.w) == (arch.ks, arch.e, arch.d, arch.r, arch.w)
        assert json.loads(arch.to_json()) == arch.to_dict()
        assert ("ks" in arch.to_json()) == (name != "ofa_resnet50")


@pytest.mark.parametrize("name", list_spaces())
def test_switched_off_entries_do_not_count(name: str) -> None:
    space = get_space(name)
    arch = space.min_arch()
    largest = space.max_arch()
    on = arch.active_blocks
    other = arch.replace(
        e=tuple(a if keep else b for a, b, keep in zip(arch.e, largest.e, on, strict=True)),
        ks=tuple(a if keep else b for a, b, keep in zip(arch.ks, largest.ks, on, strict=False)),
    )
    assert other.e != arch.e
    assert other == arch
    assert hash(other) == hash(arch)
    assert other.to_json() != arch.to_json()
    assert arch.replace(e=(largest.e[0], *arch.e[1:])) != arch
    assert arch.replace(r=largest.r) != arch


def test_numpy_values_become_plain_ones() -> None:
    arch = Arch(ks=np.array([3] * 8), e=np.array([3.0] * 8), d=np.int64([2, 2]), r=np.int64(32))  # type: ignore[arg-type]
    assert arch == get_space("ofa_digits").min_arch()
    assert arch.to_json() == '{"ks":[3,3,3,3,3,3,3,3],"e":[3,3,3,3,3,3,3,3],"d":[2,2],"r":32}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "JSON object"),
        ('{"ks":[3],"e":[6],"d":[1]}', "lacks the field 'r'"),
        ('{"e":[6],"d":[1],"r":224}', "lacks the field 'ks'"),
        ('{"ks":[3],"e":[6],"d":[1],"r":224,"x":1}', "unknown field 'x'"),
        ('{"ks":["a"],"e":[6],"d":[1],"r":224}', "'ks' holds 'a'"),
        ('{"ks":3,"e":[6],"d":[1],"r":224}', "'ks' must be a list"),
        ('{"ks":[],"e":[],"d":[],"r":224}', "at least one entry"),
        ('{"ks":[3],"e":[NaN],"d":[1],"r":224}', "'e' holds nan"),
    ],
)
def test_bad_json_is_explained(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Arch.from_json(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ks": (9,) + (3,) * 7}, r"ks\[0\] = 9 .*3, 5, 7"),
        ({"e": (3,) * 7 + (5,)}, r"e\[7\] = 5"),
        ({"d": (2, 1)}, r"d\[1\] = 1"),
        ({"r": 33}, "r = 33 .*32, 40, 48"),
        ({"ks": (3,) * 20}, "wants 8 entries in 'ks'"),
        ({"w": (1,)}, "wants 0 entries in 'w'"),
    ],
)
def test_validate_names_field_and_value(changes: dict[str, object], message: str) -> None:
    space = get_space("ofa_digits")
    with pytest.raises(UsageError, match=message):
        space.validate(space.min_arch().replace(**changes))


def test_replace_refuses_unknown_fields() -> None:
    with pytest.raises(UsageError, match="no field 'resolution'"):
        get_space("ofa_digits").min_arch().replace(resolution=32)


@pytest.mark.parametrize("fields", [None, [3], "ks", {1: 2, "d": [1], "e": [6], "r": 224, "ks": [3]}])
def test_what_is_no_mapping_of_fields_is_refused(fields: object) -> None:
    with pytest.raises(UsageError, match=r"an architecture is a JSON object|unknown field '1'"):
        Arch.from_dict(fields)

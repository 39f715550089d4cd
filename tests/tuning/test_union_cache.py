"""A space's kernels are kept between commands, and found anew where the file is not whole or not true."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import tvm

import ofa_tvm
from ofa_tvm.compiler.kernels import kernel_key
from ofa_tvm.compiler.objects import NotCached
from ofa_tvm.spaces.space import Space
from ofa_tvm.targets import get_target
from ofa_tvm.tuning import KernelUnion, kernel_union, subnets_to_lower, union, union_cache

SPACE, TARGET = ofa_tvm.get_space("ofa_digits"), get_target("x86")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("unions")


@pytest.fixture(scope="module")
def first(folder: Path) -> KernelUnion:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OFA_TVM_CACHE", str(folder))
        return kernel_union(SPACE, [32], TARGET, n_classes=10)


@pytest.fixture
def kept(first: KernelUnion, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of `first`; nothing may be lowered again."""
    monkeypatch.setenv("OFA_TVM_CACHE", str(folder))
    path = union_cache.place(SPACE, 32, TARGET, 10)
    assert path is not None and path.exists() and path.is_relative_to(folder)
    monkeypatch.setattr(union, "_lowered", None)
    return path


@pytest.mark.usefixtures("kept")
def test_kernels_are_read_as_they_were_found(first: KernelUnion) -> None:
    again = kernel_union(SPACE, [32], TARGET, n_classes=10)
    assert (again.by_block, again.resolutions) == (first.by_block, first.resolutions)
    assert len(again.kernels) == len(first.kernels)
    for old, new in zip(first.kernels, again.kernels, strict=True):
        assert (old.key, old.signature, old.flops, old.calls) == (
            new.key,
            new.signature,
            new.flops,
            new.calls,
        )
        tvm.ir.assert_structural_equal(old.mod, new.mod)
        assert kernel_key(new.mod["main"]) == new.key == old.key
    assert again.mean_calls(SPACE, [32], 10) == first.mean_calls(SPACE, [32], 10)


@pytest.mark.usefixtures("kept")
def test_only_subnets_that_nobody_lowered_are_to_be_lowered() -> None:
    """So that a search says how long it enumerates."""
    assert subnets_to_lower(SPACE, [32], TARGET, n_classes=10) == 0
    anew = subnets_to_lower(SPACE, [40], TARGET, n_classes=10)
    assert 0 < anew < 100 and subnets_to_lower(SPACE, [32, 40], TARGET, n_classes=10) == anew
    assert subnets_to_lower(SPACE, [32], TARGET.with_dtype("int8"), n_classes=10) > 0


def test_a_file_cut_anywhere_or_changed_is_not_read(kept: Path) -> None:
    whole = kept.read_bytes()
    for length in (0, 1, 31, 32, 33, len(whole) // 2, len(whole) - 1):
        kept.write_bytes(whole[:length])
        assert union_cache.kept(kept) is None
    kept.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    assert union_cache.kept(kept) is None
    kept.write_bytes(whole)
    assert union_cache.kept(kept) is not None


@pytest.mark.parametrize(
    ("space", "resolution", "target", "n_classes"),
    [
        (SPACE, 40, TARGET, 10),
        (SPACE, 32, TARGET, 11),
        (SPACE, 32, TARGET.with_batch(2), 10),
        (SPACE, 32, TARGET.with_dtype("int8"), 10),
        (SPACE, 32, get_target("x86-64-v2"), 10),
        (ofa_tvm.get_space("ofa_mbv3_w1.0"), 32, TARGET, 10),
    ],
)
def test_whatever_kernels_depend_on_has_a_file_of_its_own(
    space: Space, resolution: int, target: ofa_tvm.Target, n_classes: int
) -> None:
    path = union_cache.place(space, resolution, target, n_classes)
    assert path is not None and path != union_cache.place(SPACE, 32, TARGET, 10)


def test_what_other_versions_kept_goes_once_it_is_not_used(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OFA_TVM_CACHE", str(tmp_path))
    own = union_cache.place(SPACE, 32, TARGET, 10)
    lowered = union_cache.kept(kept)
    assert own is not None and lowered is not None
    unused, used, ours = (own.parent.parent / name / "x.zz" for name in ("1111", "2222", own.parent.name))
    for file in (unused, used, ours):
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(kept, file)
        os.utime(file, (time.time() - 31 * 86400,) * 2)
    union_cache.kept_keys(used)  # as that version would
    union_cache.keep(own, lowered)
    assert [file.exists() for file in (unused.parent, used, ours, own)] == [False, True, True, True]
    assert union_cache.class_counts(SPACE, 32) == (10,)
    assert union_cache.kept_keys(own) == {kernel.key for kernel in lowered.kernels}


def test_spaces_that_others_define_are_not_kept() -> None:
    assert union_cache.place(replace(SPACE, bn_eps=1e-4), 32, TARGET, 10) is None
    assert union_cache.place(replace(SPACE, name="mine"), 32, TARGET, 10) is None


def test_a_folder_that_cannot_be_written_is_no_obstacle(
    first: KernelUnion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OFA_TVM_CACHE", str(tmp_path / "file"))
    with pytest.warns(NotCached, match="OFA_TVM_CACHE names another folder"):
        found = kernel_union(SPACE, [32], TARGET, n_classes=10)
    assert {kernel.key for kernel in found.kernels} == {kernel.key for kernel in first.kernels}

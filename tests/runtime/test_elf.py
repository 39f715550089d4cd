"""Damaged and foreign libraries are refused before the system's loader sees them."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from emulated import arm_target
from opencl_device import skip_without_opencl
from small_module import SIZE, SmallModule, build_small_module, write_small_onnx

import ofa_tvm
from ofa_tvm.errors import UserError
from ofa_tvm.runtime import append_checksum
from ofa_tvm.runtime.elf import require_whole, runs_in_parallel
from ofa_tvm.targets import get_target


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        ofa_tvm.load(path)
    assert len(str(caught.value)) < 400
    return str(caught.value)


def test_a_library_cut_anywhere_is_refused(small: SmallModule, tmp_path: Path) -> None:
    """The loader dies of most of these (SIGBUS, SIGSEGV), with this process, if it ever sees them."""
    whole, path = small.so.read_bytes(), tmp_path / "m.so"
    rng = random.Random(0)
    ends = [0, 1, 4, 19, 20, 63, 64, 100, len(whole) - 40, len(whole) - 1]
    for end in ends + [rng.randrange(len(whole)) for _ in range(200)]:
        path.write_bytes(whole[:end])
        message = refusal(path)
        if 64 <= end < len(whole) - 40:
            assert "is damaged: it is cut short" in message


def test_a_library_with_a_flipped_bit_is_refused(small: SmallModule, tmp_path: Path) -> None:
    whole, path = small.so.read_bytes(), tmp_path / "m.so"
    rng = random.Random(0)
    for place in [*range(64), *(rng.randrange(len(whole)) for _ in range(200)), len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        refusal(path)
    path.write_bytes(whole + b"\0")
    assert "carries no checksum" in refusal(path)
    path.write_bytes(whole)
    ofa_tvm.load(path)


def test_a_foreign_library_is_never_opened(tmp_path: Path) -> None:
    source, trace = tmp_path / "other.c", tmp_path / "opened"
    source.write_text(
        "#include <fcntl.h>\n__attribute__((constructor)) static void start(void) "
        f'{{ open("{trace}", O_CREAT | O_WRONLY, 0600); }}\n'
    )
    library = tmp_path / "other.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    assert "is not a module that ofa-tvm compiled" in refusal(library)
    assert not trace.exists()
    append_checksum(library)
    refusal(library)
    assert trace.exists(), "the test's library does tell when it is opened"


def test_folders_and_pipes_are_no_modules(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.so")
    assert "not a compiled module" in refusal(tmp_path / "pipe.so")
    with pytest.raises(UserError):
        ofa_tvm.load(tmp_path)


def test_tools_leave_a_module_usable(small: SmallModule, tmp_path: Path) -> None:
    """A copy is whole; one that was stripped is another file and says so."""
    copy = Path(shutil.copy(small.so, tmp_path / "copy.so"))
    x = np.ones((1, 3, SIZE, SIZE), np.float32)
    np.testing.assert_array_equal(np.asarray(ofa_tvm.load(copy)(x)), np.asarray(ofa_tvm.load(small.so)(x)))
    subprocess.run(["strip", copy], check=True)
    assert "carries no checksum" in refusal(copy)


@pytest.mark.parametrize("name", ["cortex-a72", "opencl"])
def test_modules_of_other_kinds_carry_it_too(small: SmallModule, tmp_path: Path, name: str) -> None:
    if name == "opencl":
        skip_without_opencl()
    target = arm_target(name) if name.startswith("cortex") else get_target(name)
    so = build_small_module(small.onnx, tmp_path / "m.so", target)
    require_whole(so)


@pytest.mark.usefixtures("all_cpus")
def test_a_library_says_whether_its_kernels_ask_for_threads(small: SmallModule, tmp_path: Path) -> None:
    so = tmp_path / "m.so"
    wide = write_small_onnx(tmp_path / "wide.onnx", width=256)
    build_small_module(wide, so, small.target.with_threads(2))
    assert runs_in_parallel(so) and not runs_in_parallel(small.so)

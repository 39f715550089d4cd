"""Paths that are no files, names that no file can have, and places where nothing can be written."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from small_module import SmallModule, write_small_onnx
from verbs import Verbs

import ofa_tvm
from ofa_tvm.compiler.objects import NotCached
from ofa_tvm.errors import UserError
from ofa_tvm.files import require_room, write_atomic
from ofa_tvm.images import open_image
from ofa_tvm.supernet.checkpoint import read_checkpoint

_LONG = "n" * 5000
_READING = [
    ("run", "small.so", "{}"),
    ("run", "{}", "x.png"),
    ("bench", "{}"),
    ("compile", "{}"),
    ("measure", "{}"),
    ("tune", "{}"),
    ("report", "{}"),
    ("train", "--data", "digits", "--config", "{}"),
    ("train", "--data", "digits", "--init", "{}"),
    ("evaluate", "--checkpoint", "{}"),
    ("collect", "--archs", "{}"),
    ("predictor", "fit", "--data", "{}", "-o", "m"),
    ("search", "--latency", "1ms", "--accuracy-predictor", "{}"),
]
_WRITING = [
    ("compile", "small.onnx", "-o", "{}"),
    ("report", "-o", "{}"),
    ("train", "--data", "digits", "-o", "{}"),
    ("evaluate", "--fit", "{}"),
    ("evaluate", "--cache", "{}"),
    ("export", "min", "--space", "ofa_digits", "-o", "{}"),
    ("collect", "-o", "{}"),
    ("search", "--latency", "1ms", "-o", "{}"),
    ("quickstart", "-o", "{}"),
    ("predictor", "fit", "--data", "x.csv", "-o", "{}"),
    ("targets", "probe", "-o", "{}"),
    ("device", "bundle", "-o", "{}"),
]


def _said(ofa: Verbs, folder: Path, words: tuple[str, ...], path: object) -> str:
    said = ofa(folder, *(word.format(path) for word in words)).error(2)
    assert len(said) < 400
    return said


@pytest.mark.parametrize("words", _READING + _WRITING, ids=" ".join)
def test_what_is_no_file_and_no_name(words: tuple[str, ...], ofa: Verbs, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "pipe is a named pipe, not a file" in _said(ofa, tmp_path, words, tmp_path / "pipe")
    assert "/dev/null is a device, not a file" in _said(ofa, tmp_path, words, "/dev/null")
    assert "File name too long" in _said(ofa, tmp_path, words, _LONG)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pipe"]


@pytest.mark.parametrize("words", _WRITING, ids=" ".join)
def test_where_nothing_can_be_written(words: tuple[str, ...], ofa: Verbs, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file is a file" in _said(ofa, tmp_path, words, tmp_path / "file" / "new")
    if not os.access("/sys/kernel", os.W_OK):
        assert "read-only" in _said(ofa, tmp_path, words, "/sys/kernel/new")


def test_readers_and_writers_refuse_it_too(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for use in (
        lambda: open_image(tmp_path / "pipe.png"),
        lambda: read_checkpoint(tmp_path / "pipe.png"),
        lambda: write_atomic(tmp_path / "pipe.png", ""),
        lambda: ofa_tvm.get_target(str(tmp_path / "pipe.png")),
    ):
        with pytest.raises(UserError, match=r"pipe\.png"):
            use()
    assert (tmp_path / "pipe.png").is_fifo()


def test_compiling_goes_on_without_a_cache(
    small: SmallModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And makes what it makes with one, byte for byte."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OFA_TVM_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(NotCached, match="going on without the cache of kernels; OFA_TVM_CACHE names"):
        ofa_tvm.compile(small.onnx, small.target, tmp_path / "m.so")
    monkeypatch.undo()
    ofa_tvm.compile(small.onnx, small.target, tmp_path / "again" / "m.so")
    assert (tmp_path / "m.so").read_bytes() == (tmp_path / "again" / "m.so").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, 4096, 1 << 21])
def test_compiling_into_a_full_disk_is_a_sentence(tmp_path: Path, limit: int) -> None:
    """LLVM would end the process, and the linker say it in words of its own."""
    write_small_onnx(tmp_path / "small.onnx")
    words = ("compile", "small.onnx", "-o", "m.so", "--json")
    done = subprocess.run(
        [sys.executable, "-m", "ofa_tvm", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1, done.stderr
    said = json.loads(done.stdout)["error"]
    assert len(said) < 400 and ("ulimit -f" in said or "TMPDIR" in said)
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]


def test_too_little_room(tmp_path: Path) -> None:
    require_room(tmp_path, 1)
    with pytest.raises(UserError, match=r"is full: .* MiB are needed"):
        require_room(tmp_path, 1 << 60)

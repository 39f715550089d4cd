"""Files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ofa_tvm.errors import UserError
from ofa_tvm.files import cache_dir, data_dir, read_text, replacing, sha256, write_atomic
from ofa_tvm.lines import append_line


def test_writing_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    for content in ("a long first content", "short", b"\x00bytes"):
        write_atomic(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("durable", [True, False])
def test_a_writer_that_fails_leaves_the_old_file(durable: bool, tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), replacing(path, durable=durable) as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


def test_what_is_written_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut leaves an empty file where the old one was; and its name before the call returns."""
    calls: list[tuple[str, int]] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        calls.append(("fsync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def replaced(path: Path, target: Path) -> Path:
        calls.append(("rename", path.stat().st_ino))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    for path in (tmp_path / "file", tmp_path / "file"):
        calls.clear()
        write_atomic(path, "content")
        file, folder = path.stat().st_ino, tmp_path.stat().st_ino
        assert calls == [("fsync", file), ("rename", file), ("fsync", folder)]
    calls.clear()
    with replacing(path, durable=False) as temporary:
        temporary.write_bytes(b"x")
    assert [name for name, _ in calls] == ["rename"]


def test_a_sync_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")

    def fails(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(UserError, match="No space left"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_text_is_read_with_and_without_a_mark_and_never_without_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content, text in ((b"text", "text"), (b"\xef\xbb\xbftext", "text"), (b"", "")):
        path.write_bytes(content)
        assert read_text(path, 1 << 20) == text
    for content, says in ((b"\xff", "is not a text file"), (b"x" * (1 << 20) + b"x", "larger than 1 MiB")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=says):
            read_text(path, 1 << 20)
    for name, says in (("absent", "No such file"), ("n" * 5000, "name too long"), ("a\0b", "null")):
        with pytest.raises(UserError, match=f"cannot read .*{says}"):
            read_text(tmp_path / name, 1 << 20)
    with pytest.raises(UserError, match="is a device, not a file"):
        read_text("/dev/zero", 1 << 20)


def test_temporary_names_keep_the_suffix_and_differ(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.so") as first, replacing(tmp_path / "a.so") as second:
        assert first.suffix == second.suffix == ".so"
        assert first != second
        first.write_bytes(b"1")
        second.write_bytes(b"2")
    assert (tmp_path / "a.so").read_bytes() == b"1"  # the outer one ends last
    assert len(list(tmp_path.iterdir())) == 1


def test_a_writer_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"), replacing(tmp_path / "a.so"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "folder", tmp_path / "file" / "below.txt"):
        with pytest.raises(UserError, match=f"cannot write {path}"):
            write_atomic(path, "x")
        with pytest.raises(UserError, match=f"cannot write {path}"):
            append_line(path, "x")
    assert not list((tmp_path / "folder").iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot write"):
        write_atomic(tmp_path / "file", "x")


def test_a_full_disk() -> None:
    with pytest.raises(UserError, match=r"cannot write /dev/full: No space left"):
        append_line("/dev/full", "x")


def test_readers_never_see_a_part(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, "0" * 100_000)
    program = (
        "import sys; from ofa_tvm.files import write_atomic\n"
        "print('begins', flush=True)\n"
        "for i in range(10**6): write_atomic(sys.argv[1], str(i % 10) * 100_000)\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )
    assert writer.stdout is not None
    writer.stdout.readline()
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        text = path.read_text()
        assert len(text) == 100_000
        assert len(set(text)) == 1
    writer.kill()
    writer.communicate()
    assert len(set(path.read_text())) == 1


def test_lines_are_appended_behind_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "log.jsonl"
    append_line(path, "first")
    append_line(path, "second\n")
    path.write_bytes(path.read_bytes() + b"tor")
    append_line(path, "third")
    assert path.read_bytes() == b"first\nsecond\ntor\nthird\n"  # no beginning of a record: left alone


def test_sha256(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content" * 10_000)
    assert sha256(path) == hashlib.sha256(b"content" * 10_000).hexdigest()
    with pytest.raises(UserError, match="cannot read"):
        sha256(tmp_path / "absent")


def test_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OFA_TVM_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("OFA_TVM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "ofa-tvm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "ofa-tvm"
    assert (data_dir("targets") / "x86-64-v3.yaml").is_file()
    with pytest.raises(UserError, match="lacks its 'nothing' folder"):
        data_dir("nothing")

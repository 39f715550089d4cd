"""Files that grow line by line: cut anywhere, on a full disk, by many processes, nothing is lost."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ofa_tvm.errors import UserError
from ofa_tvm.lines import FileBusy, LineFile, append_line, torn_json, whole_lines

RECORDS = [{"n": 1, "text": "a{}[]\"'"}, {"n": 2, "nested": [{"x": "ö"}]}, {"n": 3}]
CONTENT = b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in RECORDS)


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_cut_at_every_byte_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for cut in range(len(CONTENT) + 1):
        path.write_bytes(CONTENT[:cut])
        before = whole_lines(CONTENT[:cut])
        append_line(path, '{"new": 1}')
        found = read(path)
        kept = found[:-1]
        assert kept == RECORDS[: len(kept)] and found[-1] == {"new": 1}
        assert len(kept) >= CONTENT[:cut].count(b"\n"), "no whole line is lost"
        assert [json.loads(line) for line in before.splitlines()] == kept, (
            "readers see what the next append keeps"
        )


@pytest.mark.parametrize("zeros", [1, 4096, 70_000])
def test_what_a_power_cut_leaves_is_healed(zeros: int, tmp_path: Path) -> None:
    for tail in (b"", b'{"n": 4', b'{"n": 4}'):
        path = tmp_path / "log.jsonl"
        path.write_bytes(CONTENT + tail + bytes(zeros))
        append_line(path, '{"new": 1}')
        assert read(path) == [*RECORDS, {"new": 1}]


def test_long_torn_lines_are_healed(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for front in (b"", CONTENT):
        path.write_bytes(front + b'{"text": "' + b"x" * 300_000)
        append_line(path, '{"new": 1}')
        assert read(path) == [*(RECORDS if front else []), {"new": 1}]


def test_what_is_not_ours_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    for text in (b"\x7fELF", b"arch,x86_ms", b"words", b'{"whole": 1}'):
        path.write_bytes(text)
        append_line(path, '{"new": 1}')
        assert path.read_bytes() == text + b'\n{"new": 1}\n'


@contextmanager
def room(path: Path, more: int) -> Iterator[None]:
    """Files end `more` bytes behind what `path` holds, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    line = '{"new": "' + "x" * 40 + '"}'
    for more in range(len(line) + 1):
        path.write_bytes(CONTENT)
        with room(path, more), pytest.raises(UserError, match=f"cannot write {path}: File too large"):
            append_line(path, line)
        assert path.read_bytes() == CONTENT
        append_line(path, line)
        assert path.read_bytes() == CONTENT + line.encode() + b"\n"


def test_a_line_is_on_the_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is synced after the write, its folder once it is new; a sync that fails is a failed append."""
    calls: list[tuple[str, int]] = []
    fsync, write = os.fsync, os.write

    def synced(descriptor: int) -> None:
        calls.append(("fsync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def written(descriptor: int, data: bytes) -> int:
        calls.append(("write", os.fstat(descriptor).st_ino))
        return write(descriptor, data)

    path = tmp_path / "log.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", synced)
        patch.setattr(os, "write", written)
        append_line(path, "{}")
        append_line(path, "{}")
    file, folder = path.stat().st_ino, tmp_path.stat().st_ino
    assert calls == [("fsync", folder), ("write", file), ("fsync", file), ("write", file), ("fsync", file)]

    def fails(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises(UserError, match="No space left"):
            append_line(path, '{"n": 3}')
    assert path.read_bytes() == b"{}\n{}\n"


def test_a_held_file_is_busy_for_others_and_free_when_its_holder_dies(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    program = (
        "import sys, time; from ofa_tvm.lines import LineFile\n"
        "with LineFile(sys.argv[1]) as file: file.append('{}'); print('held', flush=True); time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(FileBusy, match=f"another process is writing to {path}"), LineFile(path, wait=False):
        pass
    holder.kill()
    holder.communicate()
    with LineFile(path, wait=False) as file:
        file.append('{"mine": 1}')
    assert path.read_text() == '{}\n{"mine": 1}\n'
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.jsonl"], "the lock leaves nothing behind"


def test_many_processes_append_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    program = (
        "import json, sys; from ofa_tvm.lines import append_line\n"
        "for i in range(40):\n"
        "    append_line(sys.argv[1], json.dumps({'who': sys.argv[2], 'i': i, 'x': 'x' * 9000}))\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(path), str(k)]) for k in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4
    found = read(path)
    for k in range(4):
        assert [line["i"] for line in found if line["who"] == str(k)] == list(range(40))


def test_beginnings_of_lines() -> None:
    line = json.dumps(RECORDS[1]).encode()
    assert all(torn_json(line[:i]) for i in range(1, len(line))) and not torn_json(line)
    assert torn_json(b'{"a": ' + b"[" * 50_000) and not torn_json(b"words")

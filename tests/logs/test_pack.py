"""Packed logs hold the best records of every kernel and are read like any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.logs import Header, Record, Signature, read_folder
from ofa_tvm.logs.pack import pack

HEADER = Header("znver5", {"kind": "llvm"}, "a machine", {"tvm": "0.27"}, "2026-11-22")
PRODUCT = Signature(("matmul",), ((4, 8), (8, 2), (4, 2)), ("float32",) * 3)


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "znver5"
    folder.mkdir()
    records = [
        Record("a", PRODUCT, [["x"], []], (3.0, 3.1)),
        Record("a", PRODUCT, [["y"], []], (2.0, 2.1)),
        Record("b", PRODUCT, [["z"], []], (), "crashed"),
        Record("c", PRODUCT, [["w"], []], (1.0,)),
    ]
    lines = [HEADER.to_line(), *(record.to_line() for record in records)]
    (folder / "tuning.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_best_records_survive(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    assert pack(folder, tmp_path / "packed" / "tuning.jsonl.xz") == 2
    packed = read_folder(tmp_path / "packed")
    assert not packed.problems
    assert {key: [r.trace for r in records] for key, records in packed.records.items()} == {
        "a": [[["y"], []]],
        "c": [[["w"], []]],
    }


def test_a_damaged_log_is_not_shipped(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    log = folder / "tuning.jsonl"
    log.write_text(log.read_text().replace('"matmul"', '"matmul2"', 1))
    with pytest.raises(UserError, match="line 2"):
        pack(folder, tmp_path / "out.jsonl.xz")
    assert not (tmp_path / "out.jsonl.xz").exists()


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no tuning log"):
        pack(tmp_path, tmp_path / "out.jsonl.xz")

"""Writing a latency table: what is appended is whole, whatever happens meanwhile."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ofa_tvm.errors import UserError
from ofa_tvm.latency.dataset import Column, read_table
from ofa_tvm.latency.writer import LatencyWriter
from ofa_tvm.lines import LineFile
from ofa_tvm.spaces import get_space

SPACE = get_space("ofa_digits")


def test_what_is_appended_is_read_back_and_resumed(tmp_path: Path) -> None:
    path = tmp_path / "lat.csv"
    sample = SPACE.decode(SPACE.sample_genes(np.random.default_rng(1), 6))
    writer = LatencyWriter(path, SPACE, Column("x86"))
    for i, arch in enumerate(sample[:3]):
        writer.append(arch, 1.0 + i / 4, mad_ms=0.01, repeats=7)
    again = LatencyWriter(path, SPACE, Column("x86"))
    assert again.measured == {a: 1.0 + i / 4 for i, a in enumerate(sample[:3])}
    again.append(sample[3], 4.0)
    table = read_table(path)  # the space is recorded beside the table
    assert table.archs == tuple(sample[:4])
    column, values = table.column("x86")
    assert column.unit == "ms"
    assert values.tolist() == [1.0, 1.25, 1.5, 4.0]
    assert table.meta[0]["mad_ms"] == 0.01
    with pytest.raises(UserError, match="already holds"):
        again.append(sample[0], 1.0)
    with pytest.raises(UserError, match="NaN"):
        again.append(sample[4], float("nan"))
    assert len(read_table(path)) == 4


def test_a_row_cut_short_by_a_kill_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "lat.csv"
    first, second = SPACE.decode(SPACE.sample_genes(np.random.default_rng(1), 2))
    writer = LatencyWriter(path, SPACE, Column("x86"))
    writer.append(first, 1.0)
    writer.append(second, 2.0)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    resumed = LatencyWriter(path, SPACE, Column("x86"))
    assert list(resumed.measured) == [first]
    resumed.append(second, 2.0)
    assert path.read_bytes() == whole


def test_a_table_cut_anywhere_is_gone_on_with(tmp_path: Path) -> None:
    """Table or notes: what is whole is kept, what is torn is measured again, and no value is half read."""
    sample = SPACE.decode(SPACE.sample_genes(np.random.default_rng(1), 2))
    truth = dict(zip(sample, (1.25, 2.0625), strict=True))
    path = tmp_path / "lat.csv"
    meta = tmp_path / "lat.meta.jsonl"
    with LatencyWriter(path, SPACE, Column("x86")) as writer:
        for arch, value in truth.items():
            writer.append(arch, value, n_classes=10)
    whole = {path: path.read_bytes(), meta: meta.read_bytes()}
    for file in (path, meta):
        for cut in range(0, len(whole[file]), 1 if file == path else 7):
            for one, content in whole.items():
                one.write_bytes(content[:cut] if one == file else content)
            if file == path and whole[path][:cut].count(b"\n") > 1:
                read = read_table(path)
                assert truth.items() >= dict(zip(read.archs, read.values[:, 0], strict=True)).items()
            with LatencyWriter(path, SPACE, Column("x86")) as writer:
                assert truth.items() >= writer.measured.items()
                assert len(writer.measured) >= path.read_bytes().count(b"\n") - 1
                for arch in sample:
                    if arch not in writer.measured:
                        writer.append(arch, truth[arch], n_classes=10)
            table = read_table(path, SPACE)
            assert dict(zip(table.archs, table.values[:, 0], strict=True)) == truth, (file.name, cut)
            assert len(table) == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["lat.csv", "lat.meta.jsonl"]


def test_a_last_row_without_newline_is_kept_if_it_is_whole(tmp_path: Path) -> None:
    """Editors leave the newline out; only a row that is not what was noted of it is torn."""
    path = tmp_path / "lat.csv"
    (arch,) = SPACE.decode(SPACE.sample_genes(np.random.default_rng(1), 1))
    with LatencyWriter(path, SPACE, Column("x86")) as writer:
        writer.append(arch, 1.25)
    text = path.read_text()
    path.write_text(text[:-1])
    assert read_table(path).values.tolist() == [[1.25]]
    path.write_text(text[:-2])  # 1.2
    with pytest.raises(UserError, match="no rows"):
        read_table(path)
    path.with_name("lat.meta.jsonl").unlink()  # somebody's own table
    assert read_table(path, SPACE).values.tolist() == [[1.2]]
    with LatencyWriter(path, SPACE, Column("x86")) as writer:
        assert writer.measured == {arch: 1.2}


def test_notes_are_written_before_their_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a kill between the two would leave a row of which nothing is known."""
    path = tmp_path / "lat.csv"
    with LatencyWriter(path, SPACE, Column("x86")) as writer:
        monkeypatch.setattr(LineFile, "append", _stop_at(path))
        with pytest.raises(KeyboardInterrupt):
            writer.append(SPACE.min_arch(), 1.0)
    assert path.read_text() == "arch,x86_ms\n"
    assert json.loads(path.with_name("lat.meta.jsonl").read_text())["value"] == 1.0


def _stop_at(path: Path) -> Callable[[LineFile, str], None]:
    append = LineFile.append

    def stopped(file: LineFile, line: str) -> None:
        if file.path == path:
            raise KeyboardInterrupt
        append(file, line)

    return stopped


def test_one_process_at_a_time_measures_into_a_table(tmp_path: Path) -> None:
    path = tmp_path / "lat.csv"
    with LatencyWriter(path, SPACE, Column("x86")) as first:
        first.append(SPACE.min_arch(), 1.0)
        second = LatencyWriter(path, SPACE, Column("x86"))
        with pytest.raises(UserError, match=r"another process is measuring into .*lat.csv; wait"), second:
            pass
        first.append(SPACE.max_arch(), 2.0)
    with second:
        assert set(second.measured) == {SPACE.min_arch(), SPACE.max_arch()}
        with pytest.raises(UserError, match="already holds"):
            second.append(SPACE.max_arch(), 2.0)


def test_a_file_that_is_no_table_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "lat.csv"
    packed = gzip.compress(b"arch,x86_ms\n")
    for content in (packed, b"\x7fELF\xff", b"notes", b"arch,arm_ms", b"arch,x86_ms,note\n"):
        path.write_bytes(content)
        with pytest.raises(UserError):
            LatencyWriter(path, SPACE, Column("x86"))
        assert path.read_bytes() == content


def test_a_table_of_another_target_or_space_is_not_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "lat.csv"
    LatencyWriter(path, SPACE, Column("x86")).append(SPACE.min_arch(), 1.0)
    with pytest.raises(UserError, match="heading"):
        LatencyWriter(path, SPACE, Column("arm"))
    with pytest.raises(UserError, match="ofa_digits"):
        read_table(path, "ofa_mbv3_w1.0")

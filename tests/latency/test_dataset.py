from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.latency.dataset import Column, read_table
from ofa_tvm.latency.writer import LatencyWriter
from ofa_tvm.spaces import get_space

SPACE = get_space("ofa_digits")


def write(path: Path, rows: list[tuple[str, str]], heading: str = "arch,x86_ms") -> Path:
    lines = [heading]
    for arch, value in rows:
        quoted = arch.replace('"', '""')
        lines.append(f'"{quoted}",{value}')
    path.write_text("\n".join(lines) + "\n")
    return path


def archs(n: int) -> list[str]:
    return [a.to_json() for a in SPACE.decode(SPACE.sample_genes(np.random.default_rng(0), n))]


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("x86_ms", Column("x86")),
        ("rtx2080ti_b64_ms", Column("rtx2080ti", batch=64)),
        ("arm_minstr", Column("arm", "Minstr")),
        ("gold_6226_ms", Column("gold_6226")),
    ],
)
def test_a_heading_is_read_and_written_alike(name: str, column: Column) -> None:
    assert Column.parse(name) == column
    assert column.name == name


def test_a_heading_without_unit_is_refused() -> None:
    with pytest.raises(UserError, match="x86_seconds"):
        Column.parse("x86_seconds")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text + "\n\n  \n",
        lambda text: "\n" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("x86_ms", " x86_ms "),
        lambda text: text.replace(",", " , ", 1),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: text.rstrip("\n"),
    ],
    ids=["mark", "blank lines", "blank first", "windows", "spaces", "more spaces", "double spaced", "no end"],
)
def test_tables_as_people_save_them(change: Callable[[str], str], tmp_path: Path) -> None:
    path = write(tmp_path / "lat.csv", [(arch, "5.0") for arch in archs(3)])
    path.write_bytes(change(path.read_text()).encode())
    table = read_table(path, SPACE)
    assert [column.name for column in table.columns] == ["x86_ms"]
    assert table.values.tolist() == [[5.0]] * 3
    (new,) = (a for a in (SPACE.min_arch(),) if a not in table.archs)
    with LatencyWriter(path, SPACE, Column("x86")) as writer:
        writer.append(new, 6.0)
    assert read_table(path).values[:, 0].tolist() == [5.0, 5.0, 5.0, 6.0]


@pytest.mark.parametrize("text", ["1_0", "0x10", "1e", "٣", "1 000", "5,0", "1e400", "-0.0"])
def test_numbers_are_plain(text: str, tmp_path: Path) -> None:
    rows = [(arch, "5.0") for arch in archs(3)]
    rows[1] = (rows[1][0], f'"{text}"')
    with pytest.raises(UserError, match="row 3"):
        read_table(write(tmp_path / "lat.csv", rows), SPACE)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("null", "row 2: None is not a table of keys"),
        ("5", "row 2: 5 is not a table of keys"),
        ("[" * 50_000, "row 2 is not JSON"),
        ('{"value": 1' + "0" * 400 + "}", "row 2 is not JSON .*too large"),
        ('{"space": 5}', "row 2, space: 5 is not text"),
        ('{"n_classes": -1}', "row 2, n_classes: -1 is below"),
        ('{"column": []}', "row 2, column:"),
        ('{"column": "x86", "arch": {}}', "no latency"),
        ("{", "row 2 is not JSON"),
    ],
)
def test_damaged_notes_are_named(line: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "lat.csv"
    LatencyWriter(path, SPACE, Column("x86")).append(SPACE.min_arch(), 1.0)
    meta = tmp_path / "lat.meta.jsonl"
    meta.write_text(meta.read_text() + line + "\n")
    with pytest.raises(UserError, match=says) as caught:
        read_table(path)
    assert len(str(caught.value).replace(str(tmp_path), "")) < 300


@pytest.mark.parametrize(
    "cell", ["[" * 50_000, "null", "5", '{"ks": 1' + "0" * 400 + "}", "x" * 10**6, '{"r": NaN}', "\x00"]
)
def test_cells_that_are_no_architecture_are_named(cell: str, tmp_path: Path) -> None:
    path = write(tmp_path / "lat.csv", [(archs(1)[0], "5.0"), (cell, "5.0")])
    with pytest.raises(UserError, match="row 3") as caught:
        read_table(path, SPACE)
    assert len(str(caught.value).replace(str(tmp_path), "")) < 300


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("-1", "above 0"),
        ("0", "above 0"),
        ("nan", "NaN"),
        ("inf", "infinite"),
        ("", "not a number"),
        ("fast", "not a number"),
        ("100000", "absurd"),
        ("0.0001", "absurd"),
    ],
)
def test_a_bad_latency_is_named_with_its_row(tmp_path: Path, value: str, message: str) -> None:
    rows = [(arch, "5.0") for arch in archs(6)]
    rows[3] = (rows[3][0], value)
    with pytest.raises(UserError, match=rf"row 5.*{message}"):
        read_table(write(tmp_path / "lat.csv", rows), SPACE)


def test_all_bad_rows_are_counted(tmp_path: Path) -> None:
    rows = [(arch, "-1") for arch in archs(9)]
    with pytest.raises(UserError, match=r"9 bad rows.*row 2.*and 4 more"):
        read_table(write(tmp_path / "lat.csv", rows), SPACE)


def test_equal_subnets_are_duplicates_even_if_their_json_differs(tmp_path: Path) -> None:
    arch = SPACE.min_arch()
    other = arch.replace(ks=(*arch.ks[:3], 7, *arch.ks[4:]))  # a block that depth switches off
    assert arch == other
    path = write(tmp_path / "lat.csv", [(arch.to_json(), "1"), (other.to_json(), "1")])
    with pytest.raises(UserError, match="row 3 repeats the architecture of row 2"):
        read_table(path, SPACE)


def test_an_architecture_outside_the_space_is_named_with_its_row(tmp_path: Path) -> None:
    outside = json.loads(SPACE.min_arch().to_json()) | {"r": 33}
    path = write(tmp_path / "lat.csv", [(archs(1)[0], "1"), (json.dumps(outside), "1")])
    with pytest.raises(UserError, match=r"row 3.*33"):
        read_table(path, SPACE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("arch,x86_ms\n", "no rows"),
        ("name,x86_ms\nfoo,1\n", "heading"),
        ("arch,x86_ms,arm_minstr\n", "mixes emulated"),
        ("arch,x86_ms\nnot json,1\n", "row 2"),
        ("arch,x86_ms\na,b,c\n", "3 cells"),
    ],
)
def test_a_file_that_is_no_table_is_explained(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "lat.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_table(path, SPACE)


def test_emulated_rows_among_real_ones_are_named(tmp_path: Path) -> None:
    real, emulated = tmp_path / "real.csv", tmp_path / "emulated.csv"
    sample = [SPACE.parse(text) for text in archs(5)]
    for path, column, some in (
        (real, Column("x86"), sample[:3]),
        (emulated, Column("a72", "Minstr"), sample[3:]),
    ):
        writer = LatencyWriter(path, SPACE, column)
        for arch in some:
            writer.append(arch, 2.5)
    real.write_text(real.read_text() + "".join(emulated.read_text().splitlines(keepends=True)[1:]))
    meta = real.with_name("real.meta.jsonl")
    meta.write_text(meta.read_text() + emulated.with_name("emulated.meta.jsonl").read_text())
    with pytest.raises(UserError, match=r"2 bad rows: row 5 was measured as a72_minstr.* is ms; row 6"):
        read_table(real)


def test_damaged_files_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "lat.csv.gz"
    path.write_bytes(gzip.compress(b"arch,x86_ms\n" * 50)[:30])
    with pytest.raises(UserError, match="cannot read"):
        read_table(path, SPACE)
    with pytest.raises(UserError, match="cannot read"):
        read_table(tmp_path / "missing.csv", SPACE)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        read_table(path, SPACE)


def test_a_table_without_its_space_asks_for_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--space"):
        read_table(write(tmp_path / "lat.csv", [(archs(1)[0], "1")]))


def test_the_published_dataset_is_read_whole(shared_data: Path) -> None:
    table = read_table(shared_data / "latency" / "ofa_mbv3_paper_val.csv.gz", "ofa_mbv3_w1.2")
    assert len(table) == 1500
    column, values = table.column("rtx2080ti")
    assert (column.batch, len(values)) == (64, 1500)
    with pytest.raises(UsageError, match="choose one of"):
        table.column()


def test_fbnets_table_says_its_space(tmp_path: Path, shared_data: Path) -> None:
    table = read_table(shared_data / "latency" / "fbnet_devices.csv.gz")
    assert table.space.name == "fbnet" and table.values.shape == (4000, 20)
    with pytest.raises(UserError, match="belongs to another space"):
        read_table(shared_data / "latency" / "fbnet_devices.csv.gz", "ofa_mbv3_w1.0")
    with pytest.raises(UserError, match="belongs to another space"):
        read_table(write(tmp_path / "lat.csv", [(archs(1)[0], "1")]), "fbnet")
    path = write(tmp_path / "ops.csv", [('["k3_e1"]', "1")], "ops,x86_ms")
    with pytest.raises(UserError, match=r"row 2.*22 blocks"):
        read_table(path)


@pytest.mark.parametrize(("note", "classes"), [({}, 1000), ({"n_classes": 10}, 10)])
def test_the_classes_of_the_networks_are_those_of_the_notes(
    note: dict[str, int], classes: int, tmp_path: Path
) -> None:
    path = tmp_path / "lat.csv"
    LatencyWriter(path, SPACE, Column("x86")).append(SPACE.min_arch(), 1.0)
    meta = tmp_path / "lat.meta.jsonl"
    (entry,) = (json.loads(line) for line in meta.read_text().splitlines())
    entry.pop("n_classes", None)
    meta.write_text(json.dumps(entry | note) + "\n")
    assert read_table(path).n_classes == classes

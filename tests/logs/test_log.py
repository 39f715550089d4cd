"""Tuning logs: whatever happens to a file, what is good in it is kept and what is not is named."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import signal
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa_tvm.errors import UserError
from ofa_tvm.files import data_dir
from ofa_tvm.logs import (
    Header,
    KernelTable,
    LogWriter,
    Record,
    Signature,
    find_records,
    log_name,
    read_folder,
    timed_on,
)
from ofa_tvm.logs.pack import pack
from ofa_tvm.targets import Target, get_target, load_target

HEADER = Header(
    target="x86-64-v3",
    tvm_target={"kind": "llvm"},
    machine="a machine",
    versions={"tvm": "0"},
    date="2026-01-01",
)
PRODUCT = Signature(("matmul", "add"), ((1, 2), (2, 3), (1, 3)), ("float32",) * 3)


@pytest.fixture
def target() -> Target:
    return get_target("x86-64-v3")


def record(kernel: str = "k", *times: float, trace: object = None) -> Record:
    return Record(kernel, PRODUCT, trace or [[["GetSBlock", [], list(times), []]], []], times)


def counts(table: KernelTable) -> dict[str, int]:
    return {kernel: table.trials(kernel) for kernel in {*table.records, *table.failures}}


def write(root: Path, target: Target, *records: Record) -> Path:
    with LogWriter(root, target, replace(HEADER, target=log_name(target))) as log:
        for one in records:
            log.append(one)
    return log.folder / "tuning.jsonl"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


extents = st.lists(st.integers(0, 2**40), max_size=5).map(tuple)
signatures = st.builds(
    lambda operators, tensors: Signature(
        tuple(operators), tuple(shape for shape, _ in tensors), tuple(dtype for _, dtype in tensors)
    ),
    st.lists(st.from_regex(r"[a-z][a-z0-9-]*", fullmatch=True), min_size=1),
    st.lists(st.tuples(extents, st.sampled_from(["float32", "float16", "bool"])), min_size=1),
)


@given(
    kernel=st.text(),
    signature=signatures,
    trace=json_values,
    times=st.lists(st.floats(0.001, 1e6)),
    error=st.text(),
    throttled=st.booleans(),
)
def test_records_survive_the_round_trip(
    kernel: str, signature: Signature, trace: object, times: list[float], error: str, throttled: bool
) -> None:
    samples = tuple(round(t, 4) for t in times)
    made = Record(kernel, signature, trace, samples, error, throttled=throttled)
    line = made.to_line()
    assert "\n" not in line
    assert Record.from_line(line) == made
    assert Record.from_line(line + "\n") == made


def test_headers_survive_the_round_trip() -> None:
    assert Header.from_line(HEADER.to_line()) == HEADER


def test_median_is_the_time() -> None:
    assert record("k", 3.0, 1.0, 2.0).time_us == 2.0
    assert record("k").time_us == float("inf")


def test_best_record_is_the_fastest(tmp_path: Path, target: Target) -> None:
    slow, fast, failed = record("a", 9.0), record("a", 3.0, 4.0, 3.5), record("a")
    write(tmp_path, target, slow, failed, fast, record("b", 1.0))
    table = read_folder(tmp_path / "x86-64-v3")
    assert table.best("a") == fast
    assert table.records["a"] == [fast, slow]
    assert (table.trials("a"), table.trials("b"), table.trials("c")) == (3, 1, 0)
    assert table.best("c") is None
    assert not table.problems


def test_appending_goes_on_in_the_same_file(tmp_path: Path, target: Target) -> None:
    for time_us in (2.0, 1.0):
        path = write(tmp_path, target, record("a", time_us))
    assert len(path.read_text().splitlines()) == 3
    assert counts(read_folder(path.parent)) == {"a": 2}


def test_torn_last_line_is_named_and_closed(tmp_path: Path, target: Target) -> None:
    path = write(tmp_path, target, record("a", 1.0), record("b", 2.0))
    path.write_bytes(path.read_bytes()[:-20])
    table = read_folder(path.parent)
    assert counts(table) == {"a": 1}
    assert len(table.problems) == 1
    assert f"{path}, line 3 is left out" in table.problems[0]
    write(tmp_path, target, record("c", 3.0))  # must not be swallowed by the torn line
    table = read_folder(path.parent)
    assert counts(table) == {"a": 1, "c": 1}
    assert not table.problems, "the torn line is gone"


def test_a_log_cut_anywhere_is_gone_on_with(tmp_path: Path, target: Target) -> None:
    """Whole lines in front of the cut are kept, and what is written behind it is read without a word."""
    whole = write(tmp_path, target, record("a", 1.0), record("b", 2.0)).read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    path = tmp_path / log_name(target) / "tuning.jsonl"
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        write(tmp_path, target, record("c", 3.0))
        table = read_folder(path.parent)
        assert not table.problems
        kept = sum(end - 1 <= cut for end in ends[1:])  # the last bracket alone makes a line whole
        assert counts(table) == dict.fromkeys("ab"[:kept], 1) | {"c": 1}, cut
    assert [file.name for file in path.parent.iterdir()] == ["tuning.jsonl"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"times_us":[2.0]', '"times_us":[0.1]'),
        ('"GetSBlock"', '"Unroll"'),
        ('"kernel":"b"', '"kernel":"a"'),
        ('"shapes":[[1,2]', '"shapes":[[1,3]'),
        ('"times_us":[2.0]', '"times_us":["fast"]'),
        ('"trace":', '"tarce":'),
        ("{", ""),
    ],
)
def test_edited_lines_are_named(old: str, new: str, tmp_path: Path, target: Target) -> None:
    path = write(tmp_path, target, record("a", 1.0), record("b", 2.0), record("c", 3.0))
    lines = path.read_text().splitlines()
    assert old in lines[2]
    lines[2] = lines[2].replace(old, new, 1)
    path.write_text("\n".join(lines) + "\n")
    table = read_folder(path.parent)
    assert counts(table) == {"a": 1, "c": 1}
    (problem,) = table.problems
    assert f"{path}, line 3 is left out" in problem


@pytest.mark.parametrize("damage", [b"\x00\xff\xfe", b"[1, 2]", b'"text"', b"null", b"{}"])
def test_lines_of_other_things_are_named(damage: bytes, tmp_path: Path, target: Target) -> None:
    path = write(tmp_path, target, record("a", 1.0))
    with path.open("ab") as handle:
        handle.write(damage + b"\n\n")
    write(tmp_path, target, record("b", 1.0))
    table = read_folder(path.parent)
    assert counts(table) == {"a": 1, "b": 1}
    assert ["line 3" in problem for problem in table.problems] == [True]


def test_a_log_of_another_target_is_left_out_and_left_alone(tmp_path: Path, target: Target) -> None:
    """Copied into a wrong folder, its times would pass for this target's own."""
    path = write(tmp_path, replace(target, name="x86-64-v4"), record("theirs", 1.0))
    own = write(tmp_path, target, record("ours", 1.0))
    own.unlink()
    path.rename(own)
    before = own.read_bytes()
    table = find_records(target, [tmp_path])
    assert "theirs" not in table.records
    assert f"{own} is left out: it is a log of 'x86-64-v4', not of x86-64-v3" in table.problems
    write(tmp_path, target, record("ours", 1.0))
    assert own.read_bytes() == before
    assert find_records(target, [tmp_path]).best("ours") is not None


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ('{"format": "ofa-tvm tuning log", "version": 99}', "version 99; this ofa-tvm reads version 1 and 2"),
        ('{"format": "something"}', "not the header"),
        ('{"format": "ofa-tvm tuning log", "version": 1}', "lacks 'target'"),
        ("[]", "not the header"),
        ("nothing", "not whole JSON"),
    ],
)
def test_files_with_another_header_are_left_out_and_left_alone(
    header: str, said: str, tmp_path: Path, target: Target
) -> None:
    folder = tmp_path / "x86-64-v3"
    folder.mkdir()
    old = folder / "tuning.jsonl"
    old.write_text(header + "\n" + record("a", 1.0).to_line() + "\n")
    before = old.read_bytes()
    table = read_folder(folder)
    assert not table.records
    assert f"{old} is left out" in table.problems[0]
    assert said in table.problems[0]
    write(tmp_path, target, record("b", 1.0))  # in a file that will be read
    assert old.read_bytes() == before
    assert counts(read_folder(folder)) == {"b": 1}


def test_header_cut_by_a_kill(tmp_path: Path, target: Target) -> None:
    folder = tmp_path / "x86-64-v3"
    folder.mkdir()
    (folder / "tuning.jsonl").write_text(HEADER.to_line()[:30])
    write(tmp_path, target, record("a", 1.0))
    assert counts(read_folder(folder)) == {"a": 1}


def test_empty_file_gets_its_header(tmp_path: Path, target: Target) -> None:
    folder = tmp_path / "x86-64-v3"
    folder.mkdir()
    (folder / "tuning.jsonl").touch()
    assert not read_folder(folder).problems
    path = write(tmp_path, target, record("a", 1.0))
    assert Header.from_line(path.read_text().splitlines()[0]) == HEADER


@pytest.mark.parametrize(("suffix", "opener"), [(".gz", gzip.open), (".xz", lzma.open)])
def test_compressed_logs(suffix: str, opener: object, tmp_path: Path, target: Target) -> None:
    path = write(tmp_path, target, record("a", 1.0), *(record(f"b{i}", 1.0 + i) for i in range(200)))
    packed = path.with_name(f"shipped.jsonl{suffix}")
    with opener(packed, "wt") as handle:  # type: ignore[operator]
        handle.write(path.read_text())
    path.unlink()
    table = read_folder(path.parent)
    assert len(table.records) == 201
    assert not table.problems
    write(tmp_path, target, record("a", 0.5))  # beside the shipped one
    assert read_folder(path.parent).trials("a") == 2
    packed.write_bytes(packed.read_bytes()[:-40])
    table = read_folder(path.parent)
    assert table.trials("a") >= 1
    assert any(str(packed) in problem for problem in table.problems)


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_damaged_compressed_logs(suffix: str, tmp_path: Path) -> None:
    text = "\n".join([HEADER.to_line(), *(record(f"k{i}", 1.0).to_line() for i in range(500))]).encode()
    content = bytearray((gzip if suffix == ".gz" else lzma).compress(text))
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    for name, data in (("damaged", bytes(content)), ("garbage", b"garbage" * 9)):
        (tmp_path / f"{name}.jsonl{suffix}").write_bytes(data)
    table = read_folder(tmp_path)
    for name in ("damaged", "garbage"):
        assert any(f"{name}.jsonl{suffix}" in problem for problem in table.problems)


def test_a_packed_log_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that compiles a thousand subnets reads what ships once; what it adds is in its own table."""
    file = tmp_path / "tuning.jsonl.xz"

    def pack_times(time_us: float) -> None:
        text = "\n".join([HEADER.to_line(), record("a", time_us).to_line(), "{torn"])
        file.write_bytes(lzma.compress(text.encode()))

    pack_times(5.0)
    first = read_folder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Record, "from_line", lambda _line: pytest.fail("it is read again"))
        first.add(record("a", 1.0, trace=["other"]))
        second = read_folder(tmp_path)
    assert [one.time_us for one in second.records["a"]] == [5.0]
    assert second.problems == first.problems and len(second.problems) == 1
    pack_times(7.0)
    os.utime(file, ns=(0, 1))
    assert [one.time_us for one in read_folder(tmp_path).records["a"]] == [7.0]


def test_two_writers_use_two_files(tmp_path: Path, target: Target) -> None:
    with LogWriter(tmp_path, target, HEADER) as first, LogWriter(tmp_path, target, HEADER) as second:
        for number in range(5):
            first.append(record("a", 10.0 + number))
            second.append(record("a", 20.0 + number))
    files = sorted(path.name for path in first.folder.glob("*.jsonl"))
    assert files == ["tuning-2.jsonl", "tuning.jsonl"]
    table = read_folder(first.folder)
    assert counts(table) == {"a": 10}
    assert not table.problems
    with LogWriter(tmp_path, target, HEADER) as third:
        third.append(record("a", 1.0))
    assert sorted(path.name for path in first.folder.glob("*.jsonl")) == files


def test_kill_while_appending(tmp_path: Path, target: Target) -> None:
    """Killed at any moment, at most the line in flight is lost, and the next writer goes on."""
    program = (
        "import sys; from pathlib import Path\n"
        "from test_log import *\n"
        "with LogWriter(Path(sys.argv[1]), get_target('x86-64-v3'), HEADER) as log:\n"
        "    for number in range(10**6):\n"
        "        log.append(record(f'{sys.argv[2]}-{number}', 1.0, trace=['x' * 5000]))\n"
        "        print(number, flush=True)\n"
    )
    here = Path(__file__).resolve().parent
    path = os.pathsep.join([str(here), str(here.parents[1])])
    for attempt in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), str(attempt)],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
            text=True,
        )
        assert writer.stdout is not None
        while int(writer.stdout.readline()) < 5:
            pass
        time.sleep(0.003 * attempt)
        writer.send_signal(signal.SIGKILL)
        reported = [int(line) for line in writer.stdout]
        writer.wait()
        table = read_folder(tmp_path / "x86-64-v3")
        for number in range(max(reported, default=5)):
            assert f"{attempt}-{number}" in table.records
        assert len(table.problems) <= attempt + 1
    assert len(list((tmp_path / "x86-64-v3").glob("*.jsonl"))) == 1


def test_unwritable_root(tmp_path: Path, target: Target) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="cannot write tuning logs to"),
        LogWriter(tmp_path / "file", target, HEADER),
    ):
        pass


def test_writing_outside_the_context_is_a_mistake(tmp_path: Path, target: Target) -> None:
    with pytest.raises(RuntimeError, match="context manager"):
        LogWriter(tmp_path, target, HEADER).append(record("a", 1.0))


def test_own_records_come_before_compatible_ones(tmp_path: Path, target: Target) -> None:
    """A kernel's records all come from the nearest folder that knows it; times of two targets never mix."""
    own, compatible = record("both", 5.0), record("both", 1.0)
    write(tmp_path, target, own)
    write(tmp_path, replace(target, name="x86-64-v2"), compatible, record("only there", 2.0))
    write(tmp_path, replace(target, name="unrelated"), record("unrelated", 2.0))
    table = find_records(target, [tmp_path])
    assert table.records["both"] == [own]
    assert table.records["only there"][0].time_us == 2.0
    assert "unrelated" not in table.records


def test_compatible_list_is_in_order(tmp_path: Path, target: Target) -> None:
    chain = replace(target, name="new", compatible=("first", "second"))
    for name, time_us in (("second", 1.0), ("first", 2.0)):
        write(tmp_path, replace(target, name=name), record("k", time_us), record(name, 1.0))
    table = find_records(chain, [tmp_path])
    assert table.records["k"][0].time_us == 2.0
    assert {"first", "second"} <= table.records.keys()


def test_earlier_folders_come_first(tmp_path: Path, target: Target) -> None:
    write(tmp_path / "a", target, record("k", 9.0))
    write(tmp_path / "b", target, record("k", 1.0), record("other", 1.0))
    table = find_records(target, [tmp_path / "a", tmp_path / "b"])
    assert table.records["k"][0].time_us == 9.0
    assert "other" in table.records


@pytest.mark.usefixtures("all_cpus")
def test_threads_have_logs_of_their_own(tmp_path: Path, target: Target) -> None:
    two = target.with_threads(2)
    assert (log_name(target), log_name(two)) == ("x86-64-v3", "x86-64-v3-2threads")
    write(tmp_path, two, record("k", 1.0))
    assert find_records(target, [tmp_path]).best("k") is None
    assert find_records(two, [tmp_path]).best("k") is not None


def test_a_probed_target_logs_under_its_cpu(target: Target) -> None:
    assert log_name(replace(target, name="x86", probed=True, compatible=("znver5", "x86-64-v4"))) == "znver5"


def test_missing_folder_is_no_records(tmp_path: Path) -> None:
    assert read_folder(tmp_path / "absent") == KernelTable()


def test_shipped_logs_are_whole() -> None:
    for folder in data_dir("tuning_logs").iterdir():
        if folder.is_dir():
            assert not read_folder(folder).problems


def test_what_is_found_in_shipped_logs_is_the_callers_own() -> None:
    target = get_target("x86-64-v3")
    found = find_records(target)
    kernel, records = next(iter(found.records.items()))
    again = list(records)
    found.add(replace(records[0], trace=[[], []], times_us=(1e-3,)))
    found.machines[kernel].add("another")
    assert find_records(target).records[kernel] == again
    assert "another" not in find_records(target).machines[kernel]


def test_lines_are_json(tmp_path: Path, target: Target) -> None:
    """The log is a table that other programs can read."""
    path = write(tmp_path, target, record("a", 1.0))
    header, line = (json.loads(text) for text in path.read_text().splitlines())
    assert header["machine"] == "a machine"
    assert line["times_us"] == [1.0]


def test_times_of_other_devices_are_known_as_such(tmp_path: Path) -> None:
    """Schedules of a compatible target serve, but their times are not this device's."""
    target = replace(get_target("x86-64-v4"), name="mine", compatible=("theirs",))
    for name, kernels in {"mine": "a", "theirs": "ab"}.items():
        header = Header(name, {"kind": "llvm"}, "a machine", {"tvm": "0.27"}, "2026-11-22")
        lines = [header.to_line(), *(Record(k, PRODUCT, [[], []], (1.0,)).to_line() for k in kernels)]
        (tmp_path / name).mkdir()
        (tmp_path / name / "tuning.jsonl").write_text("\n".join(lines) + "\n")
    table = find_records(target, [tmp_path])
    assert set(table.records) >= {"a", "b"}
    assert "b" in table.foreign and "a" not in table.foreign


def test_a_log_says_which_machine_timed_a_kernel(tmp_path: Path, target: Target) -> None:
    """And another machine's records go into a file of their own, so that both stay known."""
    machines = {"a machine, 2 cores": "ab", "another, 4 cores": "b"}
    for machine, kernels in machines.items():
        with LogWriter(tmp_path, target, replace(HEADER, target=log_name(target), machine=machine)) as log:
            for kernel in kernels:
                log.append(record(kernel, 1.0))
            log.append(replace(record("c", 1.0), times_us=(), error="failed"))
    assert len(list(log.folder.glob("*.jsonl"))) == 2
    for table in (read_folder(log.folder), find_records(target, [tmp_path])):
        assert table.machines["a"] == {"a machine, 2 cores"}
        assert table.machines["b"] == set(machines)
        assert "c" not in table.machines, "what failed has no times"


def test_a_machine_with_other_cores_is_the_same_cpu() -> None:
    assert timed_on("AMD EPYC (znver4)", {"AMD EPYC (znver4), 64 cores"})
    assert timed_on("cortex-a76", {"cortex-a76"})
    assert not timed_on("AMD EPYC (znver4)", {"AMD EPYC (znver5), 64 cores"})
    assert not timed_on("AMD EPYC", {"AMD EPYC (znver5), 64 cores"})
    assert not timed_on("AMD EPYC (znver4)", ())


def test_a_schedule_timed_again_has_its_last_times() -> None:
    table = KernelTable()
    slow, fast = [[["Slow", [], [], []]], []], [[["Fast", [], [], []]], []]
    for one in (record("k", 9.0, trace=fast), record("k", 5.0, trace=slow), record("k", 4.0, trace=fast)):
        table.add(one)
    assert [r.times_us for r in table.records["k"]] == [(4.0,), (5.0,)]
    assert table.trials("k") == 2


def test_an_emulated_record_holds_instructions_and_no_time() -> None:
    emulated = Record("k", PRODUCT, [[], []], (), instructions=2_080_000)
    assert emulated.succeeded and emulated.cost == 2.08 and emulated.time_us == float("inf")
    line = emulated.to_line()
    assert Record.from_line(line) == emulated and '"times_us":[]' in line
    both = Record("k", PRODUCT, [[], []], (1.0,), instructions=5)
    with pytest.raises(ValueError, match="not valid"):
        Record.from_line(both.to_line())
    table = KernelTable()
    for count in (30, 10, 20):
        table.add(Record("k", PRODUCT, [[count], []], (), instructions=count))
    best = table.best("k")
    assert best is not None and best.instructions == 10


def test_emulated_logs_lie_apart_and_serve_boards() -> None:
    emulated = load_target(data_dir("targets") / "cortex-a72.yaml")
    assert log_name(emulated) == "cortex-a72-emulated"
    assert log_name(emulated.on_tracker("10.0.0.1:9190", "pi")) == "cortex-a72"


def test_many_damaged_lines_are_counted(tmp_path: Path, target: Target) -> None:
    path = write(tmp_path, target, *(record(f"k{i}", 1.0) for i in range(8)))
    header, first, *others = path.read_text().splitlines()
    path.write_text("\n".join([header, first, *(line[:-5] for line in others)]) + "\n")
    table = read_folder(path.parent)
    assert len(table.problems) == 7
    assert table.notes[:3] == table.problems[:3] and table.notes[3:] == ["4 more are left out"]
    assert f"{path}, line 3 is left out" in table.notes[0]


def old_lines(*records: Record) -> str:
    """A log as version 1 wrote it: a text for people tells what a kernel computes."""
    header = replace(HEADER, version=1)
    lines = [header.to_line()]
    for one in records:
        content = json.loads(one.to_line())
        del content["crc"]
        content = {"kernel": content["kernel"], "name": one.name} | content
        del content["signature"]
        body = json.dumps(content, separators=(",", ":"))[:-1]
        lines.append(f'{body},"crc":"{zlib.crc32(body.encode()):08x}"}}')
    return "\n".join(lines) + "\n"


def test_a_log_of_version_1_is_read_and_gone_on_with_beside_it(tmp_path: Path, target: Target) -> None:
    (tmp_path / log_name(target)).mkdir()
    old = tmp_path / log_name(target) / "tuning.jsonl"
    old.write_text(old_lines(record("a", 2.0), record("b")))
    before = old.read_bytes()
    write(tmp_path, target, record("a", 1.0), record("c", 3.0))
    assert old.read_bytes() == before
    table = read_folder(old.parent, log_name(target))
    assert not table.problems
    assert counts(table) == {"a": 2, "b": 1, "c": 1}
    without_dtypes = Signature(PRODUCT.operators, PRODUCT.shapes)
    assert [r.signature for r in table.records["a"]] == [PRODUCT, without_dtypes]
    assert pack(old.parent, tmp_path / "packed.jsonl.xz") == 2
    header, *_ = lzma.decompress((tmp_path / "packed.jsonl.xz").read_bytes()).decode().splitlines()
    assert Header.from_line(header).version == 2


SHIPPED_RECORDS = {"x86-64-v3": 1797, "x86-64-v4": 1393}


def test_shipped_logs_are_found_as_they_are_written() -> None:
    """Every record of the logs that ship, one or two a kernel, the fastest first."""
    for folder in data_dir("tuning_logs").iterdir():
        if not folder.is_dir():
            continue
        table, lines = read_folder(folder, folder.name), 0
        assert not table.problems
        for file in folder.glob("*.jsonl.xz"):
            for line in lzma.decompress(file.read_bytes()).decode().splitlines()[1:]:
                content, lines = json.loads(line), lines + 1
                (found,) = (r for r in table.records[content["kernel"]] if r.trace == content["trace"])
                assert list(found.times_us) == content["times_us"]
                assert found.signature == Signature.from_json(content["signature"])
        assert lines == sum(map(len, table.records.values())) == SHIPPED_RECORDS[folder.name]
        assert len(table.records) == 947
        for records in table.records.values():
            assert len(records) <= 2
            assert records[0].cost <= records[-1].cost


@given(signatures)
def test_text_tells_operators_and_shapes(signature: Signature) -> None:
    assert Signature.parse(str(signature)) == replace(signature, dtypes=())


@pytest.mark.parametrize(
    "text",
    ["", "matmul", "matmul 1x2", "matmul 1x2->", "matmul 1xa->2", "matmul -1->2", "matmul 1,->2", "a b c->2"],
)
def test_text_that_names_no_kernel_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="names no kernel"):
        Signature.parse(text)


@pytest.mark.parametrize(
    "change",
    [
        {"operators": []},
        {"operators": "matmul"},
        {"operators": [1]},
        {"shapes": []},
        {"shapes": [1, 2, 3]},
        {"shapes": [[-1], [2], [3]]},
        {"shapes": [[True], [2], [3]]},
        {"dtypes": ["float32"]},
        {"dtypes": None},
    ],
)
def test_a_signature_that_is_none_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="signature"):
        Signature.from_json(PRODUCT.to_json() | change)


def test_layers_are_told_by_their_products() -> None:
    shapes = PRODUCT.shapes
    products = ("conv2d", "depthwise-conv2d", "matmul")
    assert all(Signature(("transpose", name, "add"), shapes).has_product for name in products)
    assert not any(
        Signature((name, "add"), shapes).has_product for name in ("mean", "multiply", "max-pool2d")
    )

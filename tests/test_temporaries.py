"""What a killed process leaves is removed by the next, and nothing else is."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ofa_tvm import temporaries
from ofa_tvm.files import replacing, write_atomic
from ofa_tvm.temporaries import exchange, remove_dead, scratch_folder, temporary_beside

_AT_WORK = """
import sys, time
from pathlib import Path
from ofa_tvm.files import replacing
from ofa_tvm.temporaries import scratch_folder, temporary_beside
folder = Path(sys.argv[1])
stage = temporary_beside(folder / "deploy")
stage.mkdir()
with scratch_folder("trial", folder) as scratch, replacing(folder / "m.so") as temporary:
    temporary.write_text("half")
    (Path(scratch) / "deeper").mkdir()
    (stage / "manifest.yaml").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("reaped", [True, False])
def test_a_dead_processes_temporaries_go_and_a_living_ones_stay(tmp_path: Path, reaped: bool) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _AT_WORK, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    (tmp_path / "deploy").mkdir()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 4
    write_atomic(tmp_path / "other.txt", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*left, "other.txt"])
    os.kill(process.pid, signal.SIGKILL)
    if reaped:
        process.wait()
    else:  # all that is left is an exit code that nobody asked for
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    write_atomic(tmp_path / "other.txt", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deploy", "other.txt"]
    process.wait()
    process.stdout.close()


def _named(name: str, *, pid: int | None = None, host: str | None = None) -> str:
    """The name of a temporary, as another process would have chosen it."""
    found = re.fullmatch(r"(.*\.)(\d+)-(.{6})(.{14})", name)
    assert found
    return f"{found[1]}{pid or found[2]}-{host or found[3]}{found[4]}"


def test_a_process_number_that_was_given_again(tmp_path: Path) -> None:
    own = temporary_beside(tmp_path / "deploy").name
    (tmp_path / own).mkdir()
    (tmp_path / _named(own, pid=os.getppid())).mkdir()  # runs, but did not start when the name says
    remove_dead(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [own]


def test_another_machines_temporaries_stay_for_a_day(tmp_path: Path) -> None:
    elsewhere = tmp_path / _named(temporary_beside(tmp_path / "deploy").name, pid=2**22 - 1, host="012345")
    elsewhere.mkdir()
    remove_dead(tmp_path)
    assert elsewhere.is_dir()
    yesterday = time.time() - 25 * 3600
    os.utime(elsewhere, (yesterday, yesterday))
    remove_dead(tmp_path)
    assert not elsewhere.exists()


def test_only_what_is_a_temporary_of_ours_goes(tmp_path: Path) -> None:
    dead = 2**22 - 1
    kept = [
        "deploy",
        f"deploy.{dead}-0123abcd",
        f".notes.{dead}-0123abcd",  # as the first versions named theirs, but beside another file
        f".deploy.{dead}-0123abcg",
        f".deploy.{dead}-{'0' * 19}",
        f"ofa-tvm-{dead}",
        "ofa-tvm-quickstart-abcd1234",
    ]
    for name in (*kept, f".deploy.{dead}-0123abcd", f".deploy.{dead}-89abcdef.yaml"):
        (tmp_path / name).write_text("")
    remove_dead(tmp_path, "deploy")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    remove_dead(tmp_path / "absent")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("")
    link = tmp_path / _named(temporary_beside(tmp_path / "deploy").name, pid=2**22 - 1)
    link.symlink_to(tmp_path / "precious")
    remove_dead(tmp_path)
    assert not link.is_symlink() and (tmp_path / "precious" / "file").exists()


@pytest.mark.parametrize("native", [True, False])
def test_a_folder_takes_anothers_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    if not native:
        monkeypatch.setattr(temporaries.sys, "platform", "other")
    for name in ("new", "place"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "says").write_text(name)
    old = exchange(tmp_path / "new", tmp_path / "place")
    assert (tmp_path / "place" / "says").read_text() == "new" and (old / "says").read_text() == "place"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("native", [True, False])
def test_a_folder_that_cannot_take_the_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    if not native:
        monkeypatch.setattr(temporaries.sys, "platform", "other")
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "says").write_text("place")
    with pytest.raises(OSError):
        exchange(tmp_path / "absent", tmp_path / "place")
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
    assert (tmp_path / "place" / "says").read_text() == "place"


def test_what_a_kill_between_two_renames_left_homeless_is_put_back(tmp_path: Path) -> None:
    stage = _named(temporary_beside(tmp_path / "deploy").name, pid=2**22 - 1)
    (tmp_path / stage).mkdir()
    (tmp_path / f"{stage}.old").mkdir()
    (tmp_path / f"{stage}.old" / "manifest.yaml").write_text("good")
    remove_dead(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["deploy"]
    assert (tmp_path / "deploy" / "manifest.yaml").read_text() == "good"


def test_names_of_the_longest_kind(tmp_path: Path) -> None:
    with replacing(tmp_path / f"{'é' * 120}.so") as temporary:
        temporary.write_text("whole")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]
    with scratch_folder("x" * 40, tmp_path) as name:
        assert Path(name).parent == tmp_path

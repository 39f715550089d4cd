"""Several boards behind one tracker: this machine's CPU three times, over real RPC, with real faults."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

import pytest
from local_device import devices, local_device

from ofa_tvm.devices import Place
from ofa_tvm.devices.tracker import TrackerProcess, wait_until
from ofa_tvm.errors import UserError
from ofa_tvm.latency.bench import SubnetBench
from ofa_tvm.latency.collect import collect, draw_subnets
from ofa_tvm.latency.dataset import LatencyTable, read_table
from ofa_tvm.logs import KernelTable
from ofa_tvm.measurement import Measurement, Timing
from ofa_tvm.measurement.boards import Boards
from ofa_tvm.progress import Task
from ofa_tvm.spaces import get_space
from ofa_tvm.supernet import Supernet, build_supernet
from ofa_tvm.targets import Target, get_target

SPACE = get_space("ofa_digits")
N = 12
ANY = 100.0  # three boards on two cores that are busy do not agree


class Said:
    """Progress that keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def task(self, name: str, total: float | None = None) -> AbstractContextManager[Task]:
        return nullcontext(self)  # type: ignore[arg-type]

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        pass

    def say(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture(scope="module")
def net() -> Supernet:
    return build_supernet(SPACE, 10).eval()


@pytest.fixture
def place() -> Iterator[Place]:
    with TrackerProcess() as tracker:
        yield Place(tracker.host, tracker.port, "here")


@pytest.fixture
def boards(place: Place, tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    with ExitStack() as stack:
        processes = [stack.enter_context(local_device(place, tmp_path)) for _ in range(3)]
        assert wait_until(lambda: devices(place) == 3, 20)
        yield processes


def target_at(place: Place) -> Target:
    return get_target("x86").on_tracker(f"{place.host}:{place.port}", place.key)


def collected(net: Supernet, place: Place, path: Path, said: Said) -> LatencyTable:
    target = target_at(place)
    with SubnetBench(net, target, KernelTable(), agreement=ANY, progress=said) as bench:
        collect(bench, path, N, [32])
    return read_table(path)


@pytest.mark.slow
@pytest.mark.usefixtures("all_cpus", "boards")
def test_boards_share_the_subnets(net: Supernet, place: Place, tmp_path: Path) -> None:
    said = Said()
    table = collected(net, place, tmp_path / "lat.csv", said)
    assert sorted(table.archs, key=str) == sorted(draw_subnets(SPACE, N, [32], 0), key=str), "each once"
    assert len({entry["board"] for entry in table.meta}) == 3
    assert all(entry["reference_ms"] > 0 for entry in table.meta) and not said.lines
    with SubnetBench(net, target_at(place), KernelTable(), agreement=ANY) as bench:
        costs, noise = bench.costs([table.archs[0], table.archs[1], table.archs[0]])
    assert costs[0] == costs[2] > 0 and (noise >= 0).all() and costs.shape == (3,)


@pytest.mark.slow
@pytest.mark.usefixtures("all_cpus")
def test_a_board_that_vanishes_loses_what_it_was_at(
    net: Supernet, place: Place, boards: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    path = tmp_path / "lat.csv"
    before: list[str] = []

    def disturb() -> None:
        wait_until(lambda: path.exists() and len(path.read_text().splitlines()) > 2, 120)
        boards[0].kill()
        before.append(path.read_text())

    thread = threading.Thread(target=disturb)
    thread.start()
    table = collected(net, place, path, Said())
    thread.join()
    assert len(before[0].splitlines()) <= N, "killed in the middle"
    assert path.read_text().startswith(before[0])
    assert sorted(table.archs, key=str) == sorted(draw_subnets(SPACE, N, [32], 0), key=str)


@pytest.mark.slow
@pytest.mark.usefixtures("all_cpus", "boards")
def test_boards_that_differ_are_named_and_left_out(net: Supernet, place: Place) -> None:
    """Where nothing is allowed, no two agree, and one is left, which does all."""
    said, target = Said(), target_at(place)
    with SubnetBench(net, target, KernelTable(), agreement=0.0, progress=said) as bench:
        for arch in draw_subnets(SPACE, 2, [32], 0):
            (result,) = bench.measure([arch])
            out = {line.split()[1] for line in said.lines if "is left out" in line}
            assert result.device and result.device not in out
    assert 1 <= len(out) <= 2 and all("0% is allowed" in line for line in said.lines), said.lines


@pytest.mark.usefixtures("boards")
def test_a_slow_board_is_told_from_the_others_by_its_second_time(place: Place) -> None:
    said = Said()

    def took(device: str, ms: float) -> Measurement:
        timing = Timing((ms,) * 5, calls=1, passes=1)
        return Measurement.of(timing, "x86", 1, (), "board", device=device)

    with Boards(target_at(place), progress=said) as boards:
        for device, ms in (("a:1", 10.0), ("b:1", 10.4), ("c:1", 10.2)):
            assert boards.agrees(took(device, ms))
        assert boards.slower("a:1") == pytest.approx(0.04)
        assert not boards.agrees(took("b:1", 13.0)) and not said.lines, "once may be chance"
        assert boards.agrees(took("b:1", 10.3))
        assert not boards.agrees(took("b:1", 13.0)) and not boards.agrees(took("b:1", 13.0))
        assert boards.left_out == {"b:1"} and boards.slower("b:1") == 0.0
        assert said.lines == [
            "board b:1 is left out: the reference subnet takes 13 ms there, 27% off the median of 3 boards, "
            "10.2 ms; 10% is allowed"
        ]
        # Of two that differ the faster one counts, and the last one stays whatever it takes.
        assert not boards.agrees(took("c:1", 13.0)) and not boards.agrees(took("c:1", 13.0))
        assert boards.agrees(took("a:1", 20.0)) and boards.left_out == {"b:1", "c:1"}


@pytest.mark.slow
def test_no_board_is_left(net: Supernet, place: Place, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no device of key here"):
        SubnetBench(net, target_at(place), KernelTable())

"""Worker processes: requests, time limits, every way of dying, and no process left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ofa_tvm.process import WorkerDied, WorkerHung, WorkerProcess

HERE = Path(__file__).resolve().parent


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerProcess]:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    made = WorkerProcess("example_worker", ["an argument"], {"EXAMPLE": "here"})
    yield made
    made.stop()


def test_requests_are_answered_one_after_the_other(worker: WorkerProcess) -> None:
    for number in range(3):
        events = list(worker.ask({"do": "count", "to": number}, 10))
        assert [event["event"] for event in events] == ["number"] * number + ["done"]


def test_the_worker_sees_arguments_and_environment(worker: WorkerProcess) -> None:
    (event,) = worker.ask({"do": "tell"}, 10)
    assert (event["arguments"], event["example"]) == (["an argument"], "here")


def test_large_requests_and_answers(worker: WorkerProcess) -> None:
    text = "é\n" * 500_000
    (event,) = worker.ask({"do": "echo", "text": text}, 10)
    assert event["text"] == text


def test_what_libraries_print_is_no_event(worker: WorkerProcess) -> None:
    (event,) = worker.ask({"do": "print"}, 10)
    assert event["event"] == "done"


def test_failed_ends_a_request_and_not_the_worker(worker: WorkerProcess) -> None:
    (event,) = worker.ask({"do": "fail"}, 10)
    assert event == {"event": "failed", "error": "no luck"}
    assert list(worker.ask({"do": "count", "to": 0}, 10)) == [{"event": "done"}]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (signal.SIGSEGV, r"crashed \(SIGSEGV\)"),
        (signal.SIGILL, r"uses instructions that this CPU lacks \(SIGILL\)"),
        (signal.SIGKILL, r"was killed \(out of memory\?\) \(SIGKILL\)"),
        (signal.SIGFPE, r"crashed \(SIGFPE\)"),
    ],
)
def test_a_crash_says_why(how: signal.Signals, said: str, worker: WorkerProcess) -> None:
    with pytest.raises(WorkerDied, match=said):
        list(worker.ask({"do": "signal", "number": int(how)}, 10))


def test_an_exception_is_quoted(worker: WorkerProcess) -> None:
    with pytest.raises(WorkerDied, match="exit code 1: ValueError: something is wrong"):
        list(worker.ask({"do": "raise"}, 10))


def test_a_module_that_is_not_there() -> None:
    worker = WorkerProcess("no_such_module")
    with pytest.raises(WorkerDied, match="No module named"):
        list(worker.ask({}, 10))


def test_asking_a_dead_worker(worker: WorkerProcess) -> None:
    with pytest.raises(WorkerDied):
        list(worker.ask({"do": "signal", "number": 9}, 10))
    with pytest.raises(WorkerDied):
        list(worker.ask({"do": "count", "to": 1}, 10))


def test_silence_is_a_hang(worker: WorkerProcess) -> None:
    list(worker.ask({"do": "count", "to": 0}, 10))
    begun = time.monotonic()
    with pytest.raises(WorkerHung, match=r"gave no sign for 0\.3 s and was stopped"):
        list(worker.ask({"do": "sleep", "seconds": 60, "beat": False}, 0.3))
    assert time.monotonic() - begun < 5


def test_signs_of_life_are_not(worker: WorkerProcess) -> None:
    list(worker.ask({"do": "count", "to": 0}, 10))
    events = [event["event"] for event in worker.ask({"do": "sleep", "seconds": 3.5, "beat": True}, 2.0)]
    assert events[-1] == "done"
    assert 2 <= events.count("alive") <= 4


def test_killing_wakes_who_waits(worker: WorkerProcess) -> None:
    import threading

    list(worker.ask({"do": "count", "to": 0}, 10))
    threading.Timer(0.3, worker.kill).start()
    begun = time.monotonic()
    with pytest.raises(WorkerDied):
        list(worker.ask({"do": "sleep", "seconds": 60, "beat": False}, 30))
    assert time.monotonic() - begun < 5


def test_interrupts_are_for_the_parent(worker: WorkerProcess) -> None:
    (event,) = worker.ask({"do": "tell"}, 10)
    os.kill(event["pid"], signal.SIGINT)
    assert list(worker.ask({"do": "count", "to": 0}, 10)) == [{"event": "done"}]


def test_stopping_twice_is_fine(worker: WorkerProcess) -> None:
    worker.stop()
    worker.stop()


def test_workers_die_with_their_parent() -> None:
    program = (
        "import os, signal\n"
        "from ofa_tvm.process import WorkerProcess\n"
        "worker = WorkerProcess('example_worker')\n"
        "(event,) = worker.ask({'do': 'tell'}, 10)\n"
        "print(event['pid'], flush=True)\n"
        "list(worker.ask({'do': 'sleep', 'seconds': 600, 'beat': False}, 600))\n"
    )
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running()


def test_a_worker_whose_parent_died_while_it_started_ends(tmp_path: Path) -> None:
    """Before its imports, which take seconds: nobody would be there to read what it does."""
    (tmp_path / "slow_worker.py").write_text("import time; time.sleep(60)")
    code = (
        "import os; from ofa_tvm.process import WorkerProcess\n"
        "print(WorkerProcess('slow_worker')._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), str(tmp_path)])}
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment, timeout=60
    )
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout)).wait(20)

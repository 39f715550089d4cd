"""Processes of our own: what they load, and warm workers with time limits and crash isolation.

Requests and events are JSON lines over pipes.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import json
import os
import runpy
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ofa_tvm.errors import UserError

_PR_SET_PDEATHSIG = 1
_START_LIMIT_S = 60.0
# Imports take seconds, in which the parent may die: that is watched from the start.
_WORK = "from ofa_tvm.process import work_for_parent; work_for_parent()"


def installed_command(lines: Sequence[str]) -> tuple[str, ...] | None:
    """The first of these command lines whose program is installed, ready to be followed by its arguments.

    `zig` is also found as the Python package `ziglang`. None if there is none of them.
    """
    for line in lines:
        program, *arguments = line.split()
        if path := shutil.which(program):
            return (path, *arguments)
        if program == "zig" and importlib.util.find_spec("ziglang") is not None:
            return (sys.executable, "-m", "ziglang", *arguments)
    return None


def leave_torch_out() -> None:
    """Keep torch out of this process, unless it is loaded already: tvm imports it if it can (2 s)."""
    os.environ["TVM_FFI_DISABLE_TORCH_C_DLPACK"] = "1"
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # None is Python's mark of "not importable"


def forget_torch() -> None:
    """Take `leave_torch_out`'s mark away, after tvm was imported: scipy takes it for the module itself.

    Whatever imports scipy later (XGBoost does, for MetaSchedule's cost model) fails otherwise.
    """
    if sys.modules.get("torch", ...) is None:
        del sys.modules["torch"]


def use_runtime_only() -> None:
    """Make this process load the TVM runtime alone and never torch; call it before tvm is imported.

    For processes of ofa-tvm's own (workers, `run`, `bench`): afterwards nothing can be compiled in them.
    """
    os.environ["TVM_USE_RUNTIME_LIB"] = "1"
    leave_torch_out()


def collect_seldom() -> None:
    """Let Python look for cycles of dead objects less often, in a program of ofa-tvm's own.

    At its own pace the search goes over the objects of TVM and torch again and again: a seventh of what
    `compile` takes.
    """
    gc.set_threshold(20_000, 20, 20)


class Ended(KeyboardInterrupt):
    """SIGTERM or SIGHUP came: raised where Ctrl-C would be, so that it is cleaned up after in the same way.

    Attributes
    ----------
    number
        Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def ending_signals() -> Iterator[list[int]]:
    """Let SIGTERM and SIGHUP raise `Ended` in the main thread; yields a list of those that came.

    A signal that this process was started to ignore, as under nohup, stays ignored.
    """
    came: list[int] = []

    def end(number: int, _frame: object) -> None:
        came.append(number)
        raise Ended(number)

    # Python hands signals to the main thread alone.
    main = threading.current_thread() is threading.main_thread()
    signals = (signal.SIGTERM, signal.SIGHUP) if main else ()
    before = {number: signal.getsignal(number) for number in signals}
    for number in signals:
        if before[number] is signal.SIG_DFL:
            signal.signal(number, end)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class WorkerDied(Exception):
    """The worker ended while it was at work; the message completes 'it ...'."""


class WorkerHung(Exception):
    """The worker gave no sign within its limit and was stopped."""


class WorkerProcess:
    """A `python -m MODULE ARGS` that answers requests; started now, warm afterwards.

    Parameters
    ----------
    module
        A module of ofa-tvm whose `main` takes `requests`, or calls `answer_requests`.
    args
        Its command-line arguments.
    environment
        Variables to add to this process's own.
    """

    def __init__(
        self, module: str, args: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        root = Path(__file__).resolve().parents[1]
        path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed by stop)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WORK, str(os.getpid()), module, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | dict(environment or {}) | {"PYTHONPATH": path},
        )
        self._pending = b""
        self._answered = False

    def ask(self, request: Mapping[str, Any], limit_s: float) -> Iterator[dict[str, Any]]:
        """Send one request; yields its events, of which the last has `event` "done" or "failed".

        Parameters
        ----------
        request
            JSON-serialisable request.
        limit_s
            Seconds without an event after which the worker counts as hung (at least 60 for the first
            event of all, while the worker starts).

        Raises
        ------
        WorkerDied, WorkerHung
            The worker is gone; make a new one.
        """
        assert self._process.stdin is not None
        if self._process.stdin.closed:
            raise WorkerDied("was stopped before")
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            while True:
                event = self._event(limit_s if self._answered else max(limit_s, _START_LIMIT_S))
                self._answered = True
                yield event
                if event["event"] in ("done", "failed"):
                    return
        except TimeoutError:
            self.stop()
            raise WorkerHung(f"gave no sign for {limit_s:g} s and was stopped") from None
        except (EOFError, BrokenPipeError):
            reason = self._death()
            self.stop()
            raise WorkerDied(reason) from None

    def _event(self, limit_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._pending:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                raise EOFError
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return dict(json.loads(line))

    def _death(self) -> str:
        code = self._process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            why = {
                "SIGILL": "uses instructions that this CPU lacks",
                "SIGKILL": "was killed (out of memory?)",
            }
            return f"{why.get(name, 'crashed')} ({name})"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"ended its process with exit code {code}: {lines[-1] if lines else 'no message'}"

    def kill(self) -> None:
        """End the process at once; whoever waits for its answer learns that it died."""
        self._process.kill()

    def stop(self) -> None:
        """End the process at once and let go of its pipes."""
        self.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with contextlib.suppress(OSError, ValueError):
                    stream.close()


class EventPipe:
    """The worker's end: events tell the parent what is at work, so that it knows what to blame."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print goes to standard error
        self._last = 0.0

    def send(self, **event: Any) -> None:
        """Send one event."""
        self._last = time.monotonic()
        self._out.write(json.dumps(event) + "\n")
        self._out.flush()

    def beat(self) -> None:
        """Say that work goes on, at most once a second."""
        if time.monotonic() - self._last > 1.0:
            self.send(event="alive")


def end_with_parent() -> None:
    """Let the system kill this process when its parent dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def work_for_parent() -> None:
    """Run a module as a worker's program; the arguments are the parent's number, the module and its own."""
    parent, module, *arguments = sys.argv[1:]
    end_with_parent()
    collect_seldom()
    if os.getppid() != int(parent):
        sys.exit(1)  # it was dead before
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def requests() -> Iterator[dict[str, Any]]:
    """Requests from the parent until it closes the pipe; this process dies with its parent."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    for line in sys.stdin:
        yield dict(json.loads(line))


def answer_requests(answer: Callable[[dict[str, Any], EventPipe], dict[str, Any]]) -> None:
    """Answer each request by one event: "done" with what `answer` returns, or "failed" with its UserError."""
    events = EventPipe()
    for request in requests():
        try:
            fields = answer(request, events)
        except UserError as error:
            events.send(event="failed", message=str(error))
        else:
            events.send(event="done", **fields)

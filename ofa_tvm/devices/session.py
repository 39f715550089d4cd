"""One session on a device over TVM's RPC: files go up, modules are loaded and called there."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self, TypeVar

from ofa_tvm.devices.features import TOLD, used_features
from ofa_tvm.devices.place import Place
from ofa_tvm.devices.tracker import TrackerClient, TrackerUnreachable
from ofa_tvm.errors import UserError

WAIT_S = 60.0  # for a device that other work keeps busy
CONNECT_LIMIT_S = 20.0  # for a device that was said to be free
T = TypeVar("T")
_TRIES = 4  # on different devices
_MACHINE_FILES = (
    "proc/cpuinfo",
    "proc/meminfo",
    "proc/device-tree/model",
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq",
    *(
        f"sys/devices/system/cpu/cpu0/cache/index{index}/{name}"
        for index in range(5)
        for name in ("level", "type", "size")
    ),
)


class SessionLost(Exception):
    """The device is gone, or its session crashed."""


def _within(limit_s: float, work: Callable[[], T]) -> T:
    """What `work` returns; for calls that know no time limit and cannot be interrupted.

    Raises
    ------
    TimeoutError
        If it takes longer. It goes on in a thread, whose result is dropped.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done.result(limit_s)


class Session:
    """A device that is this process's own until `close`; a context manager.

    Everything that was made in a session (modules, tensors, functions) has to be dropped before `close`,
    which is when the device becomes free for the next client.

    Parameters
    ----------
    place
        Tracker and key.
    limit_s
        The device ends the session after this time, whoever holds it.
    wait_s
        How long to wait for a free device.

    Raises
    ------
    TrackerUnreachable
        If there is no tracker or no free device.
    SessionLost
        If the device that the tracker named does not answer within 20 s.
    """

    def __init__(self, place: Place, *, limit_s: float = 600.0, wait_s: float = WAIT_S) -> None:
        import tvm.rpc

        with TrackerClient(place.host, place.port) as tracker:
            host, port, match = tracker.request(place.key, wait_s)
        self.address = f"{host}:{port}"
        self._numbers = itertools.count()

        def connect() -> tuple[Any, str, bool, frozenset[str] | None]:
            rpc = tvm.rpc.connect(host, port, match, session_timeout=limit_s)
            arch, emulated = (rpc.get_function(f"ofa_tvm.device.{name}")() for name in ("arch", "emulated"))
            return rpc, str(arch), bool(emulated), _features(rpc) if arch == "aarch64" else None

        try:
            self._rpc, self.arch, self.emulated, self._features = _within(CONNECT_LIMIT_S, connect)
            self.cpu = self._rpc.cpu()
        except Exception as error:  # tvm raises RuntimeError and kinds of its own
            raise SessionLost(f"device {self.address} does not answer") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a global function of the device."""
        return self._rpc.get_function(name)(*arguments)

    @property
    def alive(self) -> bool:
        """Whether the device still answers in this session."""
        try:
            self.call("ofa_tvm.device.arch")
        except Exception:
            return False
        return True

    def lacking(self, features: Collection[str]) -> str:
        """Which of LLVM's features the cores of an AArch64 device do not have, for people; "" if none."""
        known = self._features
        return "" if known is None else ", ".join(sorted(TOLD & set(features) - known))

    def device(self, kind: str) -> Any:
        """The device's CPU ("llvm") or first GPU ("opencl", "cuda").

        Raises
        ------
        TrackerUnreachable
            If it offers no GPU of this kind.
        """
        if kind == "llvm":
            return self.cpu
        gpu = self._rpc.device(kind, 0)
        if gpu.exist:
            return gpu
        raise TrackerUnreachable(
            f"device {self.address} offers no {kind}; start its server with the runtime for it (`ofa-tvm "
            f"device serve --gpu {kind}`, or the folder of `ofa-tvm device bundle`) and the vendor's driver"
        )

    def load(self, path: Path) -> Any:
        """Send a shared library and load it there; returns the remote module.

        Raises
        ------
        UserError
            If its code has instructions that the device's cores lack.
        """
        if lacking := self.lacking(used_features(path)):
            raise UserError(
                f"{path.name} uses {lacking}, which the cores of device {self.address} do not have; compile "
                "it for a target of theirs (`ofa-tvm targets list`)"
            )
        # A name of its own each time: a file that is loaded must not be written again.
        name = f"{next(self._numbers)}-{path.name}"
        self._rpc.upload(str(path), name)
        return self._rpc.load_module(name)

    def set_threads(self, threads: int) -> None:
        """Set how many threads TVM's pool uses on the device, on its fast cores."""
        self.call("runtime.config_threadpool", 1, threads)

    def files(self) -> dict[str, str]:
        """What the device's kernel says of its processor and memory, by path."""
        contents = {name: str(self.call("ofa_tvm.device.read", f"/{name}")) for name in _MACHINE_FILES}
        return {name: text.rstrip("\0") for name, text in contents.items() if text}

    def matching(self, patterns: Sequence[str]) -> dict[str, str]:
        """First lines of the device's files whose paths, counted from the root, match one of the patterns."""
        text = str(self.call("ofa_tvm.device.matching", "\n".join(patterns)))
        return dict(line.split("\t", 1) for line in text.splitlines())

    def pace_s(self) -> float:
        """Seconds of work that takes the device's core as many cycles each time."""
        return float(self.call("ofa_tvm.device.pace"))

    def close(self) -> None:
        """Let go of the device."""
        self.cpu = self._rpc = None
        gc.collect()  # what lies in reference cycles keeps the session open, too


def _features(rpc: Any) -> frozenset[str] | None:
    """LLVM's names of what the device's cores have; None if its server is too old to say."""
    try:
        return frozenset(str(rpc.get_function("ofa_tvm.device.features")()).split())
    except AttributeError:  # as TVM tells of a function that is not there
        return None


def disk_is_full(error: Exception) -> bool:
    """Whether a device could not store what was sent: its own fault, not that of the module."""
    return "the device cannot store" in str(error)


def require_kind(session: Session, emulated: bool) -> None:
    """Keep instruction counts and times apart.

    Raises
    ------
    TrackerUnreachable
        If the device is emulated although real ones are wanted, or the other way round.
    """
    if session.emulated != emulated:
        address, kind = session.address, "an emulated" if session.emulated else "a real"
        session.close()
        raise TrackerUnreachable(f"device {address} is {kind} one, but the target's cost is of another kind")


def open_session(place: Place, *, limit_s: float = 600.0, wait_s: float = WAIT_S) -> Session:
    """A session on any device of `place`; one that does not answer is passed over.

    Raises
    ------
    TrackerUnreachable
        If there is no tracker or no device that answers.
    """
    for _ in range(_TRIES):
        try:
            return Session(place, limit_s=limit_s, wait_s=wait_s)
        except SessionLost:
            continue
    raise TrackerUnreachable(
        f"no device of key {place.key} answers in {_TRIES} tries through the tracker at "
        f"{place.host}:{place.port}"
    )

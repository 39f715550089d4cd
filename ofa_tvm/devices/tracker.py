"""TVM's tracker: asking what it has, asking for a device, and running one."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import secrets
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ofa_tvm.errors import UserError, shown
from ofa_tvm.process import end_with_parent, use_runtime_only

DEFAULT_PORT = 9190
_MAGIC = 0x2F271
_REQUEST, _SUMMARY = 4, 6  # codes of TVM's tracker protocol
_LONGEST_ANSWER = 2**24
_START_LIMIT_S = 60.0


class TrackerUnreachable(UserError):
    """No tracker answers, or it gives no device in time."""


@dataclass(frozen=True)
class DeviceKey:
    """What a tracker says of the devices of one key."""

    key: str
    addresses: tuple[str, ...]
    free: int
    waiting: int

    @property
    def devices(self) -> int:
        """Devices that are connected to the tracker."""
        return len(self.addresses)


class TrackerClient:
    """A connection to a tracker; a context manager.

    TVM's own client waits without end; this one has time limits and needs no tvm.

    Raises
    ------
    TrackerUnreachable
        If nobody answers at the address, or not a tracker.
    """

    def __init__(self, host: str, port: int, *, limit_s: float = 30.0) -> None:
        self._name = f"{host}:{port}"
        try:
            until = time.monotonic() + limit_s
            self._socket = socket.create_connection((host, port), timeout=limit_s)
            self._socket.sendall(struct.pack("<i", _MAGIC))
            (magic,) = struct.unpack("<i", self._receive(4, until))
        except OSError as error:
            raise TrackerUnreachable(
                f"no tracker answers at {self._name} ({error.strerror or error}); start one with "
                "`ofa-tvm device tracker`"
            ) from error
        if magic != _MAGIC:
            raise TrackerUnreachable(f"what answers at {self._name} is not a tracker of TVM's RPC")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def summary(self) -> list[DeviceKey]:
        """Devices by key, those in use included.

        Raises
        ------
        TrackerUnreachable
            If the tracker is gone.
        """
        try:
            status = self._ask([_SUMMARY], 5.0)[1]
            addresses: dict[str, list[str]] = {}
            for info in status["server_info"]:
                key = str(info["key"]).removeprefix("server:")
                addresses.setdefault(key, []).append(":".join(map(str, info["addr"])))
            queues = status["queue_info"]
            return [
                DeviceKey(
                    key,
                    tuple(sorted(addresses.get(key, ()))),
                    int(queues.get(key, {}).get("free", 0)),
                    int(queues.get(key, {}).get("pending", 0)),
                )
                for key in sorted({*addresses, *(k for k, q in queues.items() if q["pending"])})
            ]
        except TimeoutError:
            raise TrackerUnreachable(f"the tracker at {self._name} does not answer") from None
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise TrackerUnreachable(f"what answers at {self._name} is not a tracker of TVM's RPC") from error

    def devices(self, key: str) -> int:
        """How many devices of a key there are."""
        return next((entry.devices for entry in self.summary() if entry.key == key), 0)

    def request(self, key: str, wait_s: float) -> tuple[str, int, str]:
        """Host, port and one-time key of a device, as soon as one is free.

        Raises
        ------
        TrackerUnreachable
            If none is free within `wait_s` seconds, or the tracker is gone.
        """
        try:
            answer = self._ask([_REQUEST, key, "", 1], wait_s)
        except TimeoutError:
            raise TrackerUnreachable(
                f"the tracker at {self._name} had no free device of key {key} for {wait_s:g} s; "
                "`ofa-tvm device list` shows what it has"
            ) from None
        try:
            host, port, match = answer[1]
            return str(host), int(port), str(match)
        except (LookupError, TypeError, ValueError) as error:
            raise TrackerUnreachable(f"what answers at {self._name} is not a tracker of TVM's RPC") from error

    def _ask(self, message: list[Any], limit_s: float) -> Any:
        text = json.dumps(message).encode()
        try:
            until = time.monotonic() + limit_s
            self._socket.settimeout(limit_s)
            self._socket.sendall(struct.pack("<i", len(text)) + text)
            (size,) = struct.unpack("<I", self._receive(4, until))
            if size > _LONGEST_ANSWER:
                raise ValueError("nonsense was sent")
            answer = json.loads(self._receive(size, until))
        except TimeoutError:
            raise
        except (OSError, ValueError, RecursionError) as error:
            raise TrackerUnreachable(f"the tracker at {self._name} went away") from error
        if not isinstance(answer, list) or not answer or answer[0] != 0:
            raise TrackerUnreachable(f"the tracker at {self._name} answered {shown(answer)}")
        return answer

    def _receive(self, size: int, until: float) -> bytes:
        """So many bytes, all of them before a moment of the monotonic clock."""
        data = bytearray()
        while len(data) < size:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError(errno.ETIMEDOUT, "timed out")
            self._socket.settimeout(left)
            chunk = self._socket.recv(size - len(data))
            if not chunk:
                raise ConnectionResetError(0, "the connection broke")
            data += chunk
        return bytes(data)


class TrackerProcess:
    """A tracker on the loopback address that ends with this process; a context manager.

    Raises
    ------
    UserError
        If it does not start.
    """

    host = "127.0.0.1"

    def __init__(self, port: int = 0) -> None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ofa_tvm.devices.tracker", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path},
        )
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], _START_LIMIT_S)
        line = self._process.stdout.readline().decode().strip() if ready else ""
        if not line:
            self.stop()
            raise UserError("TVM's tracker did not start; try `ofa-tvm device tracker` to see why")
        self.port = int(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def listen(host: str, port: int, port_end: int) -> socket.socket:
    """Socket on the first free port of a range; port 0 lets the system choose.

    Raises
    ------
    UserError
        If the address is not this machine's, or every port is taken.
    """
    for number in range(port, port_end + 1):
        try:
            family = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0][0]
            return socket.create_server((host, number), family=family, backlog=64)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                reason = error.strerror or error
                raise UserError(f"the tracker cannot listen on {host}, port {number}: {reason}") from error
    raise UserError(f"every port from {port} to {port_end} of {host} is taken; choose another --port")


def serve_tracker(listener: socket.socket) -> None:
    """Run TVM's tracker in this process until it is interrupted."""
    use_runtime_only()
    from tvm.rpc.tracker import TrackerServerHandler

    asyncio.set_event_loop(asyncio.new_event_loop())
    TrackerServerHandler(listener, secrets.token_hex(8)).run()


def main() -> None:
    """A tracker on a loopback port (0: of the system's choice), for as long as the parent lives."""
    end_with_parent()
    listener = listen(TrackerProcess.host, int(sys.argv[1]), int(sys.argv[1]))
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()  # who connects from now on waits until the tracker is there
    serve_tracker(listener)


def wait_until(condition: Callable[[], bool], limit_s: float) -> bool:
    """Whether `condition()` becomes true within `limit_s` seconds."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


if __name__ == "__main__":
    main()

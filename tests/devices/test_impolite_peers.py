"""Peers that say nothing, or too little in time, hold up nobody: real processes on the loopback address."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from local_device import devices, local_device

from ofa_tvm.devices import Place, TrackerClient, TrackerUnreachable
from ofa_tvm.devices import session as sessions
from ofa_tvm.devices.session import open_session
from ofa_tvm.devices.tracker import TrackerProcess, wait_until

_MAGIC = struct.pack("<i", 0xFF271)


@pytest.fixture
def place() -> Iterator[Place]:
    with TrackerProcess() as tracker:
        yield Place(tracker.host, tracker.port, "here")


def _address(place: Place) -> tuple[str, int]:
    with TrackerClient(place.host, place.port) as tracker:
        (text,) = tracker.summary()[0].addresses
    host, _, port = text.rpartition(":")
    return host, int(port)


@pytest.mark.slow
def test_silent_and_dripping_clients_hold_up_nobody(place: Place, tmp_path: Path) -> None:
    with local_device(place, tmp_path), ExitStack() as stack:
        assert wait_until(lambda: devices(place) == 1, 20)
        address = _address(place)
        silent = [stack.enter_context(socket.create_connection(address)) for _ in range(200)]
        dripping = stack.enter_context(socket.create_connection(address))
        stop = threading.Event()

        def drip() -> None:
            greeting = _MAGIC + struct.pack("<i", 1000) + b"client:here" * 100
            for byte in greeting:
                if stop.wait(0.2):
                    return
                try:
                    dripping.send(bytes([byte]))
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            for _ in range(2):  # each would have waited for all of those before it
                with open_session(place, wait_s=20) as session:
                    assert session.alive
            # And they are sent away in the end, the drips notwithstanding.
            for client in (silent[0], silent[-1], dripping):
                client.settimeout(30)
                with suppress(ConnectionResetError):
                    assert client.recv(1) == b""
        finally:
            stop.set()
            thread.join()


_NONSENSE = (
    b"GET / HTTP/1.1\r\n\r\n",
    _MAGIC + struct.pack("<i", -1),
    _MAGIC + struct.pack("<I", 2**31),
    _MAGIC + struct.pack("<i", 3) + b"abc",
    _MAGIC + struct.pack("<i", 6) + b"client",
    _MAGIC,
    b"",
)


def test_nonsense_is_sent_away_at_once(place: Place, tmp_path: Path) -> None:
    with local_device(place, tmp_path):
        assert wait_until(lambda: devices(place) == 1, 20)
        for greeting in _NONSENSE:
            with socket.create_connection(_address(place), timeout=30) as client:
                client.sendall(greeting)
                with suppress(OSError):  # it may be gone by now
                    client.shutdown(socket.SHUT_WR)
                with suppress(ConnectionResetError):
                    assert client.recv(4) in (b"", struct.pack("<i", 0xFF271 + 2))
        with open_session(place, wait_s=20) as session:
            assert session.alive


def test_a_device_that_hangs_is_given_up(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "CONNECT_LIMIT_S", 1.0)
    with local_device(place, tmp_path) as device:
        assert wait_until(lambda: devices(place) == 1, 20)
        device.send_signal(signal.SIGSTOP)  # the system still takes connections for it
        with pytest.raises(TrackerUnreachable):
            open_session(place, wait_s=1)


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ([b"\x71"] * 3, "no tracker answers"),
        ([struct.pack("<i", 0x2F271), struct.pack("<i", 1000), *[b" "] * 50], "does not answer"),
        ([struct.pack("<i", 0x2F271), struct.pack("<i", -5)], "went away"),
        ([struct.pack("<i", 0x2F271), struct.pack("<i", 4), b"[0,{"], "went away"),
        ([struct.pack("<i", 0x2F271), struct.pack("<i", 6), b"[0,{}]"], "not a tracker"),
        ([b"HTTP/1.1"], "not a tracker"),
    ],
)
def test_a_tracker_that_drips_or_talks_nonsense(
    answers: list[bytes], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                for part in answers:
                    try:
                        peer.sendall(part)
                    except OSError:
                        return
                    time.sleep(0.05)
                peer.recv(1000)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        ask = TrackerClient._ask
        monkeypatch.setattr(TrackerClient, "_ask", lambda self, message, _: ask(self, message, 0.5))
        with (
            pytest.raises(TrackerUnreachable, match=says),
            TrackerClient("127.0.0.1", listener.getsockname()[1], limit_s=0.5) as tracker,
        ):
            tracker.summary()
    thread.join(20)


def test_a_server_that_is_ended_takes_its_session_along(place: Place, tmp_path: Path) -> None:
    with local_device(place, tmp_path) as device:
        assert wait_until(lambda: devices(place) == 1, 20)
        with open_session(place) as session:
            assert len(list(tmp_path.iterdir())) == 1
            device.send_signal(signal.SIGTERM)
            assert device.wait(20) == 128 + signal.SIGTERM
            assert not session.alive
    assert not list(tmp_path.iterdir())


def test_what_a_killed_servers_session_left_is_removed_by_the_next(place: Place, tmp_path: Path) -> None:
    with local_device(place, tmp_path) as device:
        assert wait_until(lambda: devices(place) == 1, 20)
        with open_session(place):
            device.kill()
            device.wait()
    (left,) = tmp_path.iterdir()
    os.utime(left, (1, 1))
    with local_device(place, tmp_path):
        assert wait_until(lambda: devices(place) == 1, 20)
        with open_session(place):
            (own,) = tmp_path.iterdir()
            assert own != left
            os.utime(own, (1, 1))
            with local_device(place, tmp_path):
                assert wait_until(lambda: devices(place) == 2, 20)
                assert own.is_dir(), "that one is at work"

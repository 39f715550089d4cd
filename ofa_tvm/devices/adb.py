"""A phone behind adb, Android's debug bridge: which one, whether it will do, and its folder and ports."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ofa_tvm.devices.native import START
from ofa_tvm.devices.self_contained import PLACE
from ofa_tvm.devices.tracker import DEFAULT_PORT
from ofa_tvm.errors import UsageError, UserError

INSTALL = "apt-get install adb"
PORT = 9090  # of the first phone's server
_ABIS = {"aarch64": "arm64-v8a", "x86_64": "x86_64"}
_STATES = {
    "unauthorized": "does not trust this computer yet: unlock it and allow USB debugging where it asks",
    "offline": "does not answer: unlock it, or plug it in again",
    "no permissions": "may not be opened by this account: see what `adb devices` says of udev rules",
}
_LIMIT_S = 60.0


class PhoneGone(UserError):
    """The phone was unplugged, or its debugging was switched off."""


def has_adb() -> bool:
    """Whether the command is installed."""
    return shutil.which("adb") is not None


@dataclass(frozen=True)
class Phone:
    """One phone, by the serial number that adb shows."""

    serial: str

    def adb(self, *words: str, limit_s: float | None = _LIMIT_S) -> str:
        """What an adb command for this phone prints.

        Raises
        ------
        PhoneGone
            If the phone is not there any more.
        UserError
            If the command fails otherwise, or takes longer than `limit_s`.
        """
        return _adb("-s", self.serial, *words, limit_s=limit_s)

    def check(self, arch: str, room: int) -> None:
        """Refuse a phone that cannot run programs of a processor family, or has no room for a folder.

        Parameters
        ----------
        arch
            As `uname -m` says.
        room
            What the folder takes, in bytes; what lies there from before is replaced and counts as free.

        Raises
        ------
        UserError
            The sentence says what it is or has, and what to do.
        """
        first = self.adb("shell", "getprop", "ro.product.cpu.abilist").strip().partition(",")[0]
        if first != _ABIS[arch]:
            raise UserError(f"{self.serial} {_unsuited(first, arch)}")
        self.adb("shell", "mkdir", "-p", PLACE)
        lines = self.adb("shell", "df", "-k", PLACE).splitlines()
        # A long device's name has a line of its own in some systems.
        free = [int(word) for word in " ".join(lines[1:]).split() if word.isdecimal()][2:3]
        if not free or free[0] * 1024 >= room:
            return
        before = self.adb("shell", f"du -sk {PLACE}").split()[:1]
        replaced = int(before[0]) if before and before[0].isdecimal() else 0
        if (free[0] + replaced) * 1024 < room:
            raise UserError(
                f"the data partition of {self.serial} has {free[0] / 1024:.1f} MB left and the folder takes "
                f"{room / 2**20:.1f}: make room there (nothing was copied)"
            )

    def require_folder(self) -> None:
        """Refuse a phone that the folder was not copied to.

        Raises
        ------
        UserError
            If it has none, or is gone.
        """
        if self.adb("shell", f"[ -f {PLACE}/{START} ] && echo yes || echo no").strip() != "yes":
            raise UserError(
                f"{self.serial} has no {PLACE}/{START} yet; first: ofa-tvm device bundle --self-contained "
                "--push --target TARGET"
            )

    def push(self, folder: Path) -> None:
        """Copy a self-contained folder to its place.

        Raises
        ------
        UserError
            If it is not taken.
        """
        self.adb("push", f"{folder}/.", f"{PLACE}/", limit_s=None)

    def connect(self, tracker_port: int = DEFAULT_PORT, port: int | None = None) -> int:
        """Let the phone reach the tracker here, and this computer its server; returns the server's port.

        Parameters
        ----------
        tracker_port
            Of the tracker on this computer; the phone finds it under the usual number.
        port
            The server's, the same on both sides; by default the first one from 9090 on that is free here.
        """
        number = port or next(self._free_ports())
        self.adb("reverse", f"tcp:{DEFAULT_PORT}", f"tcp:{tracker_port}")
        self.adb("forward", f"tcp:{number}", f"tcp:{number}")
        return number

    def start_command(self, port: int) -> list[str]:
        """What starts its server and lasts as long; one that is still there from before ends."""
        start = f"{PLACE}/{START}"
        return ["adb", "-s", self.serial, "shell", f"sh {start} stop 2>/dev/null; sh {start} --port {port}"]

    def stop(self) -> None:
        """End its server, if the phone is there and has one."""
        with suppress(UserError):
            self.adb("shell", f"sh {PLACE}/{START} stop 2>/dev/null")

    @property
    def present(self) -> bool:
        """Whether it is plugged in and answers."""
        try:
            return self.adb("get-state").strip() == "device"
        except UserError:
            return False

    def _free_ports(self) -> Iterator[int]:
        rows = [line.split() for line in _adb("forward", "--list").splitlines()]
        ports = {row[1]: row[0] for row in rows if len(row) > 1}
        for number in range(PORT, PORT + 100):
            owner = ports.get(f"tcp:{number}")
            if owner == self.serial or (owner is None and _is_free(number)):
                yield number
        raise UserError(f"no port from {PORT} to {PORT + 99} is free here; name one with --port")


def find_phone(serial: str | None = None) -> Phone:
    """The phone that is plugged in, or of several the one with a serial number.

    Raises
    ------
    UsageError
        If there are several and none was named, or another one was.
    UserError
        If adb is missing, there is no phone, or it may not be used yet.
    """
    rows = [line.split(None, 1) for line in _adb("devices").splitlines()[1:] if line.strip()]
    states = {row[0]: row[1].strip() for row in rows if len(row) > 1}
    if not states:
        raise UserError(
            "adb sees no phone: plug it in, and switch on USB debugging (Settings, Developer options, which "
            "are there after seven taps on the build number); `adb devices` lists what it sees"
        )
    listed = ", ".join(states)
    if serial is not None and serial not in states:
        raise UsageError(f"adb sees no {serial}, but {listed}")
    if serial is None and len(states) > 1:
        raise UsageError(f"adb sees {len(states)} devices: {listed}; name one with --serial")
    serial = serial or listed
    state = states[serial]
    if state != "device":
        reason = next(
            (text for name, text in _STATES.items() if state.startswith(name)), f"is in state {state}"
        )
        raise UserError(f"{serial} {reason}")
    return Phone(serial)


def typed_commands(folder: Path) -> list[str]:
    """What to type where adb is not on this computer."""
    return [
        f"adb shell mkdir -p {PLACE}",
        f"adb push {shlex.quote(str(folder))}/. {PLACE}/",
        f"adb reverse tcp:{DEFAULT_PORT} tcp:{DEFAULT_PORT}",
        f"adb forward tcp:{PORT} tcp:{PORT}",
        f"adb shell sh {PLACE}/{START}",
    ]


def _unsuited(abi: str, arch: str) -> str:
    if abi.startswith("arme"):
        return f"is a 32-bit phone (its programs are {abi}), and TVM's runtime is for 64 bits"
    if abi.startswith("x86"):
        return (
            f"is an emulator's image for {abi}, not a phone, and the folder is for {arch}: its times would "
            "say nothing of a phone. Take an arm64-v8a image, or `ofa-tvm device emulate`, which needs none"
        )
    return f"runs programs for {abi or 'nothing that it names'}, and the folder is for {arch}"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _adb(*words: str, limit_s: float | None = _LIMIT_S) -> str:
    try:
        done = subprocess.run(
            ["adb", *words], capture_output=True, text=True, check=False, timeout=limit_s, errors="replace"
        )
    except FileNotFoundError:
        raise UserError(f"adb is not installed; {INSTALL}") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"adb {' '.join(words)} took more than {limit_s:g} s; unlock the phone") from None
    if done.returncode:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip() and line[0] != "*"]
        reason = (said or ["no message"])[-1].removeprefix("adb: ").removeprefix("error: ")
        if "not found" in reason or "no devices" in reason or "offline" in reason:
            raise PhoneGone(f"the phone is gone ({reason}); plug it in again")
        if "No space left" in reason:
            raise UserError(f"the phone's data partition is full ({reason}); make room there")
        raise UserError(f"adb {words[2] if words[0] == '-s' else words[0]} failed: {reason}")
    return done.stdout

"""What stands in for adb and the phone behind it: this machine as the phone, in a folder, with real programs.

Run as `adb`, with OFA_TVM_CABLE naming a folder: `devices` there holds what `adb devices` lists, `abilist`
and `free_kib` what the phone says of itself, `phone/` its files. While there is `unplugged`, no phone is.
Answers are worded as those of adb (platform tools 29) and toybox.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HOME = Path(os.environ.get("OFA_TVM_CABLE", "."))


def install(folder: Path) -> Path:
    """A folder with a phone in it, and `bin/adb` for the search path."""
    for name, text in {"devices": "PHONE1\tdevice\n", "abilist": "x86_64", "free_kib": "1000000"}.items():
        (folder / name).write_text(text)
    (folder / "bin").mkdir()
    (folder / "bin/adb").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" "$@"\n')
    (folder / "bin/adb").chmod(0o755)
    return folder


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _fail(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.exit(1)


def _shell(command: str, serial: str) -> None:
    if command.startswith("getprop"):
        _say((HOME / "abilist").read_text())
        return
    if command.startswith("df"):
        _say("Filesystem     1K-blocks  Used Available Use% Mounted on")
        _say(f"/dev/block/dm-5 52000000 99999 {(HOME / 'free_kib').read_text()}   1% /data")
        return
    command = command.replace("/data/local/tmp", str(HOME / "phone"))
    if "--port" in command:  # where `adb reverse` leads to
        command += f" --tracker 127.0.0.1:{(HOME / 'reverse').read_text()}"
    child = subprocess.Popen(["sh", "-c", command], start_new_session=True)
    while child.poll() is None:
        if (HOME / "unplugged").exists():
            os.killpg(child.pid, signal.SIGKILL)
            _fail(f"error: device '{serial}' not found")
        time.sleep(0.1)
    sys.exit(child.returncode)


def main(words: list[str]) -> None:
    """One adb command."""
    serial = ""
    if words[0] == "-s":
        serial, words = words[1], words[2:]
        if (HOME / "unplugged").exists():
            _fail(f"error: device '{serial}' not found")
    match words:
        case ["devices"]:
            _say("List of devices attached")
            _say((HOME / "devices").read_text())
        case ["get-state"]:
            _say("device")
        case ["push", source, to]:
            shutil.copytree(source, to.replace("/data/local/tmp", str(HOME / "phone")), dirs_exist_ok=True)
        case ["reverse", _, to]:
            (HOME / "reverse").write_text(to.removeprefix("tcp:"))
        case ["forward", "--list"] | ["forward", _, _]:
            pass  # what is forwarded here is already here
        case ["shell", *rest]:
            _shell(" ".join(rest), serial)
        case _:
            _fail(f"adb: unknown command {words}")


if __name__ == "__main__":
    main(sys.argv[1:])

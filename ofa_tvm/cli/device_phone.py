"""What `ofa-tvm device` does with phones over adb: copy the folder there, and keep one at the tracker."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.devices.tracker import DEFAULT_PORT, TrackerClient, TrackerUnreachable
from ofa_tvm.errors import UserError

if TYPE_CHECKING:
    from ofa_tvm.devices.adb import Phone

serial_option = click.option("--serial", help="Of several phones, the one that `adb devices` lists under it.")
_PAUSE_S = 2.0
_AT_ONCE_S = 5.0  # a server that ends sooner, with the phone there, does not start at all


def check_phone(arch: str, serial: str | None) -> None:
    """Refuse a phone that will not do before anything is built for it."""
    from ofa_tvm.devices.adb import find_phone, has_adb

    if has_adb():
        find_phone(serial).check(arch, 0)


def push_bundle(
    console: Console, folder: Path, size: int, arch: str, serial: str | None
) -> dict[str, object]:
    """Copy a folder to the phone by adb; without adb, say what to type."""
    from ofa_tvm.devices.adb import INSTALL, find_phone, has_adb, typed_commands

    if not has_adb():
        commands = typed_commands(folder)
        console.print(f"adb is not installed here ({INSTALL}); where it is:", *commands)
        return {"pushed": False, "commands": commands}
    phone = find_phone(serial)
    phone.check(arch, size)
    phone.push(folder)
    port = phone.connect()
    console.print(
        f"{phone.serial} has it, and its ports are connected (until it is unplugged). Next:",
        "  ofa-tvm device tracker",
        f"  ofa-tvm device attach --serial {phone.serial}",
    )
    return {"pushed": True, "serial": phone.serial, "port": port}


@click.command("attach")
@serial_option
@click.option(
    "--tracker-port", type=click.IntRange(1, 65535), default=DEFAULT_PORT, show_default=True, help="Here."
)
@click.option("--port", type=click.IntRange(1024, 65535), help="Of its server. [default: the first free one]")
@common_options
def attach_command(console: Console, serial: str | None, tracker_port: int, port: int | None) -> None:
    """Keep a phone at this computer's tracker until it is interrupted.

    Connects the ports and starts the server in the folder that `device bundle --push` copied; when it
    was unplugged, it does so again, and what waits for it goes on.
    """
    from ofa_tvm.devices.adb import find_phone

    phone = find_phone(serial)
    phone.require_folder()
    console.wait_for_others()
    try:
        with TrackerClient("127.0.0.1", tracker_port, limit_s=5.0):
            pass
    except TrackerUnreachable as error:  # the phone finds it when it is there
        console.say(str(error))
    try:
        while True:
            start = time.monotonic()
            said = _served(console, phone, tracker_port, port)
            if not phone.present:
                console.say(f"{phone.serial} is not there; waiting for it")
            elif time.monotonic() - start < _AT_ONCE_S:
                raise UserError(f"the server on {phone.serial} ends at once: {said or 'it says nothing'}")
            while not phone.present:
                time.sleep(_PAUSE_S)
    finally:
        phone.stop()


def _served(console: Console, phone: Phone, tracker_port: int, port: int | None) -> str:
    """Run the phone's server for as long as it and the phone are there; returns the last that it said."""
    from ofa_tvm.devices.adb import PhoneGone

    try:
        number = phone.connect(tracker_port, port)
        console.say(f"{phone.serial}: its server's port {number} is for the tracker at port {tracker_port}")
        done = subprocess.run(
            phone.start_command(number), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except PhoneGone as gone:
        return str(gone)
    return ((done.stdout + done.stderr).strip().splitlines() or [""])[-1]

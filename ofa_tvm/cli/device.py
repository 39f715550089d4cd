"""ofa-tvm device serve | tracker | list | emulate | bundle."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import click

from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.cli.device_phone import attach_command, check_phone, push_bundle, serial_option
from ofa_tvm.cli.options import OUTPUT_PATH, complete_target
from ofa_tvm.devices.tracker import DEFAULT_PORT, TrackerClient, listen, serve_tracker
from ofa_tvm.errors import UsageError
from ofa_tvm.targets.load import TRACKER

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_WARNING = (
    "TVM's RPC runs whatever it is sent: whoever reaches {host}:{port} owns this machine's account. Let only "
    "a network that you trust reach it"
)
_PHONE_GPU = (
    "a phone's driver for it is made for Android's C library, and a program that brings another one cannot "
    "load it; that would take a server and a TVM runtime built with Android's NDK "
    "(docs/targets-android.md). The phone's CPU does without: name its device, such as pixel-3"
)
_host_option = click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is all of them."
)


@click.group(short_help="Serve, list and emulate devices that run modules over RPC.")
def command() -> None:
    """Boards and emulated devices: a tracker knows them, `serve` on each board offers it to the tracker.

    Tuning and measuring then use every board of a target's kind at once. See docs/targets-arm.md.
    """


@command.command("serve")
@_host_option
@click.option("--port", type=click.IntRange(0, 65535), default=9090, show_default=True, help="0: any.")
@click.option("--tracker", metavar="HOST:PORT", help=f"By default the variable {TRACKER}, else none.")
@click.option("--key", help="Name of this kind of device on the tracker, such as cortex-a72.")
@click.option("--gpu", type=click.Choice(["opencl", "cuda"]), help="Offer this machine's GPU as well.")
@click.option(
    "--cpus",
    default="big",
    show_default=True,
    help="Where cores differ, those to keep to: big, little, all, or numbers (4-7).",
)
@common_options
def serve_command(
    console: Console,
    host: str,
    port: int,
    tracker: str | None,
    key: str | None,
    gpu: str | None,
    cpus: str,
) -> None:
    """Make this machine a device, one session at a time, until it is interrupted.

    A board needs no ofa-tvm for it: `device bundle` writes a folder of a few megabytes that does the same.
    """
    from ofa_tvm.devices.native import SERVER, device_runtime
    from ofa_tvm.devices.place import split_address

    tracker = tracker or os.environ.get(TRACKER)
    if tracker is not None:
        split_address(tracker)
        if key is None:
            raise UsageError("a tracker tells devices apart by keys: add --key, for example --key cortex-a72")
    if host not in _LOOPBACK:
        console.say(_WARNING.format(host=host, port=port))
    runtime = device_runtime(platform.machine(), kind=gpu or "llvm", progress=console.progress)
    arguments = ["--host", host, "--port", str(port), "--key", key or "device", "--cpus", cpus]
    if tracker is not None:
        arguments += ["--tracker", tracker]
    sys.stdout.flush()
    console.wait_for_others()
    os.execv(runtime / SERVER, [str(runtime / SERVER), *arguments])


@command.command("tracker")
@_host_option
@click.option(
    "--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="0: any."
)
@common_options
def tracker_command(console: Console, host: str, port: int) -> None:
    """Run TVM's tracker until it is interrupted: devices offer themselves to it, tuning and measuring ask it.

    Devices reconnect by themselves when it was restarted.
    """
    listener = listen(host, port, port and min(port + 9, 65535))
    port = int(listener.getsockname()[1])
    if host not in _LOOPBACK:
        console.say(_WARNING.format(host=host, port=port))
    console.say(f"tracker at {host}:{port}; for other commands: export {TRACKER}=HOST:{port}")
    console.result({"host": host, "port": port})
    sys.stdout.flush()
    console.wait_for_others()
    serve_tracker(listener)


@command.command("list")
@click.option(
    "--tracker",
    metavar="HOST:PORT",
    help=f"By default the variable {TRACKER}, else 127.0.0.1:{DEFAULT_PORT}.",
)
@common_options
def list_command(console: Console, tracker: str | None) -> None:
    """Show what the tracker has: devices by key, how many are free, how many clients wait."""
    from ofa_tvm.devices.place import split_address

    address = tracker or os.environ.get(TRACKER) or f"127.0.0.1:{DEFAULT_PORT}"
    with TrackerClient(*split_address(address)) as client:
        keys = client.summary()
    console.table(
        ["key", "devices", "free", "waiting", "addresses"],
        [[entry.key, entry.devices, entry.free, entry.waiting, ", ".join(entry.addresses)] for entry in keys],
    )
    if not keys:
        console.print(
            f"the tracker at {address} has no devices; on a board: ofa-tvm device serve --tracker ..."
        )
    console.result(
        {
            "tracker": address,
            "keys": [
                {
                    "key": entry.key,
                    "devices": entry.devices,
                    "free": entry.free,
                    "waiting": entry.waiting,
                    "addresses": list(entry.addresses),
                }
                for entry in keys
            ],
        }
    )


@command.command("emulate")
@click.option(
    "-t",
    "--target",
    shell_complete=complete_target,
    default="arm",
    show_default=True,
    help="A target that runs in the emulator.",
)
@common_options
def emulate_command(console: Console, target: str) -> None:
    """Set up the emulated device of TARGET, without root, and try it.

    What is built or downloaded stays in the cache folder; other verbs do the same when they first need it.
    """
    from ofa_tvm.process import use_runtime_only
    from ofa_tvm.targets import get_target

    use_runtime_only()
    from ofa_tvm.devices import Fleet
    from ofa_tvm.devices.emulator import prepare_emulator
    from ofa_tvm.devices.session import open_session

    chosen = get_target(target)
    if not chosen.emulated:
        raise UsageError(f"target {chosen.name} runs by {chosen.run.where}, not in an emulator")
    emulator = prepare_emulator(chosen, progress=console.progress)
    with Fleet(chosen, devices=1, progress=console.progress) as fleet, open_session(fleet.place) as session:
        arch = session.arch
    console.print(
        f"{chosen.name} is emulated by {emulator.command} as {emulator.cpu} ({arch}); its costs are counts "
        "of instructions (Minstr), never times"
    )
    console.result(
        {
            "target": chosen.name,
            "arch": arch,
            "emulator": emulator.command,
            "cpu": emulator.cpu,
            "system_libraries": str(emulator.root),
            "runtime": str(emulator.runtime),
        }
    )


@command.command("bundle")
@click.option(
    "-t",
    "--target",
    shell_complete=complete_target,
    default="arm",
    show_default=True,
    help="What the board is.",
)
@click.option("-o", "--output", type=OUTPUT_PATH, default=Path("ofa-tvm-device"), show_default=True)
@click.option(
    "--self-contained",
    is_flag=True,
    help="With a C library of its own, for Android phones and other systems without glibc.",
)
@click.option("--push", is_flag=True, help="Copy it to the phone with adb, and connect its ports.")
@serial_option
@common_options
def bundle_command(
    console: Console, target: str, output: Path, self_contained: bool, push: bool, serial: str | None
) -> None:
    """Write the folder that makes a board or a phone a device: the RPC server and TVM's runtime.

    Copy it to the board (scp -r) and start ./ofa-tvm-device there; its README.txt says how. For a phone, see
    docs/targets-android.md.
    """
    if (push or serial) and not self_contained:
        raise UsageError("only a folder for phones is copied by adb; add --self-contained")
    if serial and not push:
        raise UsageError("--serial says which phone to copy to; add --push")
    from ofa_tvm.devices.bundle import write_bundle
    from ofa_tvm.devices.native import cxx_of
    from ofa_tvm.devices.self_contained import write_self_contained
    from ofa_tvm.targets import get_target

    chosen = get_target(target)
    settings = chosen.host or chosen.tvm
    arch = str(settings.get("mtriple", platform.machine())).partition("-")[0]
    key = chosen.run.key or chosen.name
    kind = str(chosen.tvm["kind"])
    if not self_contained:
        size = write_bundle(
            output,
            arch,
            cxx_of(chosen.link.find()),
            key,
            target=chosen.name,
            kind=kind,
            progress=console.progress,
        )
    elif kind == "llvm":
        if push:
            check_phone(arch, serial)
        size = write_self_contained(
            output,
            arch,
            cxx_of(chosen.link.find()),
            key,
            target=target,
            cpus=chosen.run.cpus,
            progress=console.progress,
        )
    else:
        raise UsageError(f"target {chosen.name} is a GPU: {_PHONE_GPU}")
    console.print(f"{output}: {size / 1e6:.1f} MB for {arch}; its README.txt says how to start it")
    pushed = push_bundle(console, output, size, arch, serial) if push else {}
    console.result({"path": str(output), "arch": arch, "bytes": size, **pushed})


command.add_command(attach_command)

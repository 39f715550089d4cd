"""ofa-tvm runtime."""

from __future__ import annotations

import dataclasses
import time

import click

from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.errors import UserError


@click.group(short_help="Build the device runtimes that TVM's wheels lack.")
def command() -> None:
    """Build the device runtimes that TVM's wheels lack."""


@command.command(short_help="Compile a runtime library now, and say what devices it finds.")
@click.argument("name", type=click.Choice(["opencl"]))
@click.option("--rebuild", is_flag=True, help="Compile although the cache has it.")
@common_options
def build(console: Console, name: str, rebuild: bool) -> None:
    """Compile the OpenCL runtime for TVM and list the devices that it finds.

    Other verbs build it when they first need it. Nothing is written to site-packages: the library lies in
    the cache folder, and any program that uses TVM can load it from there.
    """
    from ofa_tvm.native import build_library, opencl_devices
    from ofa_tvm.process import use_runtime_only

    use_runtime_only()
    start = time.monotonic()
    path = build_library(name, rebuild=rebuild)
    seconds = time.monotonic() - start
    console.print(f"{path} ({seconds:.1f} s)")
    try:
        devices = opencl_devices()
    except UserError as error:
        console.say(str(error))
        devices = []
    for device in devices:
        console.print(
            f"opencl:{device.index}  {device.name}, {device.version}, {device.compute_units} compute units,",
            f"          work-groups up to {device.max_threads_per_block}, "
            f"{device.shared_bytes // 1024} KiB local memory",
        )
    console.result({"path": str(path), "devices": [dataclasses.asdict(device) for device in devices]})

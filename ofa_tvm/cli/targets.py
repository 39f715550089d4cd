"""ofa-tvm targets list | show | probe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.cli.options import OUTPUT_PATH, complete_target
from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.files import write_atomic
from ofa_tvm.number_formats import described
from ofa_tvm.process import leave_torch_out
from ofa_tvm.targets import Target, detect_machine, get_target, list_targets
from ofa_tvm.targets.load import PROBED, device_targets, probe_arm, probe_x86
from ofa_tvm.temporaries import scratch_folder
from ofa_tvm.yamlfile import write_yaml


@click.group(short_help="List, show and probe target descriptors.")
def command() -> None:
    """A target descriptor says what to compile for, how to link, where to run and what the hardware is.

    Wherever a verb takes --target, it takes a name from `list` (of a target, or of a device such as
    raspberry-pi-4) or the path of a YAML file like that of `show`.
    """


@command.command("list")
@common_options
def list_command(console: Console) -> None:
    """List the targets that ship, and the devices whose names stand for one."""
    targets = list_targets()
    machine = detect_machine()
    rows = [
        (target.name, target.kind, target.unit, _where(target, target.runs_on(machine) == ""), target.summary)
        for target in targets
    ]
    console.table(("name", "kind", "cost in", "runs", "what it is"), rows)
    devices = device_targets()
    named = ", ".join(f"{name} ({target})" for name, target in devices.items())
    console.prose("", f"devices that may be named instead, with the target of their core: {named}")
    console.result({"targets": [target.to_json() for target in targets], "devices": devices})


def _where(target: Target, here: bool) -> str:
    if target.run.where != "local":
        return target.run.where
    return "here" if here and target.kind == "x86" else "on its device"


@command.command("show")
@click.argument("target", shell_complete=complete_target)
@common_options
def show_command(console: Console, target: str) -> None:
    """Print TARGET (a name or a YAML file), checked, as YAML; and the number formats that it has."""
    leave_torch_out()
    found = get_target(target)
    dtypes = found.dtypes
    console.print(write_yaml(found.to_descriptor()).rstrip(), f"# number formats: {described(dtypes)}")
    console.result({**found.to_json(), "dtypes": dtypes})


@command.command("probe")
@click.option("-o", "--output", type=OUTPUT_PATH, help="Write the descriptor to this YAML file.")
@click.option("--name", help="The name that it gets; by default the file's, or the processor's.")
@click.option("--tracker", metavar="HOST:PORT", help="Describe a device of this tracker instead.")
@click.option("--key", help="The device's key on the tracker.")
@common_options
def probe_command(
    console: Console, output: Path | None, name: str | None, tracker: str | None, key: str | None
) -> None:
    """Describe this machine, or a tracker's device, as a target; with -o, into a file to use as --target."""
    if (tracker is None) != (key is None):
        raise UsageError("a device is named by --tracker and --key together")
    if tracker is not None and key is not None:
        target = _probe_device(tracker, key)
    else:
        machine = detect_machine()
        target = probe_arm(machine) if machine.arch == "aarch64" else get_target(PROBED)
    descriptor = target.to_descriptor()
    descriptor["name"] = name or (output.stem if output else target.name)
    if output is not None:
        if descriptor["name"] == PROBED:
            raise UsageError(f"{PROBED} always means the machine at hand; give the descriptor another --name")
        descriptor["summary"] = descriptor["summary"].removeprefix("this machine: ")
        write_atomic(output, write_yaml(descriptor))
        get_target(output.resolve())
        console.say(f"wrote {output}; use it as --target {output}")
    else:
        console.print(write_yaml(descriptor).rstrip())
    console.result(descriptor)


def _probe_device(tracker: str, key: str) -> Target:
    """Target of a device, from what its kernel says of it."""
    from ofa_tvm.devices.place import Place, split_address
    from ofa_tvm.process import use_runtime_only

    use_runtime_only()
    from ofa_tvm.devices.session import open_session

    with open_session(Place(*split_address(tracker), key)) as session:
        if session.emulated:
            raise UserError(f"the device of key {key} is emulated: it has no hardware to describe")
        arch, files = session.arch, session.files()
    with scratch_folder("probe") as folder:
        for name, text in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        machine = detect_machine(Path(folder), arch)
    target = probe_arm(machine) if arch == "aarch64" else probe_x86(machine)
    return replace(target.on_tracker(tracker, key), probed=False)

"""ofa-tvm doctor."""

from __future__ import annotations

import dataclasses
from importlib.metadata import PackageNotFoundError, version

import click

from ofa_tvm import __version__
from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.number_formats import described
from ofa_tvm.process import leave_torch_out
from ofa_tvm.targets import detect_machine, list_targets
from ofa_tvm.targets.readiness import Readiness, examine

_PACKAGES = ("apache-tvm", "apache-tvm-ffi", "torch", "onnxruntime", "onnx", "numpy")


_NO_HUGE_PAGES = (
    "no huge pages: compiled networks run, some a few percent slower "
    "(echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, as root)"
)


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _cells(readiness: Readiness) -> list[str]:
    cells = [readiness.target.name, "yes" if readiness.ready else "no"]
    cells += [check.found for _, check in readiness.checks]
    cells.append(described(readiness.dtypes))
    installs = [check.install for _, check in readiness.checks if not check.ok and check.install]
    return [*cells, "; ".join(dict.fromkeys(installs))]


@click.command(short_help="What this machine can do: one line a target, and what to install.")
@common_options
def command(console: Console) -> None:
    """Say what this machine can compile, link and run: one line a target, and what to install.

    Always exits with 0: a target that is missing is an answer, not a failure.
    """
    leave_torch_out()
    machine = detect_machine()
    report = [examine(target, machine) for target in list_targets()]
    versions = _versions()
    cpu = f"{machine.model or machine.arch} ({machine.cpu or machine.level or machine.arch})"
    console.print(
        f"ofa-tvm {__version__} on {cpu}, {machine.cores} cores, {machine.ram_gib:g} GiB",
        ", ".join(f"{name} {found or 'not installed'}" for name, found in versions.items()),
        *([] if machine.huge_pages in ("always", "madvise") else [_NO_HUGE_PAGES]),
        "",
    )
    columns = ("target", "ready", "compiler", "linker", "device", "number formats", "to do")
    console.table(columns, [_cells(readiness) for readiness in report])
    console.result(
        {
            "ofa-tvm": __version__,
            "machine": {**dataclasses.asdict(machine), "flags": sorted(machine.flags)},
            "versions": versions,
            "targets": [
                {
                    "name": readiness.target.name,
                    "kind": readiness.target.kind,
                    "ready": readiness.ready,
                    "dtypes": readiness.dtypes,
                    **{name: dataclasses.asdict(check) for name, check in readiness.checks},
                }
                for readiness in report
            ],
        }
    )

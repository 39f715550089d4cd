"""ofa-tvm doctor."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

import click

from ofa_tvm import __version__
from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.cli.options import complete_target
from ofa_tvm.number_formats import described
from ofa_tvm.process import leave_torch_out
from ofa_tvm.targets import detect_machine, get_target, list_targets
from ofa_tvm.targets.readiness import Readiness, examine

T = TypeVar("T")
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


_LACKS = "this machine lacks "


def _cells(readiness: Readiness) -> tuple[str, ...]:
    """What a row says beside the target's name, and does not name it again: equal rows are then equal.

    Which instructions are lacking is left to the target's own page.
    """
    target = readiness.target
    cells = ["yes" if readiness.ready else "no", *(check.found for _, check in readiness.checks)]
    cells.append("; ".join(_installs(readiness)))
    for words, fewer in (
        (f", {target.mcpu}", ""),
        (f" as {target.run.emulator_cpu}", ""),
        (f" that has {target.name}", " that has it"),
    ):
        cells = [cell.replace(words, fewer) for cell in cells]
    return tuple(f"{_LACKS}instructions of it" if cell.startswith(_LACKS) else cell for cell in cells)


def _installs(readiness: Readiness) -> list[str]:
    found = [check.install for _, check in readiness.checks if not check.ok and check.install]
    return list(dict.fromkeys(found))


def _show_all(console: Console, report: Sequence[Readiness]) -> None:
    """A row an answer, with all targets of which it is true."""
    console.table(
        ("target", "ready", "compiler", "linker", "device", "to do"),
        [[names, *cells] for cells, names in _folded(report, _cells)],
    )
    console.print("")
    console.table(
        ("target", "number formats"),
        [(names, formats) for formats, names in _folded(report, lambda one: described(one.dtypes) or "none")],
    )
    console.prose("", "one target in detail: ofa-tvm doctor TARGET")


def _folded(report: Sequence[Readiness], said: Callable[[Readiness], T]) -> list[tuple[T, str]]:
    """What is said, once, and the names of the targets of which it is."""
    names: dict[T, list[str]] = {}
    for readiness in report:
        names.setdefault(said(readiness), []).append(readiness.target.name)
    return [(what, ", ".join(of)) for what, of in names.items()]


def _show_one(console: Console, readiness: Readiness, asked: str) -> None:
    target, asked = readiness.target, shlex.quote(asked)
    console.prose(f"{target.name}: {target.summary}", "")
    installs = _installs(readiness)
    steps = zip(("compile", "link", "run and measure"), readiness.checks, strict=True)
    console.table(
        ("step", "here", "by", *(("to install",) if installs else ())),
        [
            (
                step,
                "yes" if check.ok else "no",
                check.found,
                *(("" if check.ok else check.install,) if installs else ()),
            )
            for step, (_, check) in steps
        ],
    )
    works = all(check.ok for check in (readiness.compiler, readiness.linker))
    console.prose(
        "",
        f"number formats: {described(readiness.dtypes) or 'none, as nothing compiles for it'}",
        f"costs are in {target.unit}"
        + (", instructions of one call, which are no time" if target.unit == "Minstr" else ""),
        "its kernels' records are looked up of: "
        + ", ".join(dict.fromkeys([target.name, *target.compatible])),
        "",
    )
    if works:
        console.print(f"compile a network for it: ofa-tvm compile model.onnx --target {asked} -o model.so")
    if readiness.ready:
        console.print(f"tune all kernels of a space: ofa-tvm tune --target {asked}")
    elif works:
        console.prose("what is compiled here does not run here, so that nothing can be tuned or measured")


@click.command(short_help="What this machine can do for each target, and what to install.")
@click.argument("target", required=False, shell_complete=complete_target)
@common_options
def command(console: Console, target: str | None) -> None:
    """Say what this machine can compile, link and run, and what to install; of TARGET in detail, else of all.

    Targets of which the same is true share a row. Always exits with 0: a target that is missing is an
    answer, not a failure.
    """
    leave_torch_out()
    machine = detect_machine()
    targets = list_targets() if target is None else [get_target(target)]
    report = [examine(one, machine) for one in targets]
    versions = _versions()
    if target is None:
        cpu = f"{machine.model or machine.arch} ({machine.cpu or machine.level or machine.arch})"
        console.prose(
            f"ofa-tvm {__version__} on {cpu}, {machine.cores} cores, {machine.ram_gib:g} GiB",
            ", ".join(f"{name} {found or 'not installed'}" for name, found in versions.items()),
            *([] if machine.huge_pages in ("always", "madvise") else [_NO_HUGE_PAGES]),
            "",
        )
        _show_all(console, report)
    else:
        _show_one(console, report[0], target)
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

"""Tuning logs: one file, one target's folder, or a folder of such folders."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ofa_tvm.errors import UserError
from ofa_tvm.logs import Header, KernelTable, log_name, read_folder, timed_on
from ofa_tvm.logs.log import read_header, read_log
from ofa_tvm.targets import detect_machine, get_target
from ofa_tvm.workflow.info.coverage import coverage, known_target
from ofa_tvm.workflow.info.description import (
    Description,
    Fact,
    Found,
    Step,
    command,
    date_text,
    listed,
    range_text,
    refusal,
    size_fact,
    version_notes,
    versions_text,
)
from ofa_tvm.workflow.project import NAME, Project, read_project
from ofa_tvm.workflow.store import Store

PATTERN = "*.jsonl*"  # of log files in a target's folder
_KINDS = 6


def log_files(folder: Path) -> list[Path]:
    """Files of a folder that begin as tuning logs."""
    return [file for file in sorted(folder.glob(PATTERN)) if file.is_file() and is_log(file)]


def is_log(file: Path) -> bool:
    """Whether a file begins as a tuning log."""
    try:
        read_header(file)
    except UserError:
        return False
    return True


def describe_log(file: Path) -> Description:
    """One file, packed or not.

    Raises
    ------
    UserError
        If it is no log of a version that is read here.
    """
    header, table = read_header(file), read_log(file)
    facts = [*_header_facts([header]), *_record_facts(table), size_fact(file)]
    return Description(
        path=file,
        kind="tuning log",
        summary="a tuning log: measured schedules of kernels",
        facts=tuple(facts),
        problems=tuple(_problems(table)),
        notes=(*_notes([header]), *table.notes),
        steps=_steps(file.parent, header),
        damaged=bool(table.problems) and not table.records,
    )


def describe_log_folder(folder: Path) -> Description:
    """The logs of one target.

    Raises
    ------
    UserError
        If none of its files is a log.
    """
    files = log_files(folder)
    if not files:
        raise refusal(folder, "holds no tuning log")
    headers, table = [read_header(file) for file in files], read_folder(folder)
    project = _project(folder)
    found = project and coverage(read_project(project / NAME), folder.name, table.records)
    covered = [found.fact("covers")] if found else []
    return Description(
        path=folder,
        kind="tuning logs",
        summary="the tuning log of one target",
        facts=(*_header_facts(headers), *_record_facts(table), *covered, size_fact(*files)),
        problems=tuple(_problems(table)),
        notes=(*_notes(headers), *table.notes),
        steps=_steps(folder, headers[0]),
        contents=tuple(
            Found(file, f"begun {date_text(header.date)} on {header.machine}")
            for file, header in zip(files, headers, strict=True)
        ),
        damaged=bool(table.problems) and not table.records,
    )


def describe_log_root(root: Path, folders: list[Path]) -> Description:
    """A folder of targets' logs, as a project's `tuning_logs`."""
    tables = {folder: read_folder(folder) for folder in folders}
    contents = [
        Found(folder, f"{len(t.records):,} kernels, {_count(t):,} records") for folder, t in tables.items()
    ]
    serving = [folder.name for folder in folders if folder.name in _names_here()]
    total = sum(len(table.records) for table in tables.values())
    facts = (
        Fact("targets", listed(folder.name for folder in folders), [folder.name for folder in folders]),
        Fact("kernels", f"{total:,}", total),
        Fact("for this machine", listed(serving) or "none of them", serving),
        size_fact(*(file for folder in folders for file in log_files(folder))),
    )
    steps = [Step("look at one of them", command("info", folders[0]))]
    return Description(
        path=root,
        kind="tuning log folder",
        summary="tuning logs, a folder for each target",
        facts=facts,
        notes=tuple(problem for table in tables.values() for problem in table.notes),
        steps=tuple(steps),
        contents=tuple(contents),
    )


def log_coverage(project: Project) -> list[Fact]:
    """What each of a project's logs has of its space; no fact of a log whose target is not known here."""
    root = Store(project.folder, project.tuning_logs).logs
    folders = [each for each in sorted(root.glob("*")) if each.is_dir() and log_files(each)]
    found = {each.name: coverage(project, each.name, read_folder(each).records) for each in folders}
    return [part.fact(f"tuned {name}") for name, part in found.items() if part is not None]


def _project(folder: Path) -> Path | None:
    """The project that a log's folder lies in."""
    parents = (*folder.parents, *folder.resolve().parents)
    return next((parent for parent in parents if (parent / NAME).is_file()), None)


def _header_facts(headers: list[Header]) -> list[Fact]:
    first = headers[0]
    settings = first.tvm_target
    host = settings.get("host") or settings
    code = str(host.get("mcpu", settings.get("arch", ""))) if isinstance(host, dict) else ""
    threads = settings.get("num-cores")
    machines = list(dict.fromkeys(header.machine for header in headers))
    dates = sorted(header.date for header in headers)
    versions = {name: version for header in headers for name, version in header.versions.items()}
    return [
        Fact(
            "target",
            first.target if code in ("", first.target) else f"{first.target} (code for {code})",
            {"name": first.target, "tvm": dict(settings)},
        ),
        *([Fact("threads", str(threads), threads)] if threads is not None else []),
        Fact("timed on", "; ".join(machines), machines),
        Fact(
            "made",
            f"begun {date_text(dates[0])}, with {versions_text(versions)}",
            {"begun": dates[0], "versions": versions},
        ),
    ]


def _record_facts(table: KernelTable) -> list[Fact]:
    kinds = Counter(
        records[0].signature.operators[0]
        for records in table.records.values()
        if records[0].signature.operators
    )
    dtypes = Counter(
        records[0].signature.dtypes[0]
        for records in table.records.values()
        if records[0].signature.has_product and records[0].signature.dtypes
    )
    kernels, failed = len(table.records), sum(map(len, table.failures.values()))
    facts = [
        Fact(
            "kernels",
            f"{kernels:,}: {listed((f'{n} {kind}' for kind, n in kinds.most_common()), _KINDS)}",
            kernels,
        ),
        Fact(
            "records",
            f"{_count(table) - failed:,} measured schedules, {failed:,} that failed",
            {"measured": _count(table) - failed, "failed": failed},
        ),
    ]
    if dtypes:
        facts.append(
            Fact("products", listed(f"{n} in {name}" for name, n in dtypes.most_common()), dict(dtypes))
        )
    best = [records[0] for records in table.records.values()]
    if best:
        emulated = best[0].instructions is not None
        unit, factor = ("Minstr", 1.0) if emulated else ("us", 1e3)
        costs = [record.cost * factor for record in best]
        facts.append(
            Fact("best costs", range_text(costs, unit), {"unit": unit, "min": min(costs), "max": max(costs)})
        )
    return facts


def _count(table: KernelTable) -> int:
    return sum(map(len, (*table.records.values(), *table.failures.values())))


def _problems(table: KernelTable) -> list[str]:
    return [] if table.records else ["it holds no schedule that was measured"]


def _notes(headers: list[Header]) -> list[str]:
    """Whether verbs on this machine look into a log of these headers, and what it is good for."""
    header = headers[0]
    own, serving = _names_here(), header.target
    versions = version_notes(header.versions, "its schedules are passed over: tune again")
    if serving not in own:
        found = known_target(serving)
        whose = "a target that is called so or names it as compatible" if found is None else f"`{found[0]}`"
        return [*versions, f"verbs read it for {whose}; on this machine `--target x86` does not look at it"]
    here = detect_machine().name
    if not timed_on(here, [found.machine for found in headers]):
        return [
            *versions,
            f"its schedules serve this machine ({here}); its times are another one's, which `--retime` mends",
        ]
    return versions


def _names_here() -> list[str]:
    """Names of the logs that this machine's own target takes schedules from, its own first."""
    try:
        target = get_target("x86")
    except UserError:
        return []
    return [log_name(target), *target.compatible]


def _steps(folder: Path, header: Header) -> tuple[Step, ...]:
    """Verbs find logs by target, in a project's folder of logs or among those that ship."""
    project = _project(folder)
    name = _option(header)
    steps = [
        Step("say what there is still to tune", command("tune", name, "--dry-run", inside=project)),
        *(
            [Step("time its schedules on this machine", command("tune", name, "--retime", inside=project))]
            if header.target in _names_here() and not timed_on(detect_machine().name, [header.machine])
            else []
        ),
        Step("compile an ONNX file with it", command("compile", "MODEL.onnx", name, inside=project)),
        Step(
            "write its times as Once-for-All's lookup tables",
            command("predictor table", name, "-o TABLES", inside=project),
        ),
    ]
    return tuple(steps)


def _option(header: Header) -> str:
    """The target as verbs take it."""
    found = known_target(header.target)
    return "--target TARGET.yaml" if found is None else found[0]

"""Tables and lists of subnets: latencies, accuracies, finished evaluations, architectures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ofa_tvm.accuracy.table import read_accuracies
from ofa_tvm.errors import UsageError, UserError, counted
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.latency.dataset import Column, LatencyTable, columns_of, noted_space, read_table
from ofa_tvm.latency.table_file import meta_path, read_bytes, rows_of, text_of
from ofa_tvm.spaces import Arch, get_space, list_spaces
from ofa_tvm.targets.load import PROBED
from ofa_tvm.workflow.info.description import (
    Description,
    Fact,
    Step,
    command,
    date_text,
    listed,
    other_machine,
    project_option,
    range_text,
    refusal,
    shares,
    size_fact,
    space_fact,
    versions_text,
)
from ofa_tvm.workflow.project import NAME
from ofa_tvm.workflow.store import Store

_HEADS = ("arch", "ops")
_LOOKED_AT = 5  # subnets whose space is looked for


def is_table(head: str) -> bool:
    """Whether a text begins as a table of subnets."""
    return head.lstrip("\ufeff").partition(",")[0].strip().strip('"') in _HEADS


def describe_table(file: Path) -> Description:
    """A CSV file, packed or not, whose first column is of architectures.

    Raises
    ------
    UserError
        If it holds neither latencies nor accuracies, or bad rows, which are named.
    """
    first = text_of(read_bytes(file), file).lstrip().partition("\n")[0]  # that is not blank
    header = rows_of(first, file)[0][1]
    if len(header) > 1 and all(map(_is_latency, header[1:])):
        return _latencies(file)
    accuracies = [name for name in header[1:] if name.lower().startswith(("accuracy", "top1", "acc"))]
    if accuracies:
        return _accuracies(file, header, accuracies)
    raise refusal(
        file,
        f"is a table of subnets without latencies or accuracies (its columns are {listed(header[1:])})",
        "a latency is headed NAME_ms or NAME_minstr, an accuracy top1, acc or accuracy",
    )


def _is_latency(heading: str) -> bool:
    try:
        Column.parse(heading)
    except UserError:
        return False
    return True


def _latencies(file: Path) -> Description:
    columns = columns_of(file)
    stated = noted_space(file)
    fitting = _spaces_of(file) if stated is None else []
    space = stated or (fitting[0] if len(fitting) == 1 else None)
    table: LatencyTable | None = None
    if space is not None:
        table = read_table(file, space)
    facts = [
        space_fact(fitting if space is None else [space], "not stated"),
        *_column_facts(columns, table),
        *([] if table is None else _table_facts(table)),
        *([] if table is None else _meta_facts(table.meta)),
        size_fact(file, meta_path(file)),
    ]
    several = len(columns) > 1
    option = [] if space is not None and table is not None and table.meta else [project_option(space)]
    column = [f"--target-column {columns[0].name}"] if several else []
    model = Path(file.name.removesuffix(".gz")).with_suffix(".model")
    model = Path("NEW.model") if file.with_name(model.name).exists() else model
    steps = [
        Step(
            "fit a predictor" + (f" of {columns[0].series}" if several else ""),
            command("predictor fit", "--data", file, *column, *option, "-o", model),
        ),
        *(
            [
                Step(
                    "fit one over all its devices",
                    command("predictor fit", "--data", file, *option, "-o ALL.model"),
                )
            ]
            if several
            else []
        ),
        Step(
            "see how well a predictor does on it",
            command("predictor eval", "--data", file, *column, *option, "--model OTHER.model"),
        ),
    ]
    notes = [] if space is not None else ["the table does not say its space: name it with --space"]
    if table is not None and (busy := sum(bool(entry.get("noisy")) for entry in table.meta)):
        notes.append(f"{counted(busy, 'row was', 'rows were')} measured on a busy machine")
    if table is not None and any(column.target == PROBED for column in columns):
        notes += other_machine({str(entry["machine"]) for entry in table.meta if "machine" in entry})
    return Description(
        path=file,
        kind="latency table",
        summary="a table of measured latencies",
        facts=tuple(facts),
        notes=tuple(notes),
        steps=tuple(steps),
    )


def _column_facts(columns: Sequence[Column], table: LatencyTable | None) -> list[Fact]:
    plain = [
        {"name": c.name, "target": c.target, "unit": c.unit, "dtype": c.dtype, "batch": c.batch}
        for c in columns
    ]
    texts = []
    for index, column in enumerate(columns):
        text = f"{column.target} in {column.unit}, {column.dtype}, {counted(column.batch, 'image')} a call"
        if table is not None and len(columns) <= 3:
            text += f": {range_text([float(v) for v in table.values[:, index]], column.unit)}"
        texts.append(text if len(columns) <= 3 else column.name)
    return [Fact("columns", listed(texts) if len(columns) > 3 else "; ".join(texts), plain)]


def _table_facts(table: LatencyTable) -> list[Fact]:
    resolutions = sorted({arch.r for arch in table.archs if isinstance(arch, Arch)})
    facts = [
        Fact("rows", f"{len(table):,} subnets", len(table)),
        Fact("classes", f"{table.n_classes:,}", table.n_classes),
    ]
    if resolutions:
        facts.append(Fact("resolutions", listed(resolutions), resolutions))
    return facts


def _meta_facts(meta: Sequence[dict[str, Any]]) -> list[Fact]:
    """What the lines beside a table say of how it was measured."""
    if not meta:
        return [Fact("made", "nothing is noted beside it", None)]
    machines = Counter(str(entry["machine"]) for entry in meta if "machine" in entry)
    threads = sorted({int(entry["threads"]) for entry in meta if isinstance(entry.get("threads"), int)})
    dates = sorted(str(entry["date"]) for entry in meta if "date" in entry)
    last: dict[str, str] = next(
        (entry["versions"] for entry in reversed(meta) if isinstance(entry.get("versions"), dict)), {}
    )
    facts = []
    if machines:
        facts.append(Fact("measured on", listed(machines), dict(machines)))
    if threads:
        facts.append(Fact("threads", listed(threads), threads))
    if dates:
        first, final = date_text(dates[0]), date_text(dates[-1])
        text = first if first == final else f"{first} to {final}"
        text += f", {versions_text(last)}" if last else ""
        facts.append(Fact("made", text, {"first": dates[0], "last": dates[-1], "versions": last}))
    return facts


def _accuracies(file: Path, header: Sequence[str], columns: Sequence[str]) -> Description:
    fitting = _spaces_of(file)
    space = fitting[0] if len(fitting) == 1 else None
    facts = [
        space_fact(fitting, "not stated"),
        Fact("columns", listed(header[1:]), list(header[1:])),
    ]
    if space is not None and len(columns) == 1:
        table = read_accuracies(file, get_space(space))
        values = [float(value) for value in table.accuracies]
        text = f"{len(values):,} subnets in {table.rows:,} rows: {shares(values)}"
        facts.append(Fact("rows", text, table.rows))
    option = project_option(space)
    column = [] if len(columns) == 1 else [f"--column {columns[0]}"]
    return Description(
        path=file,
        kind="accuracy table",
        summary="a table of measured accuracies",
        facts=(*facts, size_fact(file)),
        steps=(
            Step(
                "fit an accuracy predictor",
                command("predictor fit-accuracy", "--data", file, *column, option, "-o accuracy.model"),
            ),
            Step(
                "see how well a predictor does on it",
                command("predictor eval-accuracy", "--data", file, *column, option, "--model OTHER.model"),
            ),
        ),
    )


def _spaces_of(file: Path) -> list[str]:
    """The spaces that a table's first subnets are in."""
    first = "\n".join(text_of(read_bytes(file), file).splitlines()[: 1 + _LOOKED_AT])
    lines = rows_of(first, file)[1:]
    return fitting_spaces([cells[0] for _, cells in lines])


def fitting_spaces(texts: Sequence[str]) -> list[str]:
    """Names of the spaces in which all of some architectures (JSON) are."""
    found = []
    for name in list_spaces():
        space = get_space(name)
        try:
            for text in texts:
                space.parse(text)
        except UserError:
            continue
        found.append(name)
    return found if texts else []


def describe_evaluations(file: Path, lines: Sequence[dict[str, Any]]) -> Description:
    """`accuracy.jsonl`: evaluations that `evaluate` and `search` have finished."""
    keys = Counter(str(line.get("key")) for line in lines)
    values = [float(line["accuracy"]) for line in lines if isinstance(line.get("accuracy"), int | float)]
    spaces = fitting_spaces([json.dumps(line["arch"]) for line in lines[:_LOOKED_AT] if "arch" in line])
    facts = (
        space_fact(spaces),
        Fact(
            "rows",
            f"{counted(len(lines), 'evaluated subnet')} under "
            f"{counted(len(keys), 'combination')} of weights, images and settings",
            {"rows": len(lines), "keys": len(keys)},
        ),
        Fact(
            "accuracies",
            shares(values) if values else "none",
            [min(values), max(values)] if values else None,
        ),
        size_fact(file),
    )
    in_project = (file.parent / NAME).is_file() and file.name == Store(file.parent).accuracy_cache.name
    fit = (
        command("evaluate --fit NEW.model", inside=file.parent)
        if in_project
        else command("evaluate", "--cache", file, "--checkpoint SUPERNET.pt --data IMAGES --fit NEW.model")
    )
    return Description(
        path=file,
        kind="evaluations",
        summary="finished evaluations of subnets, which `evaluate` does not repeat",
        facts=facts,
        steps=(Step("fit a predictor to them; only what is missing is evaluated", fit),),
    )


def describe_archs(file: Path, lines: Sequence[str]) -> Description:
    """Architectures, one JSON a line.

    Raises
    ------
    UserError
        If the first ones are in no space.
    """
    spaces = fitting_spaces(lines[:_LOOKED_AT])
    if not spaces:
        try:
            get_space(list_spaces()[0]).parse(lines[0])
        except UserError as error:
            raise UserError(f"{file} holds architectures of no space that ofa-tvm knows: {error}") from None
    shown = space_fact(spaces)
    option = project_option(spaces[0] if spaces else None)
    if len(lines) > 1:
        return Description(
            path=file,
            kind="architectures",
            summary="a list of architectures",
            facts=(shown, Fact("subnets", f"{len(lines):,}", len(lines)), size_fact(file)),
            steps=(
                Step(
                    "measure their latencies",
                    command("collect", "--archs", file, "-n", len(lines), option, "-o latency.csv"),
                ),
                Step(
                    "predict their latencies",
                    command("predictor predict", "--archs", file, "--model LATENCY.model"),
                ),
            ),
        )
    space = get_space(spaces[0])
    macs = space.macs(space.parse(lines[0]), space.usual_classes)
    facts = (
        shown,
        Fact("arch", json.dumps(parse_json(lines[0])), parse_json(lines[0])),
        Fact("macs", f"{macs / 1e6:.4g} million an image, in {space.name}", macs),
        size_fact(file),
    )
    weights = "--checkpoint SUPERNET.pt"
    return Description(
        path=file,
        kind="architecture",
        summary="an architecture: one subnet",
        facts=facts,
        steps=(
            Step("write it as ONNX", command("export", file, option, weights, "-o subnet.onnx")),
            Step("measure its accuracy", command("evaluate", file, option, weights, "--data IMAGES")),
        ),
    )


def describe_notes(file: Path) -> Description:
    """`NAME.meta.jsonl` is part of a table.

    Raises
    ------
    UsageError
        If the table is missing.
    """
    table = file.with_name(file.name.removesuffix(".meta.jsonl") + ".csv")
    if not table.is_file():
        raise UsageError(f"{file} holds the notes of the table {table}, which is not there")
    return describe_table(table)

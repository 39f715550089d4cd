"""A training's folder: how far it is, by the lines it leaves; torch is not needed for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ofa_tvm.errors import counted
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.workflow.info.description import (
    Description,
    Fact,
    Found,
    Step,
    command,
    shares,
    size_fact,
)
from ofa_tvm.workflow.store import Store

METRICS = "metrics.jsonl"
RESULTS = {"supernet.pt": "the trained supernet", "subnet.pt": "the trained subnet"}
_MOST_BYTES = 1 << 26
SAME_COMMAND = "the command has to be the one that began it, with the same data and settings"


def is_training(folder: Path) -> bool:
    """Whether a folder is one that `train` writes to."""
    return (folder / METRICS).is_file() or any((folder / "checkpoints").glob("state-*.pt"))


def describe_training(folder: Path) -> Description:
    """A folder with metrics, checkpoints and, at its end, the trained network."""
    lines = read_metrics(folder)
    states = sorted((folder / "checkpoints").glob("state-*.pt"))
    result = next((folder / name for name in RESULTS if (folder / name).is_file()), None)
    contents = [
        *([Found(result, RESULTS[result.name])] if result else []),
        *(
            Found(path, "the supernet as the phase left it")
            for path in sorted((folder / "phases").glob("*.pt"))
        ),
        *(Found(path, "a state to go on from") for path in states),
        *([Found(folder / METRICS, "loss and accuracies, a line an epoch")] if lines else []),
    ]
    files = [found.path for found in contents]
    facts = [
        Fact("state", "finished" if result else "unfinished", bool(result)),
        *progress_facts(lines),
        *([size_fact(*files)] if files else []),
    ]
    project = folder.parent
    go_on = "quickstart" if Store(project).stages.is_file() else "train"
    steps = [
        *([Step("look at the trained network", command("info", result))] if result else []),
        *([] if result else [Step("go on, by the command that began it", command(go_on, "-o", project))]),
        *([Step("look at the last state", command("info", states[-1]))] if states and not result else []),
    ]
    return Description(
        path=folder,
        kind="training",
        summary="a training's folder",
        facts=tuple(facts),
        notes=() if result else (SAME_COMMAND,),
        steps=tuple(steps),
        contents=tuple(contents),
    )


def describe_metrics(file: Path) -> Description:
    """`metrics.jsonl` itself."""
    return Description(
        path=file,
        kind="training metrics",
        summary="a training's losses and accuracies",
        facts=(*progress_facts(read_metrics(file.parent, file.name)), size_fact(file)),
        steps=(Step("look at its training", command("info", file.parent)),),
    )


def read_metrics(folder: Path, name: str = METRICS) -> list[dict[str, Any]]:
    """Lines of a training's metrics that can be read, oldest first; none where there is no such file."""
    try:
        with (folder / name).open("rb") as handle:
            content = handle.read(_MOST_BYTES)
    except OSError:
        return []
    lines = []
    for line in content.split(b"\n"):
        try:
            found = parse_json(line, nan=True)
        except ValueError:  # cut short
            continue
        if isinstance(found, dict) and isinstance(found.get("phase"), str):
            lines.append(found)
    return lines


def progress_facts(lines: list[dict[str, Any]]) -> list[Fact]:
    """How far a training is, its last loss, and the accuracies behind its last phase."""
    facts = []
    epochs = [line for line in lines if isinstance(line.get("epoch"), int) and "loss" in line]
    if epochs:
        phases = list(dict.fromkeys(line["phase"] for line in lines))
        last = epochs[-1]
        text = f"{counted(len(epochs), 'epoch')} in {', '.join(phases)}; last loss {float(last['loss']):.4g}"
        value = {"epochs": len(epochs), "phases": phases, "last_loss": last["loss"]}
        facts.append(Fact("trained", text, value))
    ends = [line for line in lines if isinstance(line.get("accuracies"), dict)]
    if ends:
        values = {str(name): value for name, value in ends[-1]["accuracies"].items()}
        numbers = [float(value) for value in values.values() if isinstance(value, int | float)]
        if numbers:
            text = f"{shares(numbers)} behind phase {ends[-1]['phase']}"
            facts.append(Fact("validated", text, values))
    return facts

"""Folders: what each is of, and what lies in it."""

from __future__ import annotations

from pathlib import Path

from ofa_tvm.deploy.artefact import MANIFEST
from ofa_tvm.errors import UserError, counted
from ofa_tvm.images import SUFFIXES
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.workflow.info.compiled import describe_artefact
from ofa_tvm.workflow.info.description import (
    Description,
    Fact,
    Found,
    Step,
    command,
    listed,
    near,
    quoted,
    refusal,
    size_fact,
)
from ofa_tvm.workflow.info.others import data_set, picture_facts
from ofa_tvm.workflow.info.trainings import describe_training, is_training, progress_facts, read_metrics
from ofa_tvm.workflow.info.tuning import describe_log_folder, describe_log_root, log_coverage, log_files
from ofa_tvm.workflow.project import NAME, Project, read_project
from ofa_tvm.workflow.store import Store

_REPORT = "report.html"
_METASCHEDULE = "database_tuning_record.json"
_MOST_LISTED = 40
_NO_IMAGES = f"{NAME} names no images (`data`), which evaluating and shipping need"
_MOST_COUNTED = 20_000
_BY_SUFFIX = {
    ".pt": "a checkpoint",
    ".pth": "a checkpoint, or a published predictor",
    ".so": "a compiled module",
    ".onnx": "an ONNX model",
    ".model": "a predictor",
    ".npz": "an archive of NumPy arrays",
    ".npy": "an array",
    ".tar": "a tar archive",
}
_BY_NAME = {
    "accuracy.jsonl": "finished evaluations of subnets",
    "stages.json": "how long each stage of the quickstart took",
    "quickstart.json": "what the quickstart found, for scripts",
    NAME: "the project's settings",
}


def describe_folder(folder: Path) -> Description:
    """What a folder is.

    Raises
    ------
    UserError
        If nothing in it is known, or what is known is damaged.
    """
    if (folder / MANIFEST).is_file():
        return describe_artefact(folder)
    if (folder / NAME).is_file():
        return _project(folder)
    if (folder / "net.config").is_file():
        from ofa_tvm.workflow.info.texts import describe_net_config

        return describe_net_config(folder)
    if log_files(folder):
        return describe_log_folder(folder)
    inside = _folders(folder)
    with_logs = [each for each in inside if log_files(each)]
    if with_logs and len(with_logs) == len(inside):
        return describe_log_root(folder, with_logs)
    if Store(folder).stages.is_file():
        return _unfinished_quickstart(folder)
    if is_training(folder):
        return describe_training(folder)
    if folder.name == "checkpoints" and is_training(folder.parent):
        return describe_training(folder.parent)
    if any(folder.glob("*lookup_table.*")):
        from ofa_tvm.workflow.info.predictors import describe_lookup

        return describe_lookup(folder)
    if (folder / _METASCHEDULE).is_file():
        raise refusal(
            folder,
            "is a database of TVM's MetaSchedule",
            "ofa-tvm keeps tuning logs of its own (tuning.jsonl) and cannot take its records",
        )
    if (folder / _REPORT).is_file():
        return _report(folder)
    return _pictures(folder) or _folder_of_things(folder)


def glance(path: Path) -> str | None:
    """What lies in a folder, without reading much of it; None for what is of no interest."""
    if path.name.startswith("."):
        return None
    if path.is_dir():
        return _glance_at_folder(path)
    if path.name in _BY_NAME:
        return _BY_NAME[path.name]
    if path.name.endswith(".meta.jsonl"):
        return None
    if path.suffix == ".csv" or path.name.endswith(".csv.gz"):
        return _glance_at_table(path)
    if path.name.startswith("budget-") and path.suffix == ".json":
        return "a latency budget"
    if path.name.startswith("comparison-") and path.suffix == ".json":
        return "the artefact beside other subnets and runtimes"
    return _BY_SUFFIX.get(path.suffix)


def _glance_at_folder(path: Path) -> str | None:
    if (path / MANIFEST).is_file():
        return "an artefact"
    if (path / NAME).is_file():
        return "a project"
    if is_training(path):
        return "a training"
    if log_files(path):
        return "the tuning log of a target"
    if any(log_files(each) for each in _folders(path)):
        return "tuning logs"
    if (path / _REPORT).is_file():
        return f"a report ({path.name}/{_REPORT})"
    if pictures := _count_pictures(path):
        return counted(pictures, "picture")
    known = (glance(each) for each in sorted(path.iterdir())[:_MOST_LISTED] if each.is_file())
    return listed(dict.fromkeys(what for what in known if what), 3) or None


def _glance_at_table(path: Path) -> str | None:
    from ofa_tvm.latency.dataset import columns_of

    try:
        return f"measured latencies: {listed(column.name for column in columns_of(path))}"
    except UserError:
        return "a table"


def _contents(folder: Path) -> tuple[Found, ...]:
    try:
        paths = sorted(folder.iterdir(), key=lambda path: (path.is_file(), path.name))
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}") from error
    found = []
    for path in paths:
        if (what := glance(path)) is not None:
            found.append(Found(path, what))
        if path.is_dir() and not path.name.startswith("."):
            # A search for several targets leaves such folders.
            found += [Found(each.parent, "an artefact") for each in sorted(path.glob(f"*/{MANIFEST}"))]
    return tuple(found)


def _project(folder: Path) -> Description:
    project = read_project(folder / NAME)
    contents = tuple(found for found in _contents(folder) if found.path.name != NAME)
    weights = project.weights("float32")
    missing = [
        f"its {what} {path} is not there"
        for what, path in (
            ("checkpoint", weights),
            ("int8 checkpoint", None if project.int8_checkpoint is None else project.weights("int8")),
            ("accuracy predictor", _own(project, project.accuracy_predictor)),
        )
        if path is not None and not path.is_file()
    ]
    facts = [
        Fact("space", project.space),
        Fact("data", project.data or "not set"),
        Fact("checkpoint", _shown(project.checkpoint), None if weights is None else str(weights)),
        *([Fact("int8 checkpoint", _shown(project.int8_checkpoint))] if project.int8_checkpoint else []),
        Fact(
            "resolutions",
            listed(project.resolutions or ()) or "the space's usual ones",
            list(project.resolutions or ()),
        ),
        Fact("accuracy predictor", _shown(project.accuracy_predictor or _default_predictor(project))),
        *log_coverage(project),
        *_latency_facts(folder),
        *_quickstart_facts(folder),
    ]
    return Description(
        path=folder,
        kind="project",
        summary="a project: verbs that run in it know its space, checkpoint and data",
        facts=tuple(facts),
        problems=tuple(missing),
        notes=() if project.data else (_NO_IMAGES,),
        steps=_project_steps(folder, project, [found for found in contents if found.what == "an artefact"]),
        contents=contents,
    )


def _project_steps(folder: Path, project: Project, artefacts: list[Found]) -> tuple[Step, ...]:
    weights = project.weights("float32")
    if weights is None or not weights.is_file():
        options = [f"--space {project.space}", *([] if project.data else ["--data IMAGES"])]
        return (Step("train its supernet", command("train", *options, inside=folder)),)
    tune = Step("tune its kernels further", command("tune", "--minutes 10", inside=folder))
    if project.data is None:
        predictor = [] if project.accuracy_predictor else ["--accuracy-predictor PREDICTOR"]
        words = ("search", f"--latency {_budget(folder)}", "--arch-only", *predictor)
        return (
            Step("find and measure an architecture", command(*words, inside=folder)),
            Step("write a subnet as ONNX", command("export", "median", "-o median.onnx", inside=folder)),
            tune,
        )
    steps = [
        Step(
            "find and ship the best subnet within a latency budget",
            command("search", f"--latency {_budget(folder)}", "-o NEW", inside=folder),
        ),
        Step("measure the accuracy of subnets", command("evaluate", "min median max", inside=folder)),
        tune,
    ]
    if Store(folder).stages.is_file() and not Store(folder).summary.is_file():
        steps.insert(0, Step("go on with the quickstart that made it", command("quickstart", "-o", folder)))
    if artefacts:
        steps.insert(0, Step("look at what it shipped", command("info", artefacts[0].path)))
        steps.append(
            Step("show what was learned, searched and shipped, as a page", command("report", inside=folder))
        )
    return tuple(steps)


def _unfinished_quickstart(folder: Path) -> Description:
    contents = tuple(found for found in _contents(folder) if found.path.name != "stages.json")
    facts = _quickstart_facts(folder)
    training = Store(folder).training
    return Description(
        path=folder,
        kind="quickstart",
        summary="a quickstart that has not come to its end",
        facts=(*facts, *(progress_facts(read_metrics(training)) if is_training(training) else [])),
        notes=("the command has to have the options that it was begun with",),
        steps=(Step("go on where it stopped", command("quickstart", "-o", folder)),),
        contents=contents,
    )


def _report(folder: Path) -> Description:
    page = folder / _REPORT
    return Description(
        path=folder,
        kind="report",
        summary="a report: what a project learned, searched and shipped",
        facts=(size_fact(page),),
        steps=(Step("open it", f"python -m webbrowser {quoted(page)}"),),
    )


def _pictures(folder: Path) -> Description | None:
    """A data set, or a folder of pictures; None where there are none."""
    total = _count_pictures(folder)
    if not total:
        return None
    classes = [each.name for each in _folders(folder)]
    facts = picture_facts(total, classes, at_least=total >= _MOST_COUNTED)
    if classes:
        return data_set(folder, "a folder of pictures", facts)
    return Description(
        path=folder,
        kind="pictures",
        summary="a folder of pictures",
        facts=tuple(facts),
        steps=(Step("classify them", command("run", near(folder) or "DEPLOY", folder)),),
    )


def _folder_of_things(folder: Path) -> Description:
    contents = _contents(folder)
    if not contents:
        names = [path.name for path in sorted(folder.iterdir())]
        raise refusal(folder, f"is a folder with {listed(names, 4)}" if names else "is an empty folder")
    return Description(
        path=folder,
        kind="folder",
        summary=f"a folder without {NAME}, so no project",
        contents=contents[:_MOST_LISTED],
        notes=(f"{len(contents) - _MOST_LISTED} more are not shown",) if len(contents) > _MOST_LISTED else (),
        steps=(Step("look at one of them", command("info", contents[0].path)),),
    )


def _count_pictures(folder: Path) -> int:
    """Pictures in a folder and up to three levels below, as far as anybody wants to wait."""
    total = seen = 0
    for pattern in ("*", "*/*", "*/*/*"):
        for path in folder.glob(pattern):
            seen += 1
            total += path.suffix.lower() in SUFFIXES
            if seen >= _MOST_COUNTED:
                return total
    return total


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}") from error


def _own(project: Project, path: Path | None) -> Path | None:
    return None if path is None else project.path(path)


def _default_predictor(project: Project) -> Path | None:
    path = Store(project.folder).accuracy_model()
    return Path(path.name) if path.is_file() else None


def _shown(path: Path | None) -> str:
    return "none" if path is None else str(path)


def _latency_facts(folder: Path) -> list[Fact]:
    names = list(Store(folder).latency_models())
    return [Fact("latency models", listed(names) or "none", names)]


def _quickstart_facts(folder: Path) -> list[Fact]:
    """How long the stages of a quickstart took, where it was one that made the folder."""
    try:
        seconds = parse_json(Store(folder).stages.read_bytes())
        spent = {str(name): float(value) for name, value in seconds.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return []
    ended = "ended" if Store(folder).summary.is_file() else "begun"
    text = f"{ended}; {listed(f'{name} {value:.0f} s' for name, value in spent.items())}"
    return [Fact("quickstart", text, spent)]


def _budget(folder: Path) -> str:
    """One that an earlier run chose, as an example to change."""
    for path in sorted(folder.glob("budget-*.json")):
        try:
            content = parse_json(path.read_bytes())
            return f"{float(content['value']):.3g}{content['unit']}"
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return "BUDGET"

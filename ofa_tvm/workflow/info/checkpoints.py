"""Torch files: supernets, subnets, states of trainings, official weights, published accuracy predictors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofa_tvm.errors import UserError, counted, shown
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.spaces import get_space
from ofa_tvm.workflow.info.compiled import subnet_facts
from ofa_tvm.workflow.info.description import (
    Description,
    Fact,
    Step,
    command,
    listed,
    quoted,
    refusal,
    shares,
    size_fact,
    space_fact,
)
from ofa_tvm.workflow.info.predictors import describe_official, is_official
from ofa_tvm.workflow.info.trainings import SAME_COMMAND, progress_facts, read_metrics
from ofa_tvm.workflow.project import NAME
from ofa_tvm.workflow.store import Store

if TYPE_CHECKING:
    from torch import Tensor

_STATE = {"identity", "phase", "step", "net"}  # of what a training goes on from
_SUBNET = "SUBNET"


def describe_checkpoint(file: Path) -> Description:
    """A torch file, read by the project's own loader: tensors and plain values, nothing that runs.

    Raises
    ------
    UserError
        If it is damaged, needs arbitrary code to load, or holds no weights.
    """
    from ofa_tvm.supernet.checkpoint import read_checkpoint, read_tensors

    content = read_tensors(file)
    if isinstance(content, Mapping) and content.keys() >= _STATE:
        return _training_state(file, content)
    del content
    state, extra = read_checkpoint(file)
    if not state:
        raise refusal(file, "is a torch file without weights")
    if is_official(state):
        return describe_official(file, state)
    if "space" in extra and "arch" in extra:
        return _subnet(file, state, extra)
    return _supernet(file, state, extra)


def _supernet(file: Path, state: Mapping[str, Tensor], extra: Mapping[str, Any]) -> Description:
    from ofa_tvm.supernet.checkpoint import classes_in
    from ofa_tvm.supernet.supernet import fitting_spaces

    own = isinstance(extra.get("space"), str) and "n_classes" in extra
    classes = classes_in(state)
    spaces = (str(extra["space"]),) if own else () if classes is None else fitting_spaces(state, classes)
    if not spaces:
        return _other_weights(file, state, extra, classes)
    dtype = str(extra.get("dtype") or ("int8" if any(name.endswith(".low") for name in state) else "float32"))
    problems = _unknown_space(spaces[0]) if own else []
    facts = [
        space_fact(spaces),
        Fact("classes", f"{classes:,}" if classes is not None else "unknown", classes),
        Fact("dtype", dtype if dtype == "float32" else f"{dtype} (trained with integers of 8 bits)", dtype),
        _weights(state),
        *_space_facts(spaces[0]),
        *progress_facts(read_metrics(file.parent)),
        _made(file, own),
        size_fact(file),
    ]
    return Description(
        path=file,
        kind="supernet",
        summary="a trained supernet" if own else "a supernet's weights, not written by ofa-tvm",
        facts=tuple(facts),
        problems=tuple(problems),
        notes=() if own else ("the space follows from the names and shapes of its tensors",),
        steps=() if problems else _supernet_steps(file, spaces[0], dtype),
    )


def _supernet_steps(file: Path, space: str, dtype: str) -> tuple[Step, ...]:
    project = _project_of(file)
    known = [] if project else ["--checkpoint", _absolute(file, project), f"--space {space}"]
    data = [] if project else ["--data IMAGES"]
    images = [] if dtype == "float32" else ["--dtype int8"]
    steps = [
        Step(
            "measure the accuracy of subnets",
            command("evaluate", "min median max", *known, *data, *images, inside=project),
        ),
        Step(
            "write a subnet as ONNX",
            command("export", "median", *known, *data, *images, "-o median.onnx", inside=project),
        ),
        Step(
            "train it on your own images",
            command("train", "--init", file, f"--space {space}", "--data IMAGES -o PROJECT"),
        ),
    ]
    if project is not None:
        search = command("search", "--latency BUDGET", *images, "-o NEW", inside=project)
        steps.insert(0, Step("find and ship the best subnet within a latency budget, such as 2ms", search))
    return tuple(steps)


def _subnet(file: Path, state: Mapping[str, Tensor], extra: Mapping[str, Any]) -> Description:
    from ofa_tvm.supernet.checkpoint import classes_in

    space = str(extra["space"])
    try:
        arch = parse_json(str(extra["arch"]))
    except ValueError as error:
        raise UserError(f"{file} names an architecture that is no JSON: {error}; copy it anew") from None
    problems = _unknown_space(space)
    facts = [
        *subnet_facts(space, arch),
        Fact("classes", str(extra.get("n_classes") or classes_in(state)), extra.get("n_classes")),
        Fact("dtype", str(extra.get("dtype") or "float32")),
        _weights(state),
        *progress_facts(read_metrics(file.parent)),
        _made(file, True),
        size_fact(file),
    ]
    project = _project_of(file)
    data = [] if project else ["--data IMAGES"]
    steps = [
        Step(
            "write it as ONNX, with class names and preprocessing",
            command("export", _absolute(file, project), *data, "-o subnet.onnx", inside=project),
        ),
        Step("then compile it for this machine", command("compile", "subnet.onnx", inside=project)),
    ]
    return Description(
        path=file,
        kind="subnet",
        summary="a single subnet with weights of its own, as `train --finetune` leaves it",
        facts=tuple(facts),
        problems=tuple(problems),
        steps=() if problems else tuple(steps),
    )


def _training_state(file: Path, content: Mapping[str, Any]) -> Description:
    try:
        identity = parse_json(str(content["identity"]))
        config, phase, step = identity["config"], int(content["phase"]), int(content["step"])
        phases = [dict(item) for item in config["phases"]]
        space = str(config["space"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is no state of a training that can be read: {error}") from None
    folder = file.parent.parent
    labels = identity.get("labels") or []
    done = phase >= len(phases)
    finished = [
        f"{name} ({shares(list(accuracies.values()))})" for name, accuracies in content.get("results", ())
    ]
    facts = [
        *subnet_facts(space, identity.get("arch")),
        Fact("classes", f"{len(labels):,}: {listed(labels)}", len(labels)),
        Fact(
            "phase",
            "all phases are finished" if done else f"{phases[phase]['name']} ({phase + 1} of {len(phases)})",
            {"index": phase, "name": None if done else phases[phase]["name"], "of": len(phases)},
        ),
        *([] if done else [_epoch(folder, phases[phase], step)]),
        *([Fact("finished", listed(finished), dict(content["results"]))] if finished else []),
        Fact(
            "settings",
            f"batches of {config.get('batch_size')}, "
            f"resolutions {listed(config.get('resolutions') or ['all'])}; {listed(map(_phase_text, phases))}",
            config,
        ),
        Fact("seed", str(identity.get("seed")), identity.get("seed")),
        size_fact(file),
    ]
    subnet = "arch" in identity
    return Description(
        path=file,
        kind="training state",
        summary="where an unfinished training goes on"
        if not done
        else "the last state of a finished training",
        facts=tuple(facts),
        problems=tuple(_unknown_space(space)),
        notes=() if done else (SAME_COMMAND,),
        steps=_training_steps(folder, space, subnet, done),
    )


def _phase_text(phase: Mapping[str, Any]) -> str:
    return f"{phase['name']} {counted(int(phase.get('epochs', 0)), 'epoch')}"


def _training_steps(folder: Path, space: str, subnet: bool, done: bool) -> tuple[Step, ...]:
    result = folder / ("subnet.pt" if subnet else "supernet.pt")
    if done and result.is_file():
        return (Step("look at what it trained", command("info", result)),)
    project = folder.parent
    if Store(project).stages.is_file():
        return (Step("go on", command("quickstart", "-o", project)),)
    if subnet:
        return (Step("go on", command("train", "--finetune", _SUBNET, "-o", project)),)
    return (Step("go on", command("train", f"--space {space} --data IMAGES", "-o", project)),)


def _epoch(folder: Path, phase: Mapping[str, Any], step: int) -> Fact:
    """How far a phase is; steps become epochs where the training's own notes say how many make one."""
    epochs = int(phase.get("epochs", 0)) + int(phase.get("warmup_epochs", 0))
    per_epoch = next(
        (line["step"] // line["epoch"] for line in read_metrics(folder) if line.get("epoch")), None
    )
    if per_epoch:
        text = f"{step / per_epoch:.3g} of {epochs} (step {step:,} of {epochs * per_epoch:,})"
        return Fact("epoch", text, {"epoch": step / per_epoch, "of": epochs, "step": step})
    return Fact(
        "epoch", f"step {step:,} of a phase of {counted(epochs, 'epoch')}", {"step": step, "of": epochs}
    )


def _other_weights(
    file: Path, state: Mapping[str, Tensor], extra: Mapping[str, Any], classes: int | None
) -> Description:
    names = list(state)
    facts = [
        *([] if classes is None else [Fact("classes", f"{classes:,}", classes)]),
        _weights(state),
        Fact("tensors", f"{len(names):,}: {listed(names, 3)}", len(names)),
        *([Fact("beside them", listed(shown(key, 30) for key in extra))] if extra else []),
        size_fact(file),
    ]
    return Description(
        path=file,
        kind="weights",
        summary="weights of a network, of no space that ofa-tvm knows",
        facts=tuple(facts),
        problems=(
            "names and shapes of its tensors are those of no supernet here; a published specialised network "
            "belongs to its net.config: ofa-tvm export NET_CONFIG_FOLDER --checkpoint "
            f"{quoted(file)}",
        ),
    )


def _weights(state: Mapping[str, Tensor]) -> Fact:
    total = sum(tensor.numel() for name, tensor in state.items() if not name.endswith("num_batches_tracked"))
    return Fact("weights", f"{total:,}", total)


def _space_facts(name: str) -> list[Fact]:
    try:
        space = get_space(name)
    except UserError:
        return []
    text = f"{space.resolutions[0]} to {space.resolutions[-1]} pixels; {space.size:.2g} subnets"
    return [Fact("resolutions", text, list(space.resolutions))]


def _unknown_space(name: str) -> list[str]:
    try:
        get_space(name)
    except UserError as error:
        return [f"{error}; a plugin may have registered it"]
    return []


def _made(file: Path, own: bool) -> Fact:
    sealed = own and b"ofa-tvm sha256 " in file.read_bytes()[-100:]
    text = "by ofa-tvm, its checksum is right" if sealed else "without ofa-tvm's checksum"
    return Fact("made", text, {"sealed": sealed})


def _project_of(file: Path) -> Path | None:
    """The folder of the project that has this checkpoint as its own, where commands need no options."""
    for folder in file.resolve().parents[:3]:
        if (folder / NAME).is_file():
            from ofa_tvm.workflow.project import read_project

            try:
                project = read_project(folder / NAME)
            except UserError:
                return None
            own = [project.weights("float32"), project.weights("int8")]
            inside = [path.resolve() for path in own if path is not None]
            return _as_typed(file, folder) if file.resolve() in inside else None
    return None


def _as_typed(file: Path, folder: Path) -> Path:
    """A folder above a file, in the words in which the file was given where those reach it."""
    for parent in file.parents:
        if parent.resolve() == folder:
            return parent
    return folder


def _absolute(file: Path, inside: Path | None) -> Path:
    """A path that stays right in another folder."""
    return file if inside is None else file.resolve()

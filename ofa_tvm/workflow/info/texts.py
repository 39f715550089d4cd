"""YAML and JSON files: target descriptors, settings of a training or a project, results of verbs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ofa_tvm.errors import UserError, counted
from ofa_tvm.files import read_text
from ofa_tvm.schema import first_problem, key_path
from ofa_tvm.targets import Target, detect_machine, load_target
from ofa_tvm.targets.devices import load_device
from ofa_tvm.targets.readiness import device_for
from ofa_tvm.workflow.compared import Comparison
from ofa_tvm.workflow.info.description import (
    Description,
    Fact,
    Step,
    command,
    listed,
    quoted,
    refusal,
    size_fact,
)
from ofa_tvm.workflow.info.predictors import describe_lookup
from ofa_tvm.workflow.info.tables import describe_archs
from ofa_tvm.workflow.project import PROJECT_SCHEMA
from ofa_tvm.yamlfile import parse_yaml

_MOST_BYTES = 1 << 24
_YAML_ACCEPTED = (
    "of YAML files info knows target descriptors, device files, a training's settings, ofa-tvm.yaml, "
    "manifests and lookup tables"
)
_JSON_ACCEPTED = (
    "of JSON files info knows architectures, net.config, lookup tables, and what quickstart and search write"
)


def describe_yaml(file: Path) -> Description | None:
    """A YAML file that stands for itself; None for a manifest or a project's, which belong to a folder.

    Raises
    ------
    UserError
        If it is none of those that are known, or breaks its schema (with line and key).
    """
    try:
        content = parse_yaml(read_text(file, _MOST_BYTES))
    except ValueError as error:
        raise UserError(f"{file} is not valid YAML: {error}; {_YAML_ACCEPTED}") from None
    if not isinstance(content, dict):
        raise refusal(file, "is a YAML file without keys", _YAML_ACCEPTED)
    if "sha256" in content and "target" in content:
        return None
    if "tvm" in content and "kind" in content:
        return _target(file)
    if "hardware" in content and "kind" in content:
        return _device(file)
    if _is_lookup(content):
        return describe_lookup(file)
    of_both = {"space", "resolutions", "calibration_images"}  # these a training's settings have as well
    if content.keys() <= PROJECT_SCHEMA["properties"].keys() and content.keys() - of_both:
        return _project_settings(file, content)
    if "phases" in content or content.keys() & {"batch_size", "learning_rate", "momentum", "weight_decay"}:
        return _training_settings(file, content)
    raise refusal(file, f"is a YAML file with the keys {listed(content)}", _YAML_ACCEPTED)


def describe_json(file: Path, content: Any) -> Description:
    """A JSON document.

    Raises
    ------
    UserError
        If it is none of those that are known.
    """
    if not isinstance(content, dict):
        raise refusal(file, "is a JSON file without keys", _JSON_ACCEPTED)
    if {"d", "r"} <= content.keys() and content.keys() & {"ks", "w", "e"}:
        return describe_archs(file, [json.dumps(content)])
    if "classifier" in content and "blocks" in content:
        return describe_net_config(file)
    if _is_lookup(content):
        return describe_lookup(file)
    if {"subnets", "shipped", "budget"} <= content.keys():
        return _quickstart(file, content)
    if {"subnets", "unit", "threads"} <= content.keys():
        return _comparison(file)
    if {"front", "objectives"} <= content.keys():
        return _front(file, content)
    if content.keys() == {"value", "unit"}:
        budget = f"{content['value']:g} {content['unit']}"
        step = Step(
            "search with it",
            command("search", f"--latency {budget.replace(' ', '')}", "-o NEW", inside=file.parent),
        )
        facts = (Fact("budget", budget, content),)
        return Description(file, "budget", "a latency budget that the quickstart chose", facts, steps=(step,))
    raise refusal(file, f"is a JSON file with the keys {listed(content)}", _JSON_ACCEPTED)


def describe_net_config(path: Path) -> Description:
    """`net.config` of a specialised network that was published with Once-for-All, or its folder.

    Raises
    ------
    UserError
        If it describes layers that this project does not have.
    """
    from ofa_tvm.export.net_config import load_net_config, published_resolution

    network, resolution = load_net_config(path), published_resolution(path)
    spec = network.spec
    facts = [
        Fact("space", network.space_name or "of none that ofa-tvm knows", network.space_name or None),
        *(
            [Fact("arch", json.dumps(network.arch.to_dict()), network.arch.to_dict())]
            if network.arch is not None
            else [Fact("blocks", str(len(spec.blocks)), len(spec.blocks))]
        ),
        Fact("resolution", f"{resolution} pixels" if resolution else "not stated", resolution),
        Fact("classes", f"{spec.n_classes:,}", spec.n_classes),
        Fact("weights", f"{sum(p.numel() for p in network.parameters()):,}"),
    ]
    side = "" if resolution else " --resolution 224"
    return Description(
        path=path,
        kind="net.config",
        summary="a specialised network as published with Once-for-All, without its weights",
        facts=tuple(facts),
        steps=(
            Step(
                "write it as ONNX; without --checkpoint its weights are random",
                command("export", path, f"-o model.onnx{side}"),
            ),
            Step("then time it on this machine", command("measure", "model.onnx")),
        ),
    )


def _is_lookup(content: Mapping[Any, Any]) -> bool:
    return any(isinstance(key, str) and key.startswith("Conv-input:") for key in content)


def _target(file: Path) -> Description:
    target = load_target(file)
    machine = detect_machine()
    check = device_for(target, machine)
    hardware = target.hardware
    known = {
        "device": hardware.device,
        "cores": hardware.cores,
        "clock_ghz": hardware.clock_ghz,
        "peak_gflops": hardware.peak_gflops,
        "ram_gib": hardware.ram_gib,
    }
    facts = [
        Fact("name", target.name),
        Fact("what it is", target.summary),
        Fact("kind", target.kind),
        Fact("code for", str(target.tvm.get("arch") or target.mcpu or target.tvm["kind"]), dict(target.tvm)),
        Fact("threads", str(target.threads), target.threads),
        Fact("dtype", target.dtype),
        Fact("runs", _place(target)),
        Fact("hardware", listed(f"{k} {v}" for k, v in known.items() if v) or "not stated", known),
        Fact("compatible", listed(target.compatible) or "nothing", list(target.compatible)),
        size_fact(file),
    ]
    notes = (f"nothing can be run or measured on it here: {check.found}",) if not check.ok else ()
    return Description(
        path=file,
        kind="target",
        summary="a target descriptor: what to compile for, and where to run it",
        facts=tuple(facts),
        notes=notes,
        steps=(
            Step("compile for it", command("compile", "MODEL.onnx", "--target", file)),
            Step("show all of it, and its number formats", command("targets show", file)),
            *(
                [Step("tune a space for it", command("tune", "--target", file, "--dry-run"))]
                if check.ok
                else []
            ),
        ),
    )


def _place(target: Target) -> str:
    run = target.run
    if run.where == "rpc":
        return f"on the devices of key {run.key} at the tracker {run.tracker}"
    return (
        f"emulated by {run.emulator} as {run.emulator_cpu}"
        if run.where == "emulator"
        else "in a process, on a machine that has it"
    )


def _device(file: Path) -> Description:
    device = load_device(file)
    known = {name: value for name, value in vars(device.hardware).items() if value not in (None, "")}
    facts = (
        Fact("name", device.name),
        Fact("what it is", device.summary),
        Fact("kind", device.kind),
        Fact("hardware", listed((f"{k} {v}" for k, v in known.items()), 20), known),
        Fact("columns", listed(device.columns), list(device.columns)),
        size_fact(file),
    )
    return Description(
        path=file,
        kind="device",
        summary="a device file: hardware that latencies were measured on; nothing is compiled for it",
        facts=facts,
        steps=(
            Step(
                "predict subnets on it",
                command(
                    "predictor predict --archs ARCHS --target", device.name, "--targets-dir", _folder(file)
                ),
            ),
        ),
    )


def _folder(file: Path) -> Path:
    """What `--targets-dir` takes, which has a folder `devices`."""
    return file.parent.parent if file.parent.name == "devices" else file.parent


def _training_settings(file: Path, content: Mapping[str, Any]) -> Description:
    from ofa_tvm.training.config import CONFIG_SCHEMA

    if (problem := first_problem(content, CONFIG_SCHEMA)) is not None:
        raise UserError(f"{file}, settings of a training: {key_path(problem[0])}: {problem[1]}")
    phases = content.get("phases") or []
    named = [f"{phase['name']} {counted(int(phase.get('epochs', 120)), 'epoch')}" for phase in phases]
    others = {key: value for key, value in content.items() if key not in ("phases", "space")}
    facts = (
        Fact("space", str(content.get("space", "not stated")), content.get("space")),
        Fact("phases", listed(named) or "as is usual in the space", [dict(phase) for phase in phases]),
        Fact("settings", listed((f"{key} {value}" for key, value in others.items()), 20), others),
        size_fact(file),
    )
    space = f"--space {content['space']}" if "space" in content else "--space SPACE"
    return Description(
        path=file,
        kind="training settings",
        summary="settings of a training; what they leave out is as usual in the space",
        facts=facts,
        steps=(
            Step("train with them", command("train", "--config", file, f"{space} --data IMAGES -o PROJECT")),
        ),
    )


def _project_settings(file: Path, content: Mapping[str, Any]) -> Description:
    if (problem := first_problem(content, PROJECT_SCHEMA)) is not None:
        raise UserError(f"{file}, settings of a project: {key_path(problem[0])}: {problem[1]}")
    facts = tuple(Fact(key.replace("_", " "), str(value), value) for key, value in content.items())
    return Description(
        path=file,
        kind="project settings",
        summary="settings of a project, under another name than ofa-tvm.yaml, by which verbs find them",
        facts=facts,
        steps=(Step("let verbs find them", f"cp {quoted(file)} PROJECT/ofa-tvm.yaml"),),
    )


def _quickstart(file: Path, content: Mapping[str, Any]) -> Description:
    budget, shipped, subnets = content["budget"], content["shipped"], content["subnets"]
    try:
        rows = [f"{row['name']} {100 * row['test_accuracy']:.1f} %" for row in subnets]
        facts = (
            Fact("budget", f"{budget['value']:.4g} {budget['unit']}", budget),
            Fact("dtype", str(content.get("dtype", "float32"))),
            Fact("subnets", listed(rows), subnets),
            Fact("shipped", f"{100 * shipped['test_accuracy']:.1f} % of the test scans", shipped),
            Fact("took", f"{sum(content.get('seconds', {}).values()):.0f} s", content.get("seconds")),
            size_fact(file),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is no result of the quickstart that can be read: it lacks {error}") from None
    return Description(
        path=file,
        kind="quickstart result",
        summary="what a quickstart found, for scripts",
        facts=facts,
        steps=(Step("look at its project", command("info", file.parent)),),
    )


def _comparison(file: Path) -> Description:
    found = Comparison.read(file)
    rows = [f"{row.name} {row.measured:.4g} {found.unit}" for row in found.rows]
    facts = (
        Fact("subnets", listed(rows), len(rows)),
        Fact("threads", str(found.threads), found.threads),
        Fact("batch", counted(found.batch, "image") + " a call", found.batch),
        Fact("measured", f"on {found.machine}, {found.date}", {"machine": found.machine, "date": found.date}),
        Fact("versions", listed(f"{name} {of}" for name, of in found.versions.items()), dict(found.versions)),
        size_fact(file),
    )
    return Description(
        path=file,
        kind="comparison",
        summary="an artefact beside other subnets and runtimes, as measured",
        facts=facts,
        steps=(Step("show it as a page", command("report", "-o REPORT", inside=file.parent)),),
        notes=("the machine was busy meanwhile: compare with care",) if found.noisy else (),
    )


def _front(file: Path, content: Mapping[str, Any]) -> Description:
    names = [str(item.get("name")) for item in content["objectives"] if isinstance(item, dict)]
    facts = (
        Fact("space", str(content.get("space"))),
        Fact("targets", listed(content.get("targets", ())), list(content.get("targets", ()))),
        Fact("objectives", listed(names), names),
        Fact("subnets", f"{len(content['front']):,}, as predicted", len(content["front"])),
        size_fact(file),
    )
    return Description(
        path=file,
        kind="front",
        summary="a predicted trade-off, as `search --pareto -o` writes it",
        facts=facts,
        steps=(
            Step(
                "find, measure and ship one of them",
                command("search", f"--space {content.get('space')} --latency BUDGET -o deploy"),
            ),
        ),
    )

"""Artefact folders and compiled modules."""

from __future__ import annotations

import json
import platform
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ofa_tvm.deploy.artefact import MANIFEST, MODULE, ONNX, RUNTIME, require_files
from ofa_tvm.deploy.manifest import Manifest
from ofa_tvm.errors import UserError, counted
from ofa_tvm.images import SUFFIXES
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.runtime import TensorSpec, elf_arch
from ofa_tvm.runtime.module import specs
from ofa_tvm.runtime.stored import hindrance, stored_metadata
from ofa_tvm.targets import Variant, detect_machine
from ofa_tvm.workflow.info.description import (
    Description,
    Fact,
    Step,
    command,
    date_text,
    listed,
    other_machine,
    quoted,
    share,
    size_fact,
    version_notes,
    versions_text,
)

_ARTEFACT_AGAIN = "make the artefact anew"


def describe_artefact(folder: Path) -> Description:
    """What `write_artefact` wrote.

    Raises
    ------
    UserError
        If its manifest cannot be read or breaks the schema, with line and key.
    """
    manifest = Manifest.read(folder / MANIFEST)
    target = {"name": manifest.target.name, "kind": manifest.target.kind, "tvm": manifest.target.tvm}
    what = "a compiled subnet" if manifest.arch is not None else "a compiled network"
    try:
        require_files(folder, manifest)
        damage = ""
    except UserError as error:
        damage = str(error)
    problems, notes = (
        ([damage], [])
        if damage
        else _on_this_machine(folder / MODULE, {**target, "threads": manifest.target.threads})
    )
    notes += version_notes(manifest.versions, _ARTEFACT_AGAIN)
    if manifest.latency.how is not None and manifest.latency.how.noisy:
        notes.append("its latency was measured on a busy machine")
    if manifest.latency.how is not None and manifest.latency.how.slow:
        notes.append(f"while its latency was measured, {manifest.latency.how.slow}")
    if manifest.latency.how is not None and manifest.target.kind == "x86":
        notes += other_machine([manifest.latency.how.machine])
    facts = [
        *_target_facts(manifest.variant, manifest.target.tvm),
        *subnet_facts(manifest.space, None if manifest.arch is None else manifest.arch.to_dict()),
        *tensor_facts(manifest.inputs, manifest.outputs),
        *class_facts(manifest.labels, manifest.outputs),
        *_cost_facts(manifest),
        *_kernel_facts(manifest),
        *_check_facts(manifest),
        *_made_facts(manifest.created, manifest.versions),
        size_fact(*(folder / name for name in manifest.sha256)),
    ]
    return Description(
        path=folder,
        kind="artefact",
        summary=f"an artefact: {what}, ready to be copied to where it runs",
        facts=tuple(facts),
        problems=tuple(problems),
        notes=tuple(notes),
        steps=_artefact_steps(folder, manifest, bool(damage), bool(problems)),
        damaged=bool(damage),
    )


def describe_module(file: Path) -> Description:
    """A compiled `.so`; none of its code runs.

    Raises
    ------
    UserError
        If it is damaged, or no module of this version of ofa-tvm.
    """
    metadata = stored_metadata(file)
    target: Mapping[str, Any] = metadata["target"]
    inputs, outputs = specs(metadata, "inputs", file), specs(metadata, "outputs", file)
    notes_of_onnx: Mapping[str, str] = metadata.get("onnx_metadata", {})
    problems, notes = _on_this_machine(file, target)
    notes += version_notes(metadata.get("versions", {}), "compile it again")
    batch = inputs[0].shape[0] if inputs and inputs[0].shape else 1
    variant = Variant(
        str(target.get("name", "?")),
        int(target.get("threads", 1)),
        target.get("dtype", "float32"),
        batch if "space" in notes_of_onnx else 1,
    )
    labels = json_note(notes_of_onnx, "labels") or ()
    facts = [
        *_target_facts(variant, target.get("tvm", {})),
        *subnet_facts(notes_of_onnx.get("space"), json_note(notes_of_onnx, "arch")),
        *tensor_facts(inputs, outputs),
        *class_facts(labels, outputs),
        *_source_facts(metadata),
        *_made_facts("", metadata.get("versions", {})),
        size_fact(file),
    ]
    usable, options = not problems, f"--target {variant.target}"
    preprocessing = json_note(notes_of_onnx, "preprocessing") or {}
    pictures = [Step("classify pictures", command("run", file, _pictures(file.parent)))]
    steps = [
        *(pictures if usable and "mean" in preprocessing else []),
        *([Step("see how its latency spreads", command("bench", file))] if usable else []),
        *([Step("time it once", command("measure", file, options))] if usable else []),
        Step("call it from Python", _from_python(file)),
    ]
    return Description(
        path=file,
        kind="module",
        summary="a compiled module (a shared library that TVM's runtime loads)",
        facts=tuple(facts),
        problems=tuple(problems),
        notes=tuple(notes),
        steps=tuple(steps if usable else [*_compile_again(file.with_suffix(".onnx")), *steps[-1:]]),
    )


def subnet_facts(space: str | None, arch: Any) -> list[Fact]:
    """Which subnet of which space; nothing where neither is known."""
    facts = [] if space is None else [Fact("space", space)]
    if isinstance(arch, Mapping):
        facts.append(Fact("arch", json.dumps(dict(arch)), dict(arch)))
    return facts


def tensor_facts(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> list[Fact]:
    """How a network is called."""
    return [
        Fact(
            name,
            listed(
                f"{spec.name} {spec.dtype} {'x'.join(map(str, spec.shape)) or 'scalar'}" for spec in found
            ),
            [{"name": s.name, "shape": list(s.shape), "dtype": s.dtype} for s in found],
        )
        for name, found in (("inputs", inputs), ("outputs", outputs))
        if found
    ]


def class_facts(labels: Sequence[Any], outputs: Sequence[TensorSpec]) -> list[Fact]:
    """How many classes there are, and what the first ones are called."""
    if labels:
        return [Fact("classes", f"{len(labels):,}: {listed(labels)}", len(labels))]
    if len(outputs) == 1 and len(outputs[0].shape) == 2:
        return [Fact("classes", f"{outputs[0].shape[1]:,}, without names", outputs[0].shape[1])]
    return []


def _on_this_machine(file: Path, target: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Problems and notes about running a module here."""
    machine = detect_machine()
    try:
        if reason := hindrance(file, target, machine):
            return [reason], []
    except UserError as error:
        return [str(error)], []
    notes = []
    if elf_arch(file) != platform.machine():
        notes.append("here it runs in an emulator, which computes the same and says nothing of its speed")
    if (threads := int(target.get("threads", 1))) > machine.cores:
        notes.append(f"it is compiled for {threads} threads, and this machine has {machine.cores} cores")
    return [], notes


def _target_facts(variant: Variant, tvm: Mapping[str, Any]) -> list[Fact]:
    host = tvm.get("host") or tvm
    code = str(tvm.get("arch") or (host.get("mcpu") if isinstance(host, Mapping) else "") or tvm.get("kind"))
    named = variant.target if code in ("None", variant.target) else f"{variant.target} (code for {code})"
    batch = counted(variant.batch, "image") + " a call"
    return [
        Fact("target", named, {"name": variant.target, "code": code, "tvm": dict(tvm)}),
        Fact("threads", str(variant.threads), variant.threads),
        Fact("dtype", variant.dtype),
        Fact("batch", batch, variant.batch),
    ]


def _cost_facts(manifest: Manifest) -> list[Fact]:
    cost, accuracy, facts = manifest.latency, manifest.accuracy, []
    if cost.measured is not None:
        how, text = cost.how, f"{cost.measured:.4g} {cost.unit} measured"
        if cost.budget is not None:
            text += f", budget {cost.budget:.4g} {cost.unit}"
        if how is not None and how.repeats and how.instructions is None:
            text += f"; median of {how.repeats} samples on {how.machine}, {date_text(how.date)}"
    else:
        text = "not measured" if cost.predicted is None else f"{cost.predicted:.4g} {cost.unit} predicted"
    values = {name: getattr(cost, name) for name in ("budget", "predicted", "measured", "unit")}
    facts.append(Fact("latency", text, values))
    known = {"predicted": accuracy.predicted, "measured": accuracy.measured}
    if accuracy.measured is not None:
        text = f"{share(accuracy.measured)} measured" + (f" on {accuracy.data}" if accuracy.data else "")
        facts.append(Fact("accuracy", text, known))
    elif accuracy.predicted is not None:
        facts.append(Fact("accuracy", f"{share(accuracy.predicted)} predicted", known))
    if manifest.search.candidates:
        tried, rounds = len(manifest.search.candidates), manifest.search.rounds
        text = f"{counted(tried, 'measured candidate')} in {counted(rounds, 'round')}"
        facts.append(Fact("search", text, {"candidates": tried, "rounds": rounds}))
    return facts


def _kernel_facts(manifest: Manifest) -> list[Fact]:
    if not manifest.kernels:
        return []
    origins = Counter(kernel.schedule for kernel in manifest.kernels if kernel.schedule)
    text = f"{len(manifest.kernels)} distinct: " + listed(f"{n} {name}" for name, n in origins.most_common())
    fraction = manifest.check.tuned_fraction
    if fraction is not None:
        text += f"; {share(fraction)} of their time is tuned"
    value = {"kernels": len(manifest.kernels), **origins, "tuned_fraction": fraction}
    return [Fact("kernels", text, value)]


def _check_facts(manifest: Manifest) -> list[Fact]:
    facts, check = [], manifest.check
    if check.max_rel_difference is not None:
        text = f"differs by {check.max_rel_difference:.2g} of its largest output from {check.against}"
        facts.append(Fact("check", text, {"against": check.against, "max_rel": check.max_rel_difference}))
    if manifest.quantization is not None:
        how = "trained for int8" if manifest.quantization.trained else "rounded after training"
        text = f"{how}; ranges from {manifest.quantization.calibration}"
        facts.append(Fact("quantization", text, {"trained": manifest.quantization.trained}))
    libraries = [name for name in manifest.sha256 if name.startswith(f"{RUNTIME}/")]
    if libraries:
        facts.append(
            Fact("runtime", f"TVM's {counted(len(libraries), 'library', 'libraries')} inside", libraries)
        )
    return facts


def _made_facts(created: str, versions: Mapping[str, str]) -> list[Fact]:
    when = f"{date_text(created)}, " if created else ""
    value = {"created": created or None, "versions": dict(versions)}
    return [Fact("made", f"{when}{versions_text(versions)}", value)] if created or versions else []


def _source_facts(metadata: Mapping[str, Any]) -> list[Fact]:
    source = metadata.get("source")
    return (
        [Fact("compiled from", str(source.get("name")), dict(source))] if isinstance(source, Mapping) else []
    )


def _artefact_steps(folder: Path, manifest: Manifest, damaged: bool, hindered: bool) -> tuple[Step, ...]:
    if damaged:
        return ()
    if hindered:
        copy = Step("copy it to where it runs", f"scp -r {quoted(folder)} DEVICE:")
        return copy, *_compile_again(folder / ONNX)
    steps = [
        Step("see how its latency spreads", command("bench", folder)),
        Step("show what was searched and shipped, as a page", command("report", folder, "-o REPORT")),
        Step("call it from Python", _from_python(folder)),
    ]
    if manifest.preprocessing is not None:
        steps.insert(0, Step("classify pictures", command("run", folder, _pictures(folder))))
    return tuple(steps)


def _compile_again(onnx: Path) -> list[Step]:
    if not onnx.is_file():
        return []
    return [Step("compile its network for this machine", command("compile", onnx, "-o HERE.so"))]


def _pictures(folder: Path) -> str:
    """Pictures to try a module on: those that the quickstart leaves beside it, else the user's."""
    images = folder.parent / "images"
    if images.is_dir():
        for suffix in SUFFIXES:
            if any(images.glob(f"*{suffix}")):
                return f"{quoted(images)}/*{suffix}"
    return "PICTURES"


def _from_python(path: Path) -> str:
    code = f"import ofa_tvm; print(ofa_tvm.load({str(path)!r}).inputs)"
    plain = shlex.quote(str(path)) == str(path)
    return f'python -c "{code}"' if plain else f"python -c {shlex.quote(code)}"


def json_note(notes: Mapping[str, str], key: str) -> Any:
    """A value of an ONNX file's metadata; None where it is missing or no JSON."""
    try:
        return parse_json(notes.get(key, "null"))
    except ValueError:
        return None

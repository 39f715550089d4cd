"""Finding, reading and checking descriptors."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

import yaml

from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.files import data_dir
from ofa_tvm.targets.machine import X86_LEVELS, Machine, detect_machine
from ofa_tvm.targets.target import Hardware, Link, Target

PROBED = "x86"  # the one name that has no file: it is this machine
ALIASES = {"arm": "cortex-a72", "cuda": "cuda-sm90"}  # the short names stand for the device that most have


def target_names() -> list[str]:
    """Names of the targets that ship, the probed `x86` first."""
    return [PROBED, *sorted(path.stem for path in data_dir("targets").glob("*.yaml"))]


def list_targets() -> list[Target]:
    """Every target that ships, in the order of `target_names`; `x86` only where this machine is one."""
    names = target_names() if detect_machine().arch == "x86_64" else target_names()[1:]
    return [get_target(name) for name in names]


def get_target(name_or_path: str | os.PathLike[str]) -> Target:
    """Load a target by its shipped name or from a descriptor file.

    Raises
    ------
    UsageError
        If there is no such name; the sentence lists the names.
    UserError
        If the file is missing, not YAML, or not a descriptor.
    """
    text = os.fspath(name_or_path)
    text = ALIASES.get(text, text)
    if text == PROBED:
        return probe_x86(detect_machine())
    if os.sep in text or text.endswith((".yaml", ".yml")):
        return load_target(text)
    names = target_names()
    if text not in names:
        close = difflib.get_close_matches(text, [*names, *ALIASES], n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UsageError(
            f"unknown target {text!r}{hint}; known are {', '.join(names)}, or give a descriptor file's path"
        )
    return load_target(data_dir("targets") / f"{text}.yaml")


def probe_x86(machine: Machine) -> Target:
    """Target of an x86 machine: its CPU by LLVM's name if known, else its instruction-set level.

    Raises
    ------
    UserError
        If the machine is not an x86-64.
    """
    if machine.arch != "x86_64":
        raise UserError(f"target x86 is this machine, but it is {machine.arch}; name another target")
    levels = list(X86_LEVELS)
    below = tuple(levels[levels.index(machine.level) :]) if machine.level in levels else ()
    mcpu = machine.cpu or machine.level
    needed = {"x86-64-v4": ("avx512f", "avx512vl"), "x86-64-v3": ("avx2", "fma")}.get(machine.level, ())
    known = {
        "device": machine.model,
        "cores": machine.cores,
        "clock_ghz": machine.clock_ghz,
        "simd_bits": machine.simd_bits,
        "fma_units": machine.fma_units,
        "l1d_kib": machine.l1d_kib,
        "l2_kib": machine.l2_kib,
        "l3_kib": machine.l3_kib,
        "ram_gib": machine.ram_gib,
        "peak_gflops": round(machine.peak_gflops, 1),
    }
    return Target(
        name=PROBED,
        kind="x86",
        summary=f"this machine: {machine.model or 'x86-64'}, {machine.cores} cores, compiled for {mcpu}",
        tvm={"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": mcpu},
        link=Link(("g++", "c++", "clang++", "gcc"), "apt-get install g++"),
        features=needed,
        compatible=((machine.cpu, *below) if machine.cpu else below),
        hardware=Hardware(**{key: value for key, value in known.items() if value}),  # type: ignore[arg-type]
        probed=True,
    )


def load_target(path: str | os.PathLike[str]) -> Target:
    """Read and check one descriptor file.

    Raises
    ------
    UserError
        If the file is missing, not YAML (with line and column), or breaks the schema (with line, key and what
        is allowed there).
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"no target descriptor {file}; `ofa-tvm targets list` shows those that ship"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read target descriptor {file}: {error}") from error
    try:
        content = yaml.safe_load(text)
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UserError(
            f"{file}{_place(error)}: not valid YAML ({_problem(error)}); correct the line"
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{file}: a target descriptor is a table of keys (name, kind, tvm, ...), not {content!r}"
        )
    _check(content, tree, file)
    target = Target.from_json({**content, "source": str(file)})
    _check_consistency(target, file)
    return target


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""


def _problem(error: yaml.YAMLError) -> str:
    return getattr(error, "problem", None) or str(error).splitlines()[0]


def _line(tree: yaml.Node | None, path: list[str | int]) -> int:
    """1-based line of the deepest node on `path` that exists."""
    node, line = tree, 1
    for step in path:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == step), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
            line = node.start_mark.line + 1
    return line


def _check(content: dict[str, Any], tree: yaml.Node | None, file: Path) -> None:
    import jsonschema

    from ofa_tvm.targets.schema import DESCRIPTOR_SCHEMA

    validator = jsonschema.Draft202012Validator(DESCRIPTOR_SCHEMA)
    errors = sorted(validator.iter_errors(content), key=lambda error: list(map(str, error.absolute_path)))
    if errors:
        error = errors[0]
        path, message = _explain(error)
        where = ".".join(map(str, path)) or "descriptor"
        raise UserError(f"{file}, line {_line(tree, path)}: {where}: {message}")


def _explain(error: Any) -> tuple[list[str | int], str]:
    """Path of the offending key and a plain sentence about it."""
    path = list(error.absolute_path)
    schema, value = error.schema, error.instance
    match error.validator:
        case "additionalProperties":
            allowed = sorted(schema["properties"])
            unknown = next(key for key in value if key not in allowed)
            return [*path, unknown], f"unknown key; allowed are {', '.join(allowed)}"
        case "required":
            missing = next(key for key in error.validator_value if key not in value)
            return path, f"the key {missing!r} is missing"
        case "enum":
            return path, f"{value!r} is not one of {', '.join(map(str, error.validator_value))}"
        case "type":
            kinds = {
                "object": "a table of keys",
                "array": "a list",
                "string": "text",
                "integer": "a whole number",
            }
            return path, f"{value!r} is not {kinds.get(error.validator_value, 'a ' + error.validator_value)}"
        case "minimum":
            return path, f"{value!r} is below the smallest allowed value, {error.validator_value}"
        case "exclusiveMinimum":
            return path, f"{value!r} must be more than {error.validator_value}"
        case "not":
            return path, "num-cores is not written here: it follows from measure.threads"
        case _:
            return path, error.message


def _check_consistency(target: Target, file: Path) -> None:
    backend = {"x86": "llvm", "arm": "llvm", "cuda": "cuda", "opencl": "opencl"}[target.kind]
    if target.tvm["kind"] != backend:
        raise UserError(f"{file}: kind {target.kind} needs tvm.kind {backend}, not {target.tvm['kind']}")
    if target.run.where == "emulator" and target.unit == "ms":
        raise UserError(
            f"{file}: measure.unit: an emulated device costs instructions, not milliseconds; write minstr"
        )

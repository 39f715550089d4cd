"""ONNX files."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ofa_tvm.errors import shorten
from ofa_tvm.workflow.info.compiled import class_facts, json_note, subnet_facts
from ofa_tvm.workflow.info.description import (
    Description,
    Fact,
    Step,
    command,
    listed,
    size_fact,
    versions_text,
)

_DYNAMIC = "?"
_QDQ = ("QuantizeLinear", "DequantizeLinear")


def describe_onnx(file: Path) -> Description:
    """An ONNX file; its weights are looked at, nothing is computed.

    Raises
    ------
    UserError
        If it is no valid ONNX model, or weights that lie in other files are missing.
    """
    from ofa_tvm.compiler.graph import graph_inputs, read_onnx

    model = read_onnx(file)
    notes = {entry.key: entry.value for entry in model.metadata_props}
    inputs, outputs = graph_inputs(model), list(model.graph.output)
    operators = Counter(node.op_type for node in model.graph.node)
    weights = sum(math.prod(tensor.dims) for tensor in model.graph.initializer)
    quantised = any(name in operators for name in _QDQ)
    labels = json_note(notes, "labels")
    labels = labels if isinstance(labels, list) else []
    preprocessing = json_note(notes, "preprocessing")
    facts = [
        *subnet_facts(notes.get("space"), json_note(notes, "arch")),
        *_tensors("inputs", inputs),
        *_tensors("outputs", outputs),
        *class_facts(labels, ()),
        Fact("dtype", "int8 (QDQ)" if quantised else _dtype(inputs)),
        Fact(
            "operators",
            f"{sum(operators.values())}: {listed(f'{n} {name}' for name, n in operators.most_common())}",
            dict(operators),
        ),
        Fact("weights", f"{weights:,}", weights),
        *_preprocessing(preprocessing),
        _made(model),
        size_fact(file),
    ]
    unnamed = "class names and preprocessing are not in the file: `run` needs them to take pictures"
    pictures = len(inputs) == 1 and len(_shape(inputs[0])) == 4
    return Description(
        path=file,
        kind="onnx",
        summary=f"an ONNX model{', quantised to int8' if quantised else ''}",
        facts=tuple(facts),
        notes=(unnamed,) if pictures and not (labels and isinstance(preprocessing, Mapping)) else (),
        steps=_steps(file, [value for value in inputs if None in _shape(value)], quantised, pictures),
    )


def _steps(file: Path, dynamic: list[Any], quantised: bool, pictures: bool) -> tuple[Step, ...]:
    sizes = " ".join(
        f"--shape {value.name}=" + "x".join("SIZE" if size is None else str(size) for size in _shape(value))
        for value in dynamic
    )
    words = [sizes] if sizes else []
    steps = [
        Step("compile it for this machine", command("compile", file, *words, "-o", _module(file))),
        Step("time it here, beside ONNX Runtime", command("measure", file, *words, "--onnxruntime")),
        Step("tune its kernels, and then compile it again", command("tune", file, *words, "--minutes 10")),
    ]
    if pictures and not quantised:
        steps.append(Step("quantise it to int8", command("quantize", file, "--data IMAGES")))
    return tuple(steps)


def _module(file: Path) -> Path:
    """Where to compile it to: beside it, unless there is a module already, as in an artefact."""
    beside = file.with_suffix(".so")
    return Path("NEW.so") if beside.exists() else beside


def _shape(value: Any) -> list[int | None]:
    return [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]


def _tensors(name: str, values: list[Any]) -> list[Fact]:
    plain = [{"name": v.name, "shape": _shape(v), "dtype": _dtype([v])} for v in values]
    texts = [
        f"{v['name']} {v['dtype']} {'x'.join(str(n or _DYNAMIC) for n in v['shape']) or 'scalar'}"
        for v in plain
    ]
    return [Fact(name, listed(texts), plain)] if plain else []


def _dtype(values: list[Any]) -> str:
    """Of the first tensor; "unknown" of what is none."""
    from onnx import helper

    kind = values[0].type.tensor_type.elem_type if values else 0
    try:
        return str(helper.tensor_dtype_to_np_dtype(kind))
    except (KeyError, TypeError, ValueError):
        return "unknown"


def _made(model: Any) -> Fact:
    opsets = {item.domain or "onnx": item.version for item in model.opset_import}
    producer = " ".join(filter(None, [model.producer_name, model.producer_version])) or "an unnamed program"
    text = f"{shorten(producer, 60)}; operator sets {versions_text({k: str(v) for k, v in opsets.items()})}"
    return Fact("made", text, {"producer": producer, "opsets": opsets, "ir_version": model.ir_version})


def _preprocessing(stated: Any) -> list[Fact]:
    if not isinstance(stated, Mapping) or "mean" not in stated:
        return []
    text = f"scaled to {stated.get('resolution')} pixels, mean {stated['mean']}, std {stated.get('std')}"
    return [Fact("pictures are", text, dict(stated))]

"""Small changes of files: bytes, numbers, lines, values of JSON and YAML, parts of archives and networks."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import yaml

Mutation = Callable[[Random, bytes], bytes]

_TOKENS = [
    b"nan", b"NaN", b".nan", b".inf", b"inf", b"-Infinity", b"1e999", b"-1", b"0", b"-0", b"1e-320",
    b"1e308", b"1" * 400, b"9" * 5000, b"9223372036854775808", b"4294967296", b"2147483648", b"1_0",
    b"0x1F", b"0x_", b"010", b"true", b"null", b"None", b"~", b"yes", b'""', b"[]", b"{}", b"[" * 900,
    b'{"a":' * 500, b"]", b"}", b'"', b"'", b"\0", b"\xff", b"\xc2\x85", b"\xef\xbb\xbf", b"\r", b"\n",
    b"\n\n", b"\t", b" ", b",", b":", b": ", b"- ", b"#", b"&a [*a]", b"*a", b"<<: *a", b"!!int abc",
    b"!!python/object:os.system x", b"!!binary x", b"2026-99-99", b"2026-11-28", b"../", b"/etc/passwd",
    b"..", b"\\", b"%s", b"{0}", b"\xd9\xa3", b"x" * 3000, b"\\ud800",
]  # fmt: skip
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2.5, 10**9, 2**31, 2**63, 10**40, 1e308, 1e-300, float("inf"),
    float("nan"), "", "x", "1", "x" * 3000, "\udcff", "\0", "../x", [], {}, [[]], [None], {"": 0},
    {"a": {"b": 1}}, list(range(500)),
]  # fmt: skip


def mutate_bytes(rng: Random, data: bytes) -> bytes:
    """One to four changes that know nothing of the format but its numbers and lines."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(content) + 1)
        size = min(len(content) - at, rng.choice((1, 1, 2, 4, 16, 64, 1000)))
        match rng.randrange(10):
            case 0 if at < len(content):
                content[at] ^= 1 << rng.randrange(8)
            case 1:
                content[at : at + size] = rng.randbytes(size)
            case 2:
                del content[at : at + size]
            case 3:
                content[at:at] = content[at : at + size] * rng.choice((1, 2, 30))
            case 4:
                del content[at:]
            case 5:
                content[at : at + rng.choice((0, 0, size))] = rng.choice(_TOKENS)
            case 6 | 7 if numbers := list(_NUMBER.finditer(content)):
                start, end = rng.choice(numbers).span()
                content[start:end] = rng.choice(_TOKENS)
            case 8:
                lines = content.split(b"\n")
                i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
                lines[i], lines[j] = lines[j], (lines[i] if rng.random() < 0.7 else lines[j])
                content = bytearray(b"\n".join(lines))
            case _:
                content[at : at + size] = bytes(size)
    return bytes(content)


def mutate_value(rng: Random, value: Any) -> Any:
    """Plain data with one part replaced, removed, repeated or renamed."""
    value = json.loads(json.dumps(value)) if not isinstance(value, str | int | float) else value
    root = [value]
    where: Any = root
    key: Any = 0
    while isinstance(where[key], dict | list) and where[key] and rng.random() < 0.8:
        where = where[key]
        key = rng.choice(list(where)) if isinstance(where, dict) else rng.randrange(len(where))
    match rng.randrange(5):
        case 0 if where is not root:
            del where[key]
        case 1 if isinstance(where, list) and where is not root:
            where.insert(key, where[key])
        case 2 if isinstance(where, dict):
            where[rng.choice(["", "x", "x" * 3000, "\udcff", *map(str, where)])] = where.pop(key)
        case _:
            where[key] = rng.choice(_VALUES)
    return root[0]


def mutate_json(rng: Random, data: bytes) -> bytes:
    """Of one document."""
    if rng.random() < 0.5:
        return mutate_bytes(rng, data)
    return json.dumps(mutate_value(rng, json.loads(data))).encode()


def mutate_json_lines(rng: Random, data: bytes) -> bytes:
    """Of a file with a document a line."""
    if rng.random() < 0.5:
        return mutate_bytes(rng, data)
    lines = data.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = json.dumps(mutate_value(rng, json.loads(lines[at]))).encode()
    return b"\n".join(lines) + rng.choice((b"\n", b"\n", b""))


def mutate_yaml(rng: Random, data: bytes) -> bytes:
    """Of one document."""
    if rng.random() < 0.6:
        return mutate_bytes(rng, data)
    changed = mutate_value(rng, yaml.safe_load(data))
    try:
        return yaml.safe_dump(changed, sort_keys=False).encode("utf-8", "surrogatepass")
    except yaml.YAMLError:  # what PyYAML cannot write
        return mutate_bytes(rng, data)


def mutate_archive(rng: Random, data: bytes) -> bytes:
    """Of an npz file with a JSON header: its bytes, or its contents, whole and with checksums."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, data)
    with np.load(io.BytesIO(data)) as archive:
        arrays = dict(archive)
    if rng.random() < 0.5:
        header = mutate_value(rng, json.loads(arrays["header"].tobytes()))
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    else:
        name = rng.choice([name for name in arrays if name != "header"])
        arrays[name] = mutate_array(rng, arrays[name])
        if rng.random() < 0.1:
            del arrays[name]
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def mutate_array(rng: Random, array: np.ndarray) -> np.ndarray:
    """An array with other values, another shape or another type."""
    match rng.randrange(7):
        case 0:
            return array[: rng.randrange(len(array) + 1)] if array.ndim else array
        case 1:
            return array.astype(rng.choice(["f2", "f4", "f8", "i1", "i8", "u1", "S3", "c8", "?"]))
        case 2:
            return array.reshape(-1) if rng.random() < 0.5 else array[None]
        case 3:
            return np.concatenate([array, array]) if array.ndim else array
        case _:
            changed = np.array(array, copy=True)
            if changed.size:
                values = [np.nan, np.inf, -np.inf, 1e308, -1e308, 0, -1, 1e30, 32767]
                with np.errstate(all="ignore"):
                    changed.reshape(-1)[rng.randrange(changed.size)] = np.array(rng.choice(values)).astype(
                        array.dtype
                    )
            return changed


def mutate_onnx(rng: Random, data: bytes) -> bytes:
    """Of an ONNX model: sometimes its bytes, mostly nodes, attributes, shapes, types and weights."""
    import onnx
    from onnx import numpy_helper

    if rng.random() < 0.2:
        return mutate_bytes(rng, data)
    model = onnx.load_model_from_string(data)
    graph = model.graph
    sizes = [-1, 0, 1, 2, 3, 5, 7, 8, 64, 100, 2**31, 2**40]
    kinds = [node.op_type for node in graph.node]
    names = [name for node in graph.node for name in (*node.input, *node.output)]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        node = rng.choice(graph.node)
        match rng.randrange(9):
            case 0 if node.attribute:
                attribute = rng.choice(node.attribute)
                if attribute.ints:
                    attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(sizes)
                elif attribute.type == onnx.AttributeProto.INT:
                    attribute.i = rng.choice(sizes)
                elif attribute.type == onnx.AttributeProto.FLOAT:
                    attribute.f = rng.choice([0.0, -1.0, 1e30, float("nan"), float("inf")])
                else:
                    node.attribute.remove(attribute)
            case 1 if node.input:
                node.input[rng.randrange(len(node.input))] = rng.choice([*names, "", "absent"])
            case 2 if node.input:
                del node.input[rng.randrange(len(node.input))]
            case 3:
                more = [
                    "Relu",
                    "Sqrt",
                    "Exp",
                    "Abs",
                    "Softmax",
                    "Identity",
                    "Add",
                    "Concat",
                    "Reshape",
                    "Loop",
                    "Foo",
                ]
                node.op_type = rng.choice([*kinds, *more])
            case 4:
                value = rng.choice([*graph.input, *graph.output]).type.tensor_type
                if value.shape.dim:
                    value.shape.dim[rng.randrange(len(value.shape.dim))].dim_value = rng.choice(sizes)
            case 5:
                tensor = rng.choice([*graph.input, *graph.output]).type.tensor_type
                tensor.elem_type = rng.choice([0, 1, 2, 6, 7, 9, 10, 11, 16, 99])
            case 6 if graph.initializer:
                weights = rng.choice(graph.initializer)
                array = mutate_array(rng, numpy_helper.to_array(weights))
                if array.dtype.kind in "fiub":
                    weights.CopyFrom(numpy_helper.from_array(array, weights.name))
            case 7:
                rng.choice(model.opset_import).version = rng.choice([0, 1, 7, 11, 13, 17, 22, 99, -1])
            case _:
                if len(graph.node) > 1:
                    graph.node.remove(node)
    return model.SerializeToString()


def mutate_tensors(rng: Random, data: bytes) -> bytes:
    """Of a torch file: sometimes its bytes, else its contents, written anew."""
    import torch

    if rng.random() < 0.5:
        return mutate_bytes(rng, data)
    content = torch.load(io.BytesIO(data), weights_only=True)
    table = content.get("state_dict", content)
    name = rng.choice(list(table))
    match rng.randrange(4):
        case 0:
            del table[name]
        case 1:
            table[rng.choice(["x", name + ".x", "module." + name])] = table.pop(name)
        case 2:
            table[name] = rng.choice([None, 5, "text", [1, 2], {"a": 1}])
        case _ if isinstance(table[name], torch.Tensor):
            table[name] = torch.from_numpy(mutate_number_array(rng, table[name].numpy()))
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def mutate_number_array(rng: Random, array: np.ndarray) -> np.ndarray:
    """As `mutate_array`, of a type that torch has."""
    changed = mutate_array(rng, array)
    return np.ascontiguousarray(changed if changed.dtype.kind in "fiu" else array)

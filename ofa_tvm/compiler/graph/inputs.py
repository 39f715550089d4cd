"""A model's inputs and their sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx

from ofa_tvm.errors import UsageError

Shapes = Mapping[str, Sequence[int]]
_MOST_VALUES = 1 << 28
_USUAL = {1: (1,), 2: (1, 128), 3: (1, 3, 224), 4: (1, 3, 224, 224), 5: (1, 3, 16, 112, 112)}  # by rank


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Inputs a caller has to give: those that no initializer provides."""
    given = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in given]


def input_shapes(
    model: onnx.ModelProto, shapes: Shapes | None = None, batch: int = 1
) -> dict[str, tuple[int, ...]]:
    """Static shape of every input, from the model or `shapes`; `batch` stands for a dynamic first size.

    Raises
    ------
    UsageError
        If a dimension is dynamic and `shapes` does not give it, if the two disagree, or if `shapes`
        names an input that the model does not have; if a batch is asked for and no input takes so many; or
        if an input is larger than any memory.
    """
    shapes = dict(shapes or {})
    result: dict[str, tuple[int, ...]] = {}
    for value in graph_inputs(model):
        if not value.type.HasField("tensor_type"):
            result[value.name] = ()  # `check_types` says what is wrong with it
            continue
        declared = _declared(value)
        if batch > 1 and declared and declared[0] is None:
            declared[0] = batch
        given = shapes.pop(value.name, None)
        if given is None:
            if declared is None or None in declared:
                example = _example(declared)
                typed = "x".join(map(str, example))
                raise UsageError(
                    f"input {value.name!r} has the dynamic shape {_shown(declared)}; give its size, for "
                    f"example --shape {value.name}={typed}, in Python shape={{{value.name!r}: {example}}}"
                )
            result[value.name] = tuple(d for d in declared if d is not None)
            continue
        size = tuple(int(g) for g in given)
        if min(size, default=1) < 1:
            raise UsageError(f"shape {size} does not fit input {value.name!r}: each size is 1 or more")
        if not _fits(size, declared):
            raise UsageError(f"shape {size} does not fit input {value.name!r} of shape {_shown(declared)}")
        result[value.name] = size
    if shapes:
        known = ", ".join(repr(name) for name in result)
        raise UsageError(f"the model has no input {next(iter(shapes))!r}; its inputs are {known}")
    if batch > 1 and not any(size[:1] == (batch,) for size in result.values()):
        name, size = next(iter(result.items()), ("", ()))
        raise UsageError(
            f"a batch of {batch} was asked for, but input {name!r} has the shape {size}; export the model "
            "with a dynamic first size, or for that batch"
        )
    for name, size in result.items():
        if math.prod(size) > _MOST_VALUES:
            raise UsageError(
                f"input {name!r} of shape {size} has more than {_MOST_VALUES:,} values; nothing could hold it"
            )
    return result


def fix_inputs(model: onnx.ModelProto, sizes: Shapes) -> None:
    """Write sizes into the model, whose other shapes are forgotten; initializers are no inputs any more."""
    graph = model.graph
    kept = graph_inputs(model)
    values = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
    for value in values:
        if value.name not in sizes or not value.type.HasField("tensor_type"):
            continue
        value.type.tensor_type.shape.ClearField("dim")
        value.type.tensor_type.shape.SetInParent()
        for size in sizes[value.name]:
            value.type.tensor_type.shape.dim.add().dim_value = size
    del graph.input[:]
    graph.input.extend(values)
    del graph.value_info[:]


def _declared(value: onnx.ValueInfoProto) -> list[int | None] | None:
    """Dimensions, None for dynamic ones; None if not even their number is known."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in tensor.shape.dim]


def _fits(given: tuple[int, ...], declared: list[int | None] | None) -> bool:
    if declared is None:
        return True
    return len(given) == len(declared) and all(
        d is None or d == g for d, g in zip(declared, given, strict=True)
    )


def _shown(declared: list[int | None] | None) -> str:
    if declared is None:
        return "(...)"
    sizes = ["?" if d is None else str(d) for d in declared]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def _example(declared: list[int | None] | None) -> tuple[int, ...]:
    """A shape of the right rank and with the known dimensions, such as somebody would type."""
    if declared is None:
        return _USUAL[4]
    usual = _USUAL.get(len(declared), (1,) * len(declared))
    return tuple(u if d is None else d for d, u in zip(declared, usual, strict=True))

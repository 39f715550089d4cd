"""Single ONNX nodes, many of them merged into one model, so that one compilation tests them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import ofa_tvm

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """One node with its operands.

    Parameters
    ----------
    kind
        The operator.
    operands
        In ONNX's order; None where an optional one is left out.
    constant
        Indices of the operands that the model holds as initializers.
    outputs
        How many are asked for; a name left empty ("") is an output that is not.
    """

    kind: str
    operands: Sequence[Array | None]
    constant: Sequence[int] = ()
    outputs: int | Sequence[str] = 1
    attributes: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        shapes = [None if a is None else f"{a.dtype}{list(a.shape)}" for a in self.operands]
        return f"{self.kind}({shapes}, {self.attributes})"

    def fed(self) -> list[Array]:
        """Operands that are the model's inputs."""
        return [a for i, a in enumerate(self.operands) if a is not None and i not in self.constant]


def merged(cases: Sequence[Case], opset: int) -> onnx.ModelProto:
    """One model that computes every case."""
    nodes, inputs, initializers, outputs = [], [], [], []
    for number, case in enumerate(cases):
        names = []
        for i, array in enumerate(case.operands):
            names.append("" if array is None else f"c{number}_i{i}")
            if array is None:
                continue
            if i in case.constant:
                initializers.append(numpy_helper.from_array(array, names[-1]))
            else:
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                inputs.append(helper.make_tensor_value_info(names[-1], kind, array.shape))
        given = ["y"] * case.outputs if isinstance(case.outputs, int) else case.outputs
        made = [f"c{number}_o{i}" if name else "" for i, name in enumerate(given)]
        nodes.append(helper.make_node(case.kind, names, made, name=f"case{number}", **case.attributes))
        outputs += [helper.make_empty_tensor_value_info(name) for name in made if name]
    graph = helper.make_graph(nodes, "cases", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8 if opset < 21 else 10)
    inferred = onnx.shape_inference.infer_shapes(model)
    known = {value.name: value for value in [*inferred.graph.output, *inferred.graph.value_info]}
    del model.graph.output[:]
    for value in outputs:
        found = known[value.name]
        if not found.type.tensor_type.HasField(
            "shape"
        ):  # what onnx infers nothing of is as its first operand
            first = cases[int(value.name[1:].partition("_")[0])].operands[0]
            assert first is not None
            kind = helper.np_dtype_to_tensor_dtype(first.dtype)
            found = helper.make_tensor_value_info(value.name, kind, first.shape)
        model.graph.output.append(found)
    return model


def by_onnx_runtime(case: Case, opset: int) -> list[Array]:
    model = merged([case], opset).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.x64quantprecision", "1")  # no int16 sums without VNNI
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    result: list[Array] = session.run(None, dict(zip(names, case.fed(), strict=True)))
    return result


def by_reference(case: Case, opset: int) -> list[Array]:
    model = merged([case], opset)
    names = [value.name for value in model.graph.input]
    return [
        np.asarray(v) for v in ReferenceEvaluator(model).run(None, dict(zip(names, case.fed(), strict=True)))
    ]


def assert_right(
    cases: Sequence[Case],
    folder: Path,
    opset: int = 18,
    tolerance: float = 1e-5,
    reference: Callable[[Case, int], list[Array]] = by_onnx_runtime,
    scaled: bool = True,
) -> None:
    """Compile all cases as one module and compare each with ONNX Runtime (or another `reference`).

    The tolerance is that of the largest output (at least of 1), or of each if not `scaled`.
    """
    path = folder / "cases.so"
    ofa_tvm.compile(merged(cases, opset), ofa_tvm.get_target("x86"), path)
    got = ofa_tvm.load(path)(*[array for case in cases for array in case.fed()])
    ours = iter(got if isinstance(got, tuple) else (got,))
    for case in cases:
        for theirs in reference(case, opset):
            mine = next(ours)
            assert mine.shape == theirs.shape, case
            assert mine.dtype == theirs.dtype, case
            if theirs.dtype.kind != "f":
                np.testing.assert_array_equal(mine, theirs, err_msg=str(case))
                continue
            finite = np.abs(theirs[np.isfinite(theirs)])
            scale = max(1.0, float(finite.max(initial=0))) if scaled else 0.0
            np.testing.assert_allclose(
                mine, theirs, rtol=tolerance, atol=tolerance * scale, equal_nan=True, err_msg=str(case)
            )

"""ONNX's own backend tests, merged into few networks so that they take minutes.

The cases come with the installed `onnx`: a model each, inputs, and the outputs that the standard demands.
What the compiler makes of each is written in `node_cases.tsv`, where it is less than computing the outputs
from the inputs. Run this file to write the table anew, or with parts of names to see what becomes of those.
"""

from __future__ import annotations

import re
import sys
import tempfile
import textwrap
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import numpy_helper

import ofa_tvm
from ofa_tvm.compiler.build import lower_onnx
from ofa_tvm.errors import UserError
from ofa_tvm.targets import Target

TABLE = Path(__file__).with_suffix(".tsv")
PAGE = Path(__file__).parents[2] / "docs" / "own-onnx.md"
_LIST = re.compile(r"(?<=<!-- refused -->\n).*?(?=<!-- end of refused -->)", re.DOTALL)
Status = Literal["computed", "parameters", "constants", "refused", "wrong"]
_KEPT = {"computed": None, "parameters": 1, "constants": 0}
# Operators whose first input says what there is to compute rather than being computed with.
_BY_VALUE = frozenset(
    {"ConstantOfShape", "If", "Range", "HannWindow", "HammingWindow", "BlackmanWindow", "MelWeightMatrix"}
)
_MERGED = 96  # cases a network


@dataclass(frozen=True)
class Case:
    """One test of the standard; `inputs` is None where it takes something else than tensors."""

    name: str
    model: onnx.ModelProto
    inputs: tuple[np.ndarray, ...] | None
    outputs: tuple[np.ndarray, ...]
    rtol: float
    atol: float

    def frozen(self, kept: int | None) -> Case:
        """The case with all inputs but the first few as constants, as axes, sizes and weights mostly are."""
        if self.inputs is None or kept is None:
            return self
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        graph = model.graph
        for value, array in zip(graph.input[kept:], self.inputs[kept:], strict=True):
            graph.initializer.append(numpy_helper.from_array(array, value.name))
        del graph.input[kept:]
        return replace(self, model=model, inputs=self.inputs[:kept])

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the inputs whose shape the model leaves open."""
        if self.inputs is None:
            return {}
        pairs = zip(self.model.graph.input, self.inputs, strict=True)
        dims = {value.name: value.type.tensor_type.shape.dim for value in self.model.graph.input}
        return {v.name: a.shape for v, a in pairs if any(d.dim_value < 1 for d in dims[v.name]) and a.size}


@dataclass(frozen=True)
class Answer:
    """What became of a case.

    Parameters
    ----------
    status
        "computed", also where only the first input is no constant ("parameters") or none is ("constants"),
        "refused", or "wrong", which no case may be.
    reason
        The refusal, or what is wrong.
    """

    status: Status
    reason: str = ""


def cases() -> list[Case]:
    """All cases that the installed onnx brings, in order of their names."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        collected = list(collect_testcases(None))
    found = []
    for case in collected:
        inputs, outputs = ([_array(value) for value in values] for values in case.data_sets[0])
        tensors = [a for a in [*inputs, *outputs] if isinstance(a, np.ndarray)]
        plain = len(tensors) == len(inputs) + len(outputs) and len(inputs) == len(case.model.graph.input)
        found.append(
            Case(
                case.name, case.model, tuple(inputs) if plain else None, tuple(outputs), case.rtol, case.atol
            )
        )
    return sorted([*found, *_stored()], key=lambda case: case.name)


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic | int | float) else value


def _stored() -> Iterator[Case]:
    """Cases that onnx keeps as files: what PyTorch once exported, and graphs of a few operators."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data"
    for kind in ("pytorch-converted", "pytorch-operator", "simple"):
        for path in sorted((folder / kind).iterdir()):
            model = onnx.load(path / "model.onnx")
            given = {tensor.name for tensor in model.graph.initializer}
            values = [value for value in model.graph.input if value.name not in given]
            if any(not v.type.HasField("tensor_type") for v in [*values, *model.graph.output]):
                yield Case(f"{kind}/{path.name}", model, None, (), 0, 0)
                continue
            data = path / "test_data_set_0"
            inputs, outputs = (
                tuple(_read(data / f"{what}_{i}.pb") for i in range(len(names)))
                for what, names in (("input", values), ("output", model.graph.output))
            )
            del model.graph.input[:]
            model.graph.input.extend(values)
            model.ir_version = max(model.ir_version, 4)  # earlier, initializers had to be inputs, too
            yield Case(f"{kind}/{path.name}", model, inputs, outputs, 1e-3, 1e-7)


def _read(path: Path) -> np.ndarray:
    return numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))


def merged(group: Sequence[Case]) -> onnx.ModelProto:
    """One network that computes all cases side by side; their operator sets must be the same."""
    graphs = [onnx.compose.add_prefix(case.model, f"c{i}_").graph for i, case in enumerate(group)]
    together = onnx.helper.make_graph(
        [node for graph in graphs for node in graph.node],
        "cases",
        [value for graph in graphs for value in graph.input],
        [value for graph in graphs for value in graph.output],
        [tensor for graph in graphs for tensor in graph.initializer],
        sparse_initializer=[tensor for graph in graphs for tensor in graph.sparse_initializer],
    )
    ir_version = max(case.model.ir_version for case in group)
    return onnx.helper.make_model(
        together, opset_imports=group[0].model.opset_import, ir_version=max(4, ir_version)
    )


def answers(target: Target, chosen: Sequence[Case]) -> dict[str, Answer]:
    """What becomes of each case, by name."""
    found: dict[str, Answer] = {}
    left = list(chosen)
    for status, kept in _KEPT.items():
        groups: dict[tuple[tuple[str, int], ...], list[Case]] = defaultdict(list)
        for case in left:
            if status == "constants" and case.model.graph.node[0].op_type not in _BY_VALUE:
                continue
            frozen = case.frozen(kept)
            refusal = _alone(frozen, target)
            if refusal is None:
                opsets = tuple((opset.domain, opset.version) for opset in case.model.opset_import)
                groups[opsets].append(frozen)
            else:
                found[case.name] = refusal
        for group in groups.values():
            for start in range(0, len(group), _MERGED):
                found |= _together(group[start : start + _MERGED], target, status)  # type: ignore[arg-type]
        left = [case for case in left if found[case.name].status == "refused"]
    return found


def _alone(case: Case, target: Target) -> Answer | None:
    """Why a case cannot be compiled, None if it can: lowering takes milliseconds, unlike code generation."""
    try:
        lower_onnx(case.model, target, case.shapes)
    except UserError as error:
        return Answer("refused", str(error))
    except Exception as error:
        return Answer("wrong", f"{type(error).__name__}: {error}")
    return Answer("wrong", "accepted without tensors") if case.inputs is None else None


def _together(group: Sequence[Case], target: Target, status: Status) -> dict[str, Answer]:
    """Compile, load and run cases as one network; of one that fails, find the cases that are to blame."""
    shapes = {f"c{i}_{name}": shape for i, case in enumerate(group) for name, shape in case.shapes.items()}
    try:
        with tempfile.TemporaryDirectory() as folder:
            ofa_tvm.compile(merged(group), target, Path(folder) / "cases.so", shape=shapes)
            run = ofa_tvm.load(Path(folder) / "cases.so")
        got = run(*(array for case in group for array in case.inputs or ()))
    except Exception as error:
        if len(group) > 1:
            half = len(group) // 2
            return _together(group[:half], target, status) | _together(group[half:], target, status)
        if isinstance(error, UserError):
            return {group[0].name: Answer("refused", str(error))}
        return {group[0].name: Answer("wrong", f"{type(error).__name__}: {error}")}
    left = list(got if isinstance(got, tuple) else (got,))
    found = {}
    for case in group:
        mine = [left.pop(0) for _ in case.outputs]
        problem = next(filter(None, map(_problem, [case] * len(mine), mine, case.outputs)), "")
        found[case.name] = Answer("wrong", problem) if problem else Answer(status)
    return found


def _problem(case: Case, got: np.ndarray, expected: np.ndarray) -> str:
    if (got.shape, got.dtype) != (expected.shape, expected.dtype):
        return f"{got.shape} {got.dtype} for {expected.shape} {expected.dtype}"
    # Stored results in half precision were rounded between operators: the last place is not the standard's.
    rtol = max(case.rtol, 2 * np.finfo(np.float16).eps if expected.dtype == np.float16 else 0)
    try:
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=case.atol)
    except AssertionError as error:
        return " ".join(str(error).split())
    return ""


def operator_of(case: Case, answer: Answer) -> str:
    """The operator that a refusal names, else the one that the case is about."""
    named = re.search(r"operator (\S+)", answer.reason)
    return named[1] if named and answer.status == "refused" else case.model.graph.node[0].op_type


def table(found: Mapping[str, Answer], chosen: Sequence[Case]) -> str:
    """Lines of name, status and operator: all cases but those that are computed."""
    lines = [
        f"{case.name}\t{found[case.name].status}\t{operator_of(case, found[case.name])}"
        for case in chosen
        if found[case.name].status != "computed"
    ]
    return "\n".join(lines) + "\n"


def documented(page: str, listing: str, of: Sequence[Case]) -> str:
    """The page of the documentation with its list of refused operators as the table has it."""
    refused = Counter(
        line.split("\t")[2] for line in listing.splitlines() if line.split("\t")[1] == "refused"
    )
    tried = Counter(kind for case in of for kind in {node.op_type for node in case.model.graph.node})
    wholly = [f"`{kind}`" for kind in sorted(refused) if refused[kind] >= tried[kind]]
    partly = [
        f"`{kind}` ({refused[kind]} of {tried[kind]})"
        for kind in sorted(refused)
        if refused[kind] < tried[kind]
    ]
    lists = (f"Refused in every case: {', '.join(wholly)}.", f"Refused in some: {', '.join(partly)}.")
    text = "\n\n".join(textwrap.fill(words, 118, break_on_hyphens=False) for words in lists)
    return _LIST.sub(lambda _: f"{text}\n", page)


def share(of: Sequence[Case], parts: int) -> list[Case]:
    """One of so many parts, the same each time."""
    return [case for case in of if zlib.crc32(case.name.encode()) % parts == 0]


if __name__ == "__main__":
    # Without arguments all cases, and the table anew; with some, only the cases whose names contain one.
    wanted = sys.argv[1:]
    everything = [c for c in cases() if not wanted or any(word in c.name for word in wanted)]
    result = answers(ofa_tvm.get_target("x86"), everything)
    if not wanted:
        TABLE.write_text(table(result, everything))
        PAGE.write_text(documented(PAGE.read_text(), TABLE.read_text(), everything))
    for case_name, answer in sorted(result.items()):
        if wanted or answer.status in ("refused", "wrong"):
            sys.stdout.write(f"{case_name}: {answer.status} {answer.reason[:300]}\n")

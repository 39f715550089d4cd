"""What exporters write around a network: folded, inlined, upgraded, or refused in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import reference

import ofa_tvm
from ofa_tvm.compiler import graph
from ofa_tvm.compiler.graph.inputs import input_shapes
from ofa_tvm.compiler.importer import known_operators
from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.targets import Target, get_target

F32 = np.float32
Value = tuple[str, Any]


@pytest.fixture(scope="module")
def target() -> Target:
    return get_target("x86")


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(
        kind, list(inputs), list(outputs), name=f"{kind.lower()}_{outputs[0]}", **attributes
    )


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[str],
    constants: Sequence[Value] = (),
    opset: int = 17,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """Inputs are examples, or (dtype, shape) pairs with names for what is dynamic."""
    ins = []
    for name, example in inputs:
        dtype, shape = example if isinstance(example, tuple) else (example.dtype, example.shape)
        ins.append(
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
        )
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants]
    declared = helper.make_graph(
        nodes, "g", ins, [onnx.ValueInfoProto(name=name) for name in outputs], weights
    )
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid("own", 1)] if functions else [])]
    made = helper.make_model(declared, opset_imports=imports, ir_version=8, functions=functions)
    inferred = onnx.shape_inference.infer_shapes(onnx.inliner.inline_local_functions(made))
    types = {value.name: value.type for value in (*inferred.graph.value_info, *inferred.graph.output)}
    types |= {value.name: value.type for value in ins}
    for value in made.graph.output:
        value.type.CopyFrom(types[value.name])
    return made


def check(
    made: onnx.ModelProto, target: Target, folder: Path, *arrays: np.ndarray, **shape: tuple[int, ...]
) -> list[str]:
    """Compare with ONNX Runtime; returns where the kernels' schedules come from."""
    compiled = ofa_tvm.compile(made, target, folder / "m.so", shape=shape)
    got = ofa_tvm.load(folder / "m.so")(*arrays)
    got = got if isinstance(got, tuple) else (got,)
    expected = reference(made, arrays)
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    return [use.origin for use in compiled.kernels]


def normalized(made: onnx.ModelProto, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    return graph.normalized(made, graph.input_shapes(made, shapes), known_operators())


def kinds(made: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in made.graph.node]


X = np.random.default_rng(0).standard_normal((2, 3)).astype(F32)


def test_shapes_and_sizes_are_constants(target: Target, tmp_path: Path) -> None:
    """As outputs, as the length of a range and as what fills a tensor; at a dynamic batch."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Size", ["x"], ["size"]),
        node("Gather", ["shape", "one"], ["width"]),
        node("Range", ["zero", "width", "one"], ["steps"]),
        node("Cast", ["steps"], ["floats"], to=TensorProto.FLOAT),
        node("ConstantOfShape", ["shape"], ["ones"], value=numpy_helper.from_array(np.array([1], F32))),
        node("Add", ["x", "floats"], ["sum"]),
        node("Mul", ["sum", "ones"], ["y"]),
    ]
    constants = [("one", np.int64(1)), ("zero", np.int64(0))]
    made = model(nodes, [("x", (F32, ("batch", 3)))], ["shape", "size", "y"], constants)
    assert kinds(normalized(made, x=(2, 3))) == ["Add", "Mul"]
    check(made, target, tmp_path, X, x=(2, 3))


@pytest.mark.parametrize(
    "attribute",
    [{"value_ints": [3, 2]}, {"value": numpy_helper.from_array(np.array([3, 2]))}],
    ids=["ints", "tensor"],
)
def test_constants_of_every_attribute(attribute: dict[str, Any]) -> None:
    nodes = [node("Constant", [], ["c"], **attribute), node("Reshape", ["x", "c"], ["y"])]
    folded = normalized(model(nodes, [("x", X)], ["y"]))
    assert kinds(folded) == ["Reshape"]
    assert numpy_helper.to_array(folded.graph.initializer[0]).tolist() == [3, 2]


def test_sparse_and_scalar_constants(target: Target, tmp_path: Path) -> None:
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([2, 5], F32), "v"),
        numpy_helper.from_array(np.array([[0, 1], [1, 2]])),
        [2, 3],
    )
    nodes = [
        node("Constant", [], ["a"], sparse_value=sparse),
        node("Constant", [], ["b"], value_float=0.5),
        node("Mul", ["x", "b"], ["half"]),
        node("Add", ["half", "a"], ["y"]),
    ]
    made = model(nodes, [("x", X)], ["y"])
    assert kinds(normalized(made)) == ["Mul", "Add"]
    dense = np.zeros((2, 3), F32)
    dense[0, 1], dense[1, 2] = 2, 5
    ofa_tvm.compile(made, target, tmp_path / "m.so")
    np.testing.assert_allclose(ofa_tvm.load(tmp_path / "m.so")(X), X / 2 + dense, rtol=1e-6)


def branches(inner: Sequence[str]) -> dict[str, onnx.GraphProto]:
    """Two branches that use the same names inside."""
    out = helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 3])
    return {
        name: helper.make_graph([node(kind, ["x"], ["t"]), node("Abs", ["t"], ["z"])], name, [], [out])
        for name, kind in zip(("then_branch", "else_branch"), inner, strict=True)
    }


@pytest.mark.parametrize("condition", [True, False])
def test_a_branch_on_a_constant_is_the_one_taken(condition: bool) -> None:
    nodes = [
        node("If", ["c"], ["a"], **branches(["Exp", "Sin"])),
        node("If", ["c"], ["b"], **branches(["Cos", "Tan"])),
        node("Add", ["a", "b"], ["y"]),
    ]
    made = model(nodes, [("x", X)], ["y"], [("c", np.bool_(condition))])
    first, second = ("Exp", "Cos") if condition else ("Sin", "Tan")
    assert kinds(normalized(made)) == [first, "Abs", second, "Abs", "Add"]


def test_a_branch_on_an_input_is_a_choice(target: Target, tmp_path: Path) -> None:
    nodes = [node("If", ["c"], ["y"], **branches(["Exp", "Sin"]))]
    made = model(nodes, [("c", np.asarray(True)), ("x", X)], ["y"])
    ofa_tvm.compile(made, target, tmp_path / "m.so")
    run = ofa_tvm.load(tmp_path / "m.so")
    for condition in (True, False):
        np.testing.assert_allclose(
            run(np.asarray(condition), X), reference(made, [np.asarray(condition), X])[0], rtol=1e-5
        )


def test_functions_of_the_model_and_of_the_standard_are_inlined() -> None:
    twice = helper.make_function(
        "own", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    call = helper.make_node("Twice", ["x"], ["t"], domain="own")
    nodes = [call, node("MeanVarianceNormalization", ["t"], ["y"], axes=[1])]
    folded = normalized(model(nodes, [("x", X)], ["y"], functions=[twice]))
    assert folded.graph.node[0].op_type == "Add"
    assert {n.op_type for n in folded.graph.node} <= known_operators()


def test_old_operator_sets(target: Target, tmp_path: Path) -> None:
    """Attributes that became inputs, and operators that were replaced."""
    nodes = [
        node("Slice", ["x"], ["a"], axes=[1], starts=[0], ends=[2]),
        node("Unsqueeze", ["a"], ["b"], axes=[0, 1]),
        node("Upsample", ["b", "scales"], ["c"], mode="nearest"),
        node("Squeeze", ["c"], ["d"], axes=[0, 1]),
        node("ReduceSum", ["d"], ["e"], axes=[1], keepdims=0),
        node("Clip", ["e"], ["f"], min=-1.0, max=1.0),
        node("Softmax", ["c"], ["y"], axis=1),
    ]
    constants = [("scales", np.array([1, 1, 2, 3], F32))]
    check(model(nodes, [("x", X)], ["f", "y"], constants, opset=9), target, tmp_path, X)


def test_weights_made_of_constants_are_packed_as_initializers_are(target: Target, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    nodes = [
        node("Cast", ["h"], ["f"], to=TensorProto.FLOAT),
        node("Transpose", ["f"], ["t"], perm=[3, 2, 0, 1]),
        node("Identity", ["t"], ["w"]),
        node("Conv", ["x", "w"], ["y"]),
        node("ConstantOfShape", ["s"], ["v"], value=numpy_helper.from_array(np.array([0.1], F32))),
        node("Conv", ["y", "v"], ["z"]),
    ]
    x = rng.standard_normal((1, 16, 7, 7)).astype(F32)
    weights = rng.standard_normal((3, 3, 16, 32)).astype(np.float16)
    made = model(nodes, [("x", x)], ["z"], [("h", weights), ("s", np.array([16, 32, 1, 1]))])
    made.graph.output[0].type.tensor_type.ClearField("shape")
    assert kinds(normalized(made)) == ["Conv", "Conv"]
    assert "none" not in check(made, target, tmp_path, x)


def test_inputs_and_outputs_of_every_kind(target: Target, tmp_path: Path) -> None:
    """Numbers, truth values, 64 bits; unused inputs, one that is an output, one value twice."""
    nodes = [
        node("Mul", ["s", "s"], ["t"]),
        node("Greater", ["x", "t"], ["larger"]),
        node("Where", ["b", "x", "t"], ["chosen"]),
        node("Add", ["i", "big"], ["j"]),
        node("Add", ["d", "d"], ["e"]),
        node("Identity", ["chosen"], ["again"]),
    ]
    arrays = [
        ("x", X),
        ("unused", np.ones(4, F32)),
        ("s", np.asarray(0.5, F32)),
        ("b", X > 0),
        ("i", np.arange(24).reshape(1, 2, 3, 4)),
        ("d", np.full((3,), 1 / 3)),
    ]
    outputs = ["t", "larger", "chosen", "again", "j", "e", "x"]
    made = model(nodes, arrays, outputs, [("big", np.full((1, 2, 1, 1), 3_000_000_000))])
    check(made, target, tmp_path, *(array for _, array in arrays))


def test_a_convolution_of_doubles(target: Target, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((1, 1, 5, 5)), rng.standard_normal((20, 1, 5, 5))
    made = model([node("Conv", ["x", "w"], ["y"]), node("Relu", ["y"], ["z"])], [("x", x)], ["z"], [("w", w)])
    ofa_tvm.compile(made, target, tmp_path / "m.so")
    got = ofa_tvm.load(tmp_path / "m.so")(x)
    assert isinstance(got, np.ndarray) and got.dtype == np.float64
    expected = np.maximum((w * x).sum(axis=(1, 2, 3)), 0).reshape(1, 20, 1, 1)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_tensors_without_elements(target: Target, tmp_path: Path) -> None:
    nodes = [
        node("Slice", ["x", "one", "one"], ["none"]),
        node("Relu", ["none"], ["still"]),
        node("Concat", ["still", "x", "empty"], ["y"], axis=0),
    ]
    constants = [("one", np.array([1])), ("empty", np.zeros((0, 3), F32))]
    check(model(nodes, [("x", X)], ["y", "none"], constants), target, tmp_path, X)


def test_an_initializer_that_is_an_input_too(target: Target, tmp_path: Path) -> None:
    made = model([node("Add", ["x", "b"], ["y"])], [("x", X), ("b", X[0])], ["y"], [("b", X[0])], opset=9)
    check(made, target, tmp_path, X)


@pytest.mark.parametrize(
    ("kind", "attributes", "said"),
    [
        ("NonZero", {}, r"operator NonZero \(node 'nonzero_y'\) .* depends on values"),
        ("Det", {}, r"operator Det \(node 'det_y'\) is not supported; rewrite"),
        ("Cast", {"to": TensorProto.BFLOAT16}, r"operator Cast \(node 'cast_y'\) .* type bfloat16"),
    ],
)
def test_refusals_name_operator_and_node_and_print_nothing(
    kind: str,
    attributes: dict[str, Any],
    said: str,
    target: Target,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    square = np.eye(3, dtype=F32)
    nodes = [node("Relu", ["x"], ["r"]), node(kind, ["r"], ["y"], **attributes)]
    capfd.readouterr()
    with pytest.raises(UserError, match=said) as refused:
        ofa_tvm.compile(model(nodes, [("x", square)], ["y"]), target, tmp_path / "m.so")
    assert len(str(refused.value)) < 400 and "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_an_example_has_the_inputs_rank_and_known_sizes() -> None:
    made = model([node("Relu", ["x"], ["y"])], [("x", (F32, ("batch", 7, "time")))], ["y"])
    with pytest.raises(UsageError, match=r"\(\?, 7, \?\).* --shape x=1x7x224, .*\{'x': \(1, 7, 224\)\}"):
        graph.input_shapes(made)


def test_text_is_refused() -> None:
    text = helper.make_tensor_value_info("x", TensorProto.STRING, [2])
    out = helper.make_tensor_value_info("y", TensorProto.STRING, [2])
    made = helper.make_model(
        helper.make_graph([node("Identity", ["x"], ["y"])], "g", [text], [out]),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    with pytest.raises(UserError, match="input 'x' holds text"):
        normalized(made)


def test_an_input_that_no_memory_holds_is_refused_at_once() -> None:
    """TVM would plan for hours."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 2**40])
    model = helper.make_model(helper.make_graph([], "huge", [value], []))
    with pytest.raises(UserError, match=r"input 'x' of shape .* has more than 268,435,456 values"):
        input_shapes(model)


def test_group_normalization_of_the_version_that_was_withdrawn(target: Target, tmp_path: Path) -> None:
    """Its scale and bias are one a group; onnx's checker calls it deprecated, files have it all the same."""
    node = helper.make_node("GroupNormalization", ["x", "scale", "bias"], ["y"], num_groups=3)
    x = np.random.default_rng(0).standard_normal((2, 6, 5, 5)).astype(F32)
    scale, bias = np.array([1, 2, 3], F32), np.array([0, -1, 1], F32)
    model = helper.make_model(
        helper.make_graph(
            [node],
            "groups",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)],
            [numpy_helper.from_array(scale, "scale"), numpy_helper.from_array(bias, "bias")],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
    )
    onnx.save(model, tmp_path / "groups.onnx")
    ofa_tvm.compile(tmp_path / "groups.onnx", target, tmp_path / "groups.so")
    groups = x.reshape(2, 3, -1)
    normal = (groups - groups.mean(2, keepdims=True)) / np.sqrt(groups.var(2, keepdims=True) + 1e-5)
    expected = (normal * scale[:, None] + bias[:, None]).reshape(x.shape)
    np.testing.assert_allclose(ofa_tvm.load(tmp_path / "groups.so")(x), expected, rtol=1e-4, atol=1e-5)


def test_an_output_that_tvm_could_not_store_and_an_input_of_no_size_are_refused(
    target: Target, tmp_path: Path
) -> None:
    constants = [("far", np.array([9])), ("axis", np.array([1]))]
    made = model([node("Slice", ["x", "far", "far", "axis"], ["y"])], [("x", X)], ["y"], constants)
    with pytest.raises(UserError, match=r"output 'y' holds nothing \(its shape is 2x0\)"):
        ofa_tvm.compile(made, target, tmp_path / "empty.so")
    open_ended = model([node("Relu", ["x"], ["y"])], [("x", (F32, ("n", 3)))], ["y"])
    with pytest.raises(UsageError, match="does not fit input 'x': each size is 1 or more"):
        ofa_tvm.compile(open_ended, target, tmp_path / "empty.so", shape={"x": (0, 3)})


@pytest.mark.parametrize(
    ("dtypes", "said"),
    [
        ((np.bool_, F32), "its input 'x' holds numbers of type bool"),
        ((F32, np.float64), "its inputs hold numbers of type float and numbers of type double"),
    ],
)
def test_operands_of_types_that_an_operator_does_not_take_are_refused(
    dtypes: tuple[Any, Any], said: str, target: Target, tmp_path: Path
) -> None:
    """As ONNX Runtime does; onnx's checker lets them pass, and TVM fails when it makes the code."""
    made = helper.make_model(
        helper.make_graph(
            [node("MatMul", ["x", "w"], ["y"])],
            "mixed",
            [
                helper.make_tensor_value_info(
                    "x", helper.np_dtype_to_tensor_dtype(np.dtype(dtypes[0])), [2, 3]
                )
            ],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])],
            [numpy_helper.from_array(np.ones((3, 4), dtypes[1]), "w")],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    with pytest.raises(UserError, match=f"operator MatMul .* does not fit its inputs: {said}"):
        ofa_tvm.compile(made, target, tmp_path / "m.so")

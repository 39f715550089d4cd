"""The generated driver: what it computes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from tvm import relax, te, topi

import ofa_tvm
from ofa_tvm.compiler.driver import make_driver
from ofa_tvm.compiler.objects import ScheduledKernel


def test_weights_in_a_folder_of_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / """a "b" \\c d'e"""
    odd.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(odd))
    model = _model(*GRAPHS["two outputs"])
    ofa_tvm.compile(model, ofa_tvm.get_target("x86"), tmp_path / "m.so")
    x = np.ones((2, 6), np.float32)
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(ofa_tvm.load(tmp_path / "m.so")(x)[1], expected[1], rtol=1e-5)


def _model(nodes: list[onnx.NodeProto], outputs: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 6))
    weight = helper.make_tensor("w", TensorProto.FLOAT, (6, 6), np.linspace(-1, 1, 36).astype(np.float32))
    out = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()]
    graph = helper.make_graph(nodes, "g", [x], out, [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


node = helper.make_node
GRAPHS = {
    "two outputs": (
        [node("MatMul", ["x", "w"], ["a"]), node("Relu", ["a"], ["b"]), node("MatMul", ["b", "w"], ["c"])],
        {"b": (2, 6), "c": (2, 6)},
    ),
    # What follows cannot be a plain sequence of kernels into fresh outputs: the virtual machine takes over.
    "an input handed through": ([node("Identity", ["x"], ["y"])], {"y": (2, 6)}),
    "the same value twice": (
        [node("Relu", ["x"], ["a"]), node("Identity", ["a"], ["y"]), node("Identity", ["a"], ["z"])],
        {"y": (2, 6), "z": (2, 6)},
    ),
    "a constant beside what is computed": (
        [node("Relu", ["x"], ["y"]), node("Identity", ["w"], ["z"])],
        {"y": (2, 6), "z": (6, 6)},
    ),
}


def test_outputs_that_an_if_makes_are_straight_line(tmp_path: Path) -> None:
    """Both branches are computed and one is chosen; only networks in one call can be profiled."""

    def branch(name: str, kind: str) -> onnx.GraphProto:
        made = [helper.make_tensor_value_info(f"{name}{i}", TensorProto.FLOAT, (2, 6)) for i in range(2)]
        nodes = [node(kind, ["x"], [f"{name}0"]), node("Neg", ["x"], [f"{name}1"])]
        return helper.make_graph(nodes, name, [], made)

    chosen = node("If", ["c"], ["y", "z"], then_branch=branch("t", "Relu"), else_branch=branch("e", "Exp"))
    model = _model([chosen], {"y": (2, 6), "z": (2, 6)})
    model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, ()))
    ofa_tvm.compile(model, ofa_tvm.get_target("x86"), tmp_path / "m.so", profile=True)
    run = ofa_tvm.load(tmp_path / "m.so")
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 6)
    for condition, expected in ((True, np.maximum(x, 0)), (False, np.exp(x))):
        first, second = run(x, np.array(condition))
        np.testing.assert_allclose(first, expected, rtol=1e-6)
        assert np.array_equal(second, -x)


@pytest.mark.parametrize("name", GRAPHS)
def test_outputs_equal_onnxruntime(name: str, tmp_path: Path) -> None:
    model = _model(*GRAPHS[name])
    ofa_tvm.compile(model, ofa_tvm.get_target("x86"), tmp_path / "m.so")
    run = ofa_tvm.load(tmp_path / "m.so")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for seed in range(3):
        x = np.random.default_rng(seed).standard_normal((2, 6)).astype(np.float32)
        got = run(x)
        for have, want in zip(
            got if isinstance(got, tuple) else (got,), session.run(None, {"x": x}), strict=True
        ):
            np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-6)


def test_a_kernel_without_arguments_is_a_step_like_all_others() -> None:
    """TVM has no operator that becomes one, but an import may."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4,), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            ones = builder.emit_te(lambda: te.compute((4,), lambda i: te.const(1.0, "float32"), name="ones"))
            total = builder.emit_output(builder.call_te(topi.add, x, ones))
        builder.emit_func_output(total)
    mod = builder.finalize()
    kernels = {var.name_hint: f for var, f in mod.functions.items() if var.name_hint != "main"}
    scheduled = {name: ScheduledKernel(name, lambda f=f: f) for name, f in kernels.items()}
    driver = make_driver(mod, scheduled)
    assert driver is not None and len(driver.calls) == 2

"""One form of quantised networks, whoever wrote them, with the outputs of ONNX Runtime run unoptimised."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper
from opencl_device import needs_opencl
from quantized_models import FORMS, Builder, by_onnx_runtime, with_integer_products

import ofa_tvm
from ofa_tvm.compiler import graph, half
from ofa_tvm.compiler.importer import known_operators

Array = np.ndarray[Any, Any]
_FROM_TOOLS = [f"{form} {kind}" for form in ("QDQ", "QOperator") for kind in ("QUInt8", "QInt8")]


def canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    sizes = graph.input_shapes(model)
    return graph.prepare(half.widened(graph.normalized(model, sizes, known_operators())))


def unoptimised(model: onnx.ModelProto, arrays: list[Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]
    outputs: list[Array] = session.run(None, dict(zip(names, arrays, strict=True)))
    return outputs


def inputs(model: onnx.ModelProto, seed: int = 7) -> list[Array]:
    rng, arrays = np.random.default_rng(seed), []
    for value in model.graph.input:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            arrays.append(rng.standard_normal(shape).astype(np.float32) * 1.5)
        else:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            limits = np.iinfo(dtype)
            arrays.append(rng.integers(limits.min, limits.max + 1, shape).astype(dtype))
    return arrays


def assert_canonical(model: onnx.ModelProto) -> None:
    """What `ofa_tvm.compiler.graph.quantized` promises of constants, types, axes and readers."""
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    readers = Counter(name for node in model.graph.node for name in node.input)
    for node in model.graph.node:
        assert "Linear" not in node.op_type or node.op_type in ("QuantizeLinear", "DequantizeLinear")
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            assert all(
                tensors[n].dtype.kind == "f"
                for n in node.input[2:3]
                if n in tensors and node.op_type in ("Conv", "Gemm")
            )
            continue
        scale, zero = (tensors[name] for name in node.input[1:])
        if node.input[0] not in tensors:
            assert (scale.shape, scale.dtype, zero.shape) == ((), np.float32, ()), node.name
            assert not node.attribute, node.name
            assert node.op_type == "QuantizeLinear" or readers[node.output[0]] <= 1, node.name
            continue
        data = tensors[node.input[0]]
        assert (data.dtype, scale.dtype, zero.dtype) == (np.int8, np.float32, np.int8)
        for reader in (r for r in model.graph.node if node.output[0] in r.input):
            kind = reader.op_type
            assert kind in ("Conv", "Gemm", "MatMul", "ConvTranspose") and reader.input[1] == node.output[0]
            assert makers[reader.input[0]].op_type == "DequantizeLinear"
            if scale.ndim:
                channel = {"Conv": 0, "ConvTranspose": 1}.get(kind, data.ndim - 1)
                assert scale.shape == zero.shape == (data.shape[channel],)
                assert [(a.name, a.i) for a in node.attribute] == [("axis", channel)]
            assert kind != "Gemm" or not reader.attribute
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] not in tensors:
            maker = makers.get(node.input[0])
            if maker is None or maker.op_type != "QuantizeLinear":
                continue
            assert tensors[node.input[2]].dtype == np.uint8, node.name


def made(form: str, folder: Path) -> onnx.ModelProto:
    return by_onnx_runtime(folder, *form.split()) if form in _FROM_TOOLS else FORMS[form]()


def share_apart(model: onnx.ModelProto, wanted: list[Array], got: list[Array]) -> float:
    """The largest share of an output's values that are more than one step of their integers apart."""
    makers = {name: node for node in model.graph.node for name in node.output}
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    shares = []
    for value, theirs, ours in zip(model.graph.output, wanted, got, strict=True):
        node, step = makers[value.name], 1.0
        while node.op_type not in ("DequantizeLinear", "QuantizeLinear"):
            node = makers[node.input[0]]
        if node.op_type == "DequantizeLinear":
            step = float(tensors[node.input[1]])
        assert (theirs.shape, theirs.dtype) == (ours.shape, ours.dtype)
        shares.append(float((np.abs(theirs.astype(np.float64) - ours) > 1.01 * step).mean()))
    return max(shares)


@pytest.mark.parametrize("form", [*FORMS, *_FROM_TOOLS])
def test_every_tools_form_becomes_one(form: str, tmp_path: Path) -> None:
    model = made(form, tmp_path)
    same = canonical(model)
    assert_canonical(same)
    onnx.checker.check_model(same, full_check=True)
    kinds = Counter(node.op_type for node in same.graph.node)
    tensors = {t.name: t for t in same.graph.initializer}
    weighty = [n for n in same.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    assert weighty and not any(n.input[1] in tensors for n in weighty), "a weight became float"
    assert not any(t.data_type == TensorProto.INT32 for t in tensors.values())
    assert not kinds["Relu"] and not kinds["Clip"], "clamps that the quantisation does"
    assert kinds["Mul"] == {"nncf": 1, "pytorch": 0, "tflite": 0}.get(form, kinds["Mul"])
    for seed in range(6):
        arrays = inputs(model, seed)
        assert share_apart(same, unoptimised(model, arrays), unoptimised(same, arrays)) <= 0.001


@pytest.mark.slow
@pytest.mark.parametrize("form", ["pytorch", "nncf", "tflite", "gates", "qoperators", "QDQ QInt8"])
def test_compiled_as_onnx_runtime_computes_it(form: str, tmp_path: Path) -> None:
    model = made(form, tmp_path)
    ofa_tvm.compile(model, ofa_tvm.get_target("x86"), tmp_path / "m.so")
    run = ofa_tvm.load(tmp_path / "m.so")
    arrays = inputs(model)
    got = run(*arrays)
    ours = list(got) if isinstance(got, tuple) else [got]
    assert share_apart(canonical(model), unoptimised(model, arrays), ours) <= 0.001


@pytest.mark.slow
@needs_opencl
def test_bytes_that_an_opencl_device_reads_across_its_vectors(tmp_path: Path) -> None:
    """Dequantised and transposed in one kernel."""
    model = FORMS["nncf"]()
    ofa_tvm.compile(model, ofa_tvm.get_target("opencl"), tmp_path / "m.so")
    arrays = inputs(model)
    got = [ofa_tvm.load(tmp_path / "m.so")(*arrays)]
    assert share_apart(canonical(model), unoptimised(model, arrays), got) <= 0.001


def test_pairs_within_hard_swish_and_gates_are_gone_and_pools_work_on_integers() -> None:
    gates = canonical(FORMS["gates"]())
    kinds = [node.op_type for node in gates.graph.node]
    assert kinds.count("HardSwish") == 1 and kinds.count("HardSigmoid") == 1
    makers = {name: node.op_type for node in gates.graph.node for name in node.output}
    product = next(node for node in gates.graph.node if node.op_type == "Mul")
    assert sorted(makers[name] for name in product.input) == ["DequantizeLinear", "HardSigmoid"]
    moved = canonical(FORMS["pytorch"]())
    types = {v.name: v.type.tensor_type.elem_type for v in moved.graph.value_info}
    for node in moved.graph.node:
        if node.op_type in ("MaxPool", "Flatten"):
            assert types[node.output[0]] == TensorProto.UINT8


@pytest.mark.parametrize(("before", "stays"), [(0.02, False), (0.08, True)])
def test_a_pair_stays_where_it_could_change_the_integers_behind_by_more_than_one(
    before: float, stays: bool
) -> None:
    b = Builder()
    w = b.real(b.constant(b.integers(4, 3, 1, 1), np.int8), 0.01, 0, np.int8)
    x = b.pair(b.op("Conv", b.pair("x", 0.03, 128), w), before, 128)
    model = canonical(b.model([b.pair(b.op("Relu", x), 0.02, 128)]))
    kinds = [node.op_type for node in model.graph.node if node.op_type != "DequantizeLinear"]
    pair = ["QuantizeLinear"] if stays else []
    assert kinds == ["QuantizeLinear", "Conv", *pair, "Relu", "QuantizeLinear"]


def test_integer_products_that_are_read_as_floats(tmp_path: Path) -> None:
    model = with_integer_products()
    kinds = Counter(node.op_type for node in canonical(model).graph.node)
    assert kinds["Conv"] == kinds["MatMul"] == 1 and not kinds["ConvInteger"] and not kinds["MatMulInteger"]
    ofa_tvm.compile(model, ofa_tvm.get_target("x86"), tmp_path / "m.so")
    arrays = inputs(model)
    want = unoptimised(model, arrays)[0]
    np.testing.assert_allclose(ofa_tvm.load(tmp_path / "m.so")(*arrays), want, atol=1e-4 * np.abs(want).max())


def test_networks_that_take_and_give_int8() -> None:
    b = Builder()
    w = b.real(b.constant(b.integers(4, 3, 1, 1), np.int8), 0.01, 0, np.int8)
    q = b.quantize(b.op("Conv", b.real("x", 0.03, -5, np.int8), w), 0.1, 4, np.int8)
    pooled = b.op("MaxPool", q, kernel_shape=[2, 2])
    shape = {"x": (TensorProto.INT8, (1, 3, 12, 12))}
    model = b.model({q: TensorProto.INT8, pooled: TensorProto.INT8}, inputs=shape)
    same = canonical(model)
    assert_canonical(same)
    arrays = inputs(model)
    for theirs, ours in zip(unoptimised(model, arrays), unoptimised(same, arrays), strict=True):
        np.testing.assert_array_equal(theirs, ours)


def test_weights_lie_around_zero_where_their_values_allow() -> None:
    b = Builder()
    near = b.real(b.constant(b.rng.integers(10, 240, (4, 3, 1, 1)), np.uint8), 0.01, 120)
    far = b.real(b.constant(b.rng.integers(0, 256, (4, 3, 1, 1)), np.uint8), 0.01, 100)
    x = b.pair("x", 0.03, 128)
    model = b.model([b.op("Conv", x, near), b.op("Conv", x, far)])
    tensors = {t.name: numpy_helper.to_array(t) for t in canonical(model).graph.initializer}
    zeros = {int(v) for name, v in tensors.items() if v.dtype == np.int8 and not v.ndim}
    assert zeros == {0, -28}


@pytest.mark.slow
def test_scales_and_zero_points_of_every_size(tmp_path: Path) -> None:
    """Small convolutions with random scales, zero points, types and shapes, compiled together."""
    b = Builder(np.random.default_rng(11))
    outputs = {}
    for _ in range(24):
        kind = b.rng.choice([np.uint8, np.int8])
        limits = np.iinfo(kind)
        groups = int(b.rng.choice([1, 3]))
        c_out, k = 3 * int(b.rng.integers(1, 7)), int(b.rng.choice([1, 3]))
        scale_in, zero_in = 10.0 ** b.rng.uniform(-3, 0), int(b.rng.integers(limits.min, limits.max + 1))
        scale_w, wide = 10.0 ** b.rng.uniform(-4, -1, c_out if b.rng.random() < 0.7 else ()), np.int8
        x = b.pair("x", scale_in, zero_in, kind)
        shape = (c_out, 3 // groups, k, k)
        zero_w = np.zeros(scale_w.shape, int) if scale_w.ndim else int(b.rng.integers(-128, 128))
        w = b.real(
            b.constant(b.integers(*shape), wide),
            scale_w,
            zero_w,
            wide,
            **({"axis": 0} if scale_w.ndim else {}),
        )
        y = b.op("Conv", x, w, b.constant(b.rng.normal(0, 1, c_out)), pads=[k // 2] * 4, group=groups)
        zero_out = int(b.rng.integers(limits.min, limits.max + 1))
        scale_out = float(scale_in * np.max(scale_w) * 127 * np.sqrt(shape[1] * k * k) / 60)
        outputs[b.quantize(y, scale_out, zero_out, kind)] = (
            TensorProto.UINT8 if kind == np.uint8 else TensorProto.INT8
        )
    model = b.model(outputs)
    ofa_tvm.compile(model, ofa_tvm.get_target("x86"), tmp_path / "m.so")
    arrays = inputs(model)
    for theirs, ours in zip(
        unoptimised(model, arrays), ofa_tvm.load(tmp_path / "m.so")(*arrays), strict=True
    ):
        apart = np.abs(theirs.astype(int) - ours.astype(int))
        assert ours.dtype == theirs.dtype and apart.max() <= 1 and (apart > 0).mean() < 0.01

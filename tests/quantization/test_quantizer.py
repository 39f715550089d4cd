"""Quantising a float32 model: what it costs is measured, what costs too much stays in float."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import ofa_tvm
from ofa_tvm.compiler import graph
from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.quantization import Quantized, quantize

Array = np.ndarray[Any, Any]
_SIDE, _CLASSES = 8, 4


def network(path: Path, *, outlier: float = 1.0, classes: bool = True) -> Path:
    """Two convolutions, hard-swish, a classifier; one channel in the middle is `outlier` times the others."""
    rng = np.random.default_rng(0)
    wide = np.ones(16)
    wide[0] = outlier
    arrays = {
        "w0": rng.normal(0, 0.3, (8, 3, 3, 3)),
        "b0": rng.normal(0, 0.1, 8),
        "w1": rng.normal(0, 0.3, (16, 8, 1, 1)) * wide[:, None, None, None],
        "w2": rng.normal(0, 0.5, (16, _CLASSES)) / wide[:, None],
    }
    nodes = [
        helper.make_node("Conv", ["input", "w0", "b0"], ["c0"], name="stem", pads=[1, 1, 1, 1]),
        helper.make_node("HardSwish", ["c0"], ["a0"], name="swish"),
        helper.make_node("Conv", ["a0", "w1"], ["c1"], name="wide"),
        helper.make_node("Relu", ["c1"], ["a1"], name="relu"),
        helper.make_node("GlobalAveragePool", ["a1"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("MatMul", ["f", "w2"], ["logits"], name="head"),
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", _CLASSES])
    if not classes:
        output = helper.make_tensor_value_info("c1", TensorProto.FLOAT, None)
        nodes = [*nodes[:2], helper.make_node("Conv", ["a0", "w1"], ["c1"], name="wide")]
        arrays["w1"] = arrays["w1"][:1]
        del arrays["w2"]
    made = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, _SIDE, _SIDE])],
        [output],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in arrays.items()],
    )
    return save(made, path)


def save(made: onnx.GraphProto, path: Path) -> Path:
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"labels": '["a", "b", "c", "d"]'})
    onnx.save(model, path)
    return path


def images(count: int = 120) -> Array:
    return np.random.default_rng(1).standard_normal((count, 3, _SIDE, _SIDE)).astype(np.float32)


def run(path: Path, x: Array) -> Array:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    result: Array = session.run(None, {"input": x})[0]
    return result


def anyway(source: Path, x: Any, output: Path, **settings: Any) -> Quantized:
    """By one method, whatever it costs."""
    return quantize(source, x, output, **{"method": "minmax", "accuracy_drop": 100, **settings})


def test_a_model_becomes_qdq_with_bytes_and_its_cost_is_told(tmp_path: Path) -> None:
    source = network(tmp_path / "m.onnx")
    before = source.read_bytes()
    x = images()
    made = ofa_tvm.quantize(source, x, tmp_path / "q.onnx", accuracy_drop=100)
    assert source.read_bytes() == before
    assert set(made.tried) == {"minmax", "percentile", "entropy"} and made.method in made.tried
    assert (made.calibration_images, made.held_out_images) == (60, 60)
    assert made.measure == "agreement" and made.float32.share == 1 and not made.in_float
    assert made.int8 == made.tried[made.method]
    assert made.int8.share == max(score.share or 0 for score in made.tried.values())
    model = onnx.load(made.path)
    assert [(p.key, p.value) for p in model.metadata_props] == [("labels", '["a", "b", "c", "d"]')]
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    pairs = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    zeros = {kinds[n.input[2]] for n in pairs if n.input[0] not in kinds}
    assert zeros == {TensorProto.UINT8}
    weights = [n for n in pairs if kinds.get(n.input[0]) == TensorProto.INT8]
    assert len(weights) == 3 and "HardSwish" in {n.op_type for n in model.graph.node}
    want, got = run(source, x), run(made.path, x)
    assert np.sqrt(np.mean((got - want) ** 2)) < 0.1 * np.sqrt(np.mean(want**2))


def test_two_neighbours_are_128_together_unless_all_of_8_bits_is_asked_for(tmp_path: Path) -> None:
    source = network(tmp_path / "m.onnx")
    made = {weights: anyway(source, images(), tmp_path / f"{weights}.onnx", weights=weights)
            for weights in ("short", "full")}  # fmt: skip
    for weights, result in made.items():
        model = onnx.load(result.path)
        arrays = {t.name: numpy_helper.to_array(t).astype(int) for t in model.graph.initializer}
        for name, axis in (("w0", 1), ("w1", 1), ("w2", 0)):
            codes = np.moveaxis(arrays[f"{name}_quantized"], axis, 0)
            even = codes[: len(codes) // 2 * 2]
            sums = abs(even[::2] + even[1::2]).max()
            assert abs(codes).max() == 127 if weights == "full" else abs(codes).max() <= 127
            assert sums > 128 if weights == "full" else 120 < sums <= 128
    short, full = made["short"], made["full"]
    assert (short.other_weights, full.other_weights) == (full.int8, short.int8)
    assert short.int8.error < 0.1
    with pytest.raises(UsageError, match="choose short or full"):
        anyway(source, images(), tmp_path / "q.onnx", weights="7")


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_one_method(method: Any, tmp_path: Path) -> None:
    made = anyway(network(tmp_path / "m.onnx"), images(), tmp_path / "q.onnx", method=method)
    assert list(made.tried) == [method] == [made.method]
    assert made.int8.error < 0.1


def test_layers_that_cost_too_much_stay_in_float(tmp_path: Path) -> None:
    """One channel is so large that the others' answers drown in the step of the whole map."""
    source = network(tmp_path / "m.onnx", outlier=2000.0)
    x = images(160)
    spoilt = quantize(source, x, tmp_path / "all.onnx", accuracy_drop=100, per_layer=True)
    assert spoilt.points is not None and spoilt.points > 10
    assert [layer.name for layer in spoilt.layers][-1] == "stem", "of the least effect"
    kept = quantize(source, x, tmp_path / "q.onnx", accuracy_drop=2)
    assert kept.points is not None and kept.points <= 2
    assert "wide" in kept.in_float and "stem" not in kept.in_float
    assert kept.quantised_layers == 3 - len(kept.in_float)
    assert {layer.name for layer in kept.layers if layer.in_float} == set(kept.in_float)
    model = onnx.load(kept.path)
    floats = {
        t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) == 4
    }
    assert floats == {"w1"}


def test_where_no_layer_may_be_quantised_the_user_is_told(tmp_path: Path) -> None:
    rng, wide = np.random.default_rng(0), np.ones(16, np.float32)
    wide[0] = 5000
    weight = numpy_helper.from_array((rng.normal(0, 0.5, (16, 4)) / wide[:, None]).astype(np.float32), "w")
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, k]) for n, k in (("x", 16), ("y", 4))]
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="head")
    save(helper.make_graph([node], "one", values[:1], values[1:], [weight]), tmp_path / "m.onnx")
    x = rng.standard_normal((60, 16)) * wide
    with pytest.raises(UserError, match="cannot be quantised within 1 points"):
        quantize(tmp_path / "m.onnx", x, tmp_path / "q.onnx", accuracy_drop=1)
    assert not (tmp_path / "q.onnx").exists()


def test_labels_say_what_is_right(tmp_path: Path) -> None:
    source, x = network(tmp_path / "m.onnx"), images()
    answers = run(source, x).argmax(1)
    right = anyway(source, x, tmp_path / "q.onnx", labels=answers)
    assert right.measure == "accuracy" and right.float32.share == 1
    wrong = anyway(source, x, tmp_path / "q.onnx", labels=(answers + 1) % 4)
    assert wrong.float32.share == 0
    other = anyway(source, x, tmp_path / "q.onnx", labels=answers + 7)
    assert other.measure == "agreement" and "compared with those of the float32 model" in other.notes[-1]


def test_outputs_without_classes_are_compared_as_they_are(tmp_path: Path) -> None:
    made = quantize(network(tmp_path / "m.onnx", classes=False), images(40), tmp_path / "q.onnx")
    assert made.measure == "error" and made.points is None and 0 < made.int8.error < 0.2


def test_one_image_works_with_a_note_and_saturated_ones_are_noticed(tmp_path: Path) -> None:
    source = network(tmp_path / "m.onnx")
    one = anyway(source, images(1), tmp_path / "q.onnx")
    assert (one.calibration_images, one.held_out_images) == (1, 1) and "one image" in one.notes[0]
    bright = np.clip(images(60) + 1.5, 0, 1)
    made = anyway(source, bright, tmp_path / "q.onnx")
    assert any("30 of 30 images" in note and "saturated" in note for note in made.notes)
    usual = anyway(source, images(60), tmp_path / "q.onnx")
    assert not any("saturated" in note for note in usual.notes)


def test_what_cannot_be_quantised_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    source, x, output = network(tmp_path / "m.onnx"), images(8), tmp_path / "no.onnx"
    with pytest.raises(UserError, match="no ONNX file"):
        quantize(tmp_path / "none.onnx", x, output)
    with pytest.raises(UserError, match="no images to calibrate on"):
        quantize(source, x[:0], output)
    with pytest.raises(UserError, match="2 of 8 images hold NaN"):
        quantize(source, np.where(np.arange(8)[:, None, None, None] < 2, np.nan, x), output)
    with pytest.raises(UserError, match="takes images of 3 x 8 x 8, not of 3 x 9 x 9"):
        quantize(source, np.zeros((4, 3, 9, 9)), output)
    with pytest.raises(UserError, match="8 images, but labels of shape"):
        quantize(source, x, output, labels=[1, 2])
    with pytest.raises(UsageError, match="no method 'best'"):
        quantize(source, x, output, method="best")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="is the model itself"):
        quantize(source, x, source)
    done = anyway(source, images(40), tmp_path / "q.onnx")
    with pytest.raises(UserError, match="quantised already"):
        quantize(done.path, x, output)
    plain = helper.make_graph(
        [helper.make_node("Relu", ["input"], ["y"])],
        "plain",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 8, 8])],
    )
    onnx.save(
        helper.make_model(plain, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "p.onnx",
    )
    with pytest.raises(UserError, match="no convolutions and no products"):
        quantize(tmp_path / "p.onnx", x, output)
    assert not output.exists()


@pytest.mark.slow
def test_the_compiler_takes_it(tmp_path: Path) -> None:
    made = anyway(network(tmp_path / "m.onnx"), images(), tmp_path / "q.onnx")
    x = images(1)
    ofa_tvm.compile(made.path, ofa_tvm.get_target("x86"), tmp_path / "q.so", shape={"input": x.shape})
    got = ofa_tvm.load(tmp_path / "q.so")(x)
    want = run(made.path, x)
    assert np.abs(got - want).max() < 0.05 * np.abs(want).max()
    assert graph.graph_inputs(onnx.load(made.path))[0].type.tensor_type.shape.dim[0].dim_param == "n"

"""The contract of `Target.dtypes`: what a target says it has compiles and is right, all else is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from once import Once
from places import skip_unless_it_runs_here, skipped_without_compiler
from small_module import SIZE, write_small_onnx

import ofa_tvm
from ofa_tvm.compiler import CompiledModule
from ofa_tvm.errors import UserError
from ofa_tvm.number_formats import DTYPES, DType, described
from ofa_tvm.targets import Target, get_target, target_names

BYTES = {  # what multiplies bytes
    "x86-64-v2": "pmaddwd",
    "x86-64-v3": "vpmaddwd",
    "x86-64-v4": "vpmaddwd",
    "alderlake": "vpdpbusd",
    "cascadelake": "vpdpbusd",
    "icelake-server": "vpdpbusd",
    "sapphirerapids": "vpdpbusd",
    "znver4": "vpdpbusd",
    "znver5": "vpdpbusd",
    "cortex-a76": "sdot",
    "neoverse-n1": "sdot",
    "neoverse-v1": "sdot",
    "cortex-a72": "smull",
    "cortex-a75": "smull",
    "cortex-a53": "smull",
    "opencl": "32-bit products",
}
_ALIKE = ("cuda-", "cortex-a73", "cortex-a55")  # in bytes as cuda, cortex-a72 and cortex-a75
ONE_OF_A_KIND = ["x86", *(name for name in target_names()[1:] if not name.startswith(_ALIKE)), "cuda"]


@pytest.mark.parametrize("name", BYTES)
def test_integers_are_multiplied_by(name: str) -> None:
    assert get_target(name).dtypes["int8"] == BYTES[name]


@pytest.mark.parametrize("name", target_names())
def test_every_target_says_what_it_computes_in(name: str) -> None:
    formats = get_target(name).dtypes
    assert {"float32", "float16", "int8"} <= set(formats) <= set(DTYPES)
    assert ("float16-weights" in formats) == (get_target(name).tvm["kind"] == "llvm" and name != "x86-64-v2")
    assert all(f"{key} ({how})" in described(formats) for key, how in formats.items() if how)


def test_float16_is_arithmetic_only_where_the_cpu_has_it() -> None:
    assert get_target("cortex-a76").dtypes["float16"] == "fullfp16"
    assert (
        get_target("cortex-a72").dtypes["float16"] == get_target("x86-64-v3").dtypes["float16"] == "storage"
    )


@pytest.mark.parametrize("name", ["x86-64-v2", "opencl"])
def test_a_format_that_a_target_lacks_is_refused_with_those_that_it_has(name: str, tmp_path: Path) -> None:
    target = get_target(name)
    with pytest.raises(UserError) as caught:
        ofa_tvm.compile(
            write_small_onnx(tmp_path / "m.onnx"), target, tmp_path / "m.so", dtype="float16-weights"
        )
    assert f"target {name}: float16-weights is for CPUs that read float16" in str(caught.value)
    assert described(target.dtypes) in str(caught.value)
    assert not (tmp_path / "m.so").exists()


@pytest.fixture(scope="module")
def quantised(once: Once) -> Path:
    """The small network as QDQ, every layer in int8."""
    return once.make("quantised", _quantised)


def _quantised(folder: Path) -> Path:
    return Path(
        ofa_tvm.quantize(
            write_small_onnx(folder / "float.onnx"),
            np.random.default_rng(0).standard_normal((8, 3, SIZE, SIZE)).astype(np.float32),
            folder / "int8.onnx",
        ).path
    )


def assert_integers(module: CompiledModule) -> None:
    products = [use.signature for use in module.kernels if use.signature.has_product]
    assert len(products) == 2 and all(signature.in_integers for signature in products)


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "float32"])
def test_a_number_format_is_that_of_what_is_not_quantised(
    dtype: DType, quantised: Path, tmp_path: Path
) -> None:
    assert_integers(ofa_tvm.compile(quantised, get_target("x86"), tmp_path / "m.so", dtype=dtype))


def test_integers_are_not_made_of_a_float_network(tmp_path: Path) -> None:
    model = write_small_onnx(tmp_path / "m.onnx")
    with pytest.raises(UserError, match=r"m\.onnx is not quantised.*ofa-tvm quantize"):
        ofa_tvm.compile(model, get_target("x86"), tmp_path / "m.so", dtype="int8")
    assert not (tmp_path / "m.so").exists()


def test_a_quantised_module_says_what_it_computes_in(quantised: Path, tmp_path: Path) -> None:
    module = ofa_tvm.compile(quantised, get_target("x86"), tmp_path / "m.so")
    assert ofa_tvm.load(module.path).metadata["target"]["dtype"] == "int8"


@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_a_quantised_network_runs_in_integers(name: str, quantised: Path, tmp_path: Path) -> None:
    target: Target = get_target(name)
    with skipped_without_compiler(target):
        module = ofa_tvm.compile(quantised, target, tmp_path / "m.so")
    assert_integers(module)
    skip_unless_it_runs_here(target)
    x = np.random.default_rng(1).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    expected = onnxruntime.InferenceSession(str(quantised), options).run(None, {"input": x})[0]
    scales = [
        float(onnx.numpy_helper.to_array(tensor).max())
        for tensor in onnx.load(quantised).graph.initializer
        if "logits" in tensor.name and "scale" in tensor.name
    ]
    np.testing.assert_allclose(ofa_tvm.load(module.path, target)(x), expected, atol=1.01 * max(scales))

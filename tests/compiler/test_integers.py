"""Integer kernels: exact sums by every instruction, and networks that agree with ONNX Runtime unoptimised."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from emulated import arm_target
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_models import Graph
from opencl_device import needs_opencl
from places import runnable
from tvm import te, tirx
from word_products import built, word_product

import ofa_tvm
from ofa_tvm.compiler.build import CompiledModule, kernels_of, lower_onnx
from ofa_tvm.compiler.dots import dot2, dot4, has_short_sums, int16_pairs, quads
from ofa_tvm.compiler.kernels import make_kernel
from ofa_tvm.compiler.templates import templates_of
from ofa_tvm.targets import Target, get_target

_IN_SCALE, _OUT_SCALE, _SUM_SCALE = (
    0.0317,
    0.0513,
    0.0612,
)  # no small ratios, so that few sums lie between two steps
X86 = ["x86", "x86-64-v2", "x86-64-v3", "x86-64-v4"]


def product(
    target: Target, rows: int, depth: int, width: int, dtype: str = "uint8", words: str = "int32"
) -> tvm.IRModule:
    """The int32 product of bytes (rows, depth) and panels of weights."""
    return word_product(target, (rows, depth, width), dtype, 4, dot4, words)


def extreme(lanes: int, rng: np.random.Generator, *, short: bool) -> np.ndarray:
    """Weights (48, 3 * lanes) as large as they may be, of one sign and of two."""
    if not short:
        weights = rng.integers(-128, 128, (48, 3 * lanes))
        weights[:, :lanes], weights[:, lanes : 2 * lanes] = -128, 127
        return weights.astype(np.int8)
    pairs = np.array([(64, 64), (-64, -64), (1, 127), (-128, 0), (127, -128), (-100, -28)])
    weights = pairs[rng.integers(0, len(pairs), (24, 3 * lanes))].transpose(0, 2, 1).reshape(48, -1)
    weights[:, :lanes], weights[:, lanes : 2 * lanes] = 64, -64
    return weights.astype(np.int8)


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("name", X86)
def test_sums_are_exact_also_of_extreme_values(name: str, short: bool, rng: np.random.Generator) -> None:
    """`vpmaddubsw` would saturate at 32,767: two products of 255 and -128 are -65,280."""
    target = runnable(name)
    lanes = templates_of(target.tvm_target()).lanes() or 1
    left = rng.integers(0, 256, (6, 48)).astype(np.uint8)
    weights = extreme(lanes, rng, short=short)
    left[:2] = 255
    fours = weights.reshape(12, 4, 3, lanes).transpose(2, 0, 3, 1)
    assert has_short_sums(fours) == short
    panels = quads(fours, short=short)
    expected = left.astype(np.int64) @ weights.astype(np.int64)
    for executable in built(product(target, 6, 48, 3 * lanes, words=str(panels.dtype)), target):
        arrays = [left, panels, np.zeros(expected.shape, np.int32)]
        tensors = [tvm.runtime.tensor(array) for array in arrays]
        executable["main"](*tensors)
        np.testing.assert_array_equal(tensors[-1].numpy(), expected)


@pytest.mark.parametrize("name", X86)
def test_sums_of_lines_are_exact_also_of_extreme_values(name: str, rng: np.random.Generator) -> None:
    """Of two each, side by side in a depthwise convolution: 255 and -128 in all 49 taps and the 50th."""
    target = runnable(name)
    lanes = templates_of(target.tvm_target()).lanes() or 1
    data = rng.integers(0, 256, (6, 50, 2 * lanes)).astype(np.uint8)
    weights = rng.integers(-128, 128, (50, 2 * lanes)).astype(np.int8)
    data[:2], weights[:, :lanes] = 255, -128
    left = te.placeholder(data.shape, "uint8", name="left")
    right = te.placeholder((25, 2 * lanes), "int32", name="right")
    k = te.reduce_axis((0, 25), "k")

    def value(i: tirx.Var, c: tirx.Var) -> tirx.Expr:
        return te.sum(dot2((left[i, 2 * k, c], left[i, 2 * k + 1, c]), right[k, c]), axis=k)

    out = te.compute((6, 2 * lanes), value, name="sums")
    mod = make_kernel(te.create_prim_func([left, right, out]), "depthwise_conv2d").mod
    words = int16_pairs(weights.reshape(25, 2, -1).swapaxes(1, 2))
    expected = (data.astype(np.int64) * weights).sum(1)
    for executable in built(mod, target):
        tensors = [tvm.runtime.tensor(array) for array in (data, words, np.zeros((6, 2 * lanes), np.int32))]
        executable["main"](*tensors)
        np.testing.assert_array_equal(tensors[-1].numpy(), expected)
        assert "pmaddwd" in executable.mod.inspect_source("asm")


def test_sums_are_short_as_long_as_no_input_can_leave_16_bits() -> None:
    """255 times two weights of one sign; the second pair of a word counts as the first does."""
    for pair, short in (((64, 64), True), ((64, 65), False), ((-64, -64), True), ((-64, -65), False)):
        for four in ((*pair, 0, 0), (0, 0, *pair)):
            assert has_short_sums(np.array([four], np.int8)) == short
            cut = 255 * sum(pair) not in range(-(2**15), 2**15)
            assert cut == (not short)
    assert has_short_sums(np.array([(127, -128, 0, 127)], np.int8))
    assert not has_short_sums(np.array([(1, 2, 3, 4), (0, 0, 2, 127)], np.int8))
    assert has_short_sums(np.array([(0, 64, 65, 0)], np.int8)), "neighbours of two pairs are not added"


@pytest.mark.parametrize(
    ("name", "dtype", "instruction"),
    [
        ("x86-64-v2", "uint8", "pmaddwd"),
        ("x86-64-v3", "uint8", "vpmaddwd"),
        ("x86-64-v4", "uint8", "vpmaddwd"),
        ("alderlake", "uint8", "{vex}"),  # vpdpbusd in AVX2's form: AVX-512's is an illegal instruction there
        *((name, "uint8", "vpdpbusd") for name in ("cascadelake", "sapphirerapids", "znver4", "znver5")),
        ("cortex-a76", "int8", "sdot"),
        *((name, "int8", "sdot") for name in ("neoverse-n1", "neoverse-v1")),
        ("cortex-a72", "int8", "smull"),
        ("cortex-a53", "int8", "smull"),
    ],
)
def test_every_target_has_its_instruction(name: str, dtype: str, instruction: str) -> None:
    """Where LLVM has none to choose it would end the process, so it is asked before."""
    target = get_target(name)
    lanes = templates_of(target.tvm_target()).lanes() or 1
    assembly = [e.mod.inspect_source("asm") for e in built(product(target, 8, 32, 2 * lanes, dtype), target)]
    assert all(f"\t{instruction}" in text or f" {instruction}" in text for text in assembly[:1])
    assert all(target.dtypes["int8"] in text for text in assembly[:1]), "what doctor says of it"
    assert not any("maddubsw" in text for text in assembly)


@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
def test_short_sums_have_an_instruction_without_vnni(name: str) -> None:
    target = get_target(name)
    lanes = templates_of(target.tvm_target()).lanes() or 1
    (text, *_) = (
        e.mod.inspect_source("asm") for e in built(product(target, 8, 32, 2 * lanes, words="uint32"), target)
    )
    assert "maddubsw" in text and "sra" not in text, "bytes are not taken apart"


@pytest.mark.parametrize("name", ["znver4", "alderlake", "cortex-a76"])
def test_who_has_dots_of_bytes_has_one_kernel_for_all_weights(name: str) -> None:
    model, dense = short_weights(0), get_target(name)
    assert {kernel.signature.dtypes[1] for kernel in kernels_of(lower_onnx(model, dense)).values()} <= {
        "int32",
        "float32",
        "uint8",
    }


@pytest.mark.parametrize("kind", ["pointwise", "window", "flat"])
@pytest.mark.parametrize("zero", [0, 255])
def test_short_sums_change_no_bit(kind: str, zero: int, tmp_path: Path) -> None:
    """One channel more whose weights are too large has all of them computed in the exact form."""
    target = runnable("x86-64-v3")
    outputs = []
    for too_large in (False, True):
        model = short_weights(zero, kind, too_large=too_large)
        (used,) = [k for k in kernels_of(lower_onnx(model, target)).values() if k.signature.in_integers]
        assert used.signature.dtypes[1] == ("int32" if too_large else "uint32")
        module = ofa_tvm.load(ofa_tvm.compile(model, target, tmp_path / "m.so").path, target)
        shape = module.inputs[0].shape
        noise = np.random.default_rng(0).uniform(-9, 9, shape).astype(np.float32)
        outputs.append([module(x)[:, :23] for x in (np.full(shape, 99, np.float32), -noise * 9, noise)])
    for short, exact in zip(*outputs, strict=True):
        np.testing.assert_array_equal(short, exact)
    assert len(np.unique(outputs[0][2])) > 20


def short_weights(zero: int, kind: str = "pointwise", *, too_large: bool = False) -> onnx.ModelProto:
    """A quantised layer of 19 or 18 channels to 24, two neighbours' weights of which are 128 together."""
    g, rng = Graph(), np.random.default_rng(3)
    channels, side = (18, 1) if kind == "flat" else (19, 3 if kind == "window" else 1)
    shape = (5, channels) if kind == "flat" else (1, channels, 6, 5)
    real = Case.pair(g, g.input("x", *shape), _IN_SCALE, zero)
    weights = rng.choice([-64, -63, 0, 63, 64], (24, channels, side, side)).astype(np.int8)
    weights[23, 4:6] = 65 if too_large else 64
    if kind == "flat":
        weights = np.ascontiguousarray(weights[:, :, 0, 0].T)
    axis, ones = int(kind == "flat"), g.constant(np.full(24, 0.01))
    none = g.constant(np.zeros(24), "int8")
    weight = g.op("DequantizeLinear", g.constant(weights, "int8"), ones, none, axis=axis)
    y = g.op("MatMul", real, weight) if kind == "flat" else g.op("Conv", real, weight, pads=[side // 2] * 4)
    return g.model(Case.pair(g, y, 0.3, 128))


@dataclass(frozen=True)
class Case:
    """A quantised convolution: its shape, its numbers, and what follows it."""

    c_in: int = 16
    c_out: int = 24
    size: tuple[int, int] = (9, 7)
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    zero: int = 117
    activation: str = ""
    residual: bool = False
    seed: int = 0

    def model(self) -> onnx.ModelProto:
        rng, g = np.random.default_rng(self.seed), Graph()
        x = g.input("x", 1, self.c_in, *self.size)
        real = self.pair(g, x, _IN_SCALE, self.zero)
        weights = rng.integers(-127, 128, (self.c_out, self.c_in // self.groups, *self.kernel))
        scales = rng.uniform(0.5, 2.0, self.c_out) * 0.02
        stored = g.constant(weights, "int8")
        weight = g.op(
            "DequantizeLinear",
            stored,
            g.constant(scales),
            g.constant(np.zeros(self.c_out), "int8"),
            axis=0,
        )
        bias = g.constant(rng.standard_normal(self.c_out))
        y = g.op(
            "Conv", real, weight, bias, group=self.groups, pads=self.pads, strides=self.strides,
            dilations=self.dilations, kernel_shape=self.kernel,
        )  # fmt: skip
        y = g.op(self.activation, y) if self.activation else y
        y = self.pair(g, y, _OUT_SCALE, 0 if self.activation == "Relu" else self.zero)
        if self.residual:
            y = self.pair(g, g.op("Add", y, real), _SUM_SCALE, 128)
        return g.model(y)

    @staticmethod
    def pair(g: Graph, x: str, scale: float, zero: int) -> str:
        point = g.constant(zero, "uint8")
        q = g.op("QuantizeLinear", x, g.constant(scale), point)
        return str(g.op("DequantizeLinear", q, g.constant(scale), point))

    @property
    def step(self) -> float:
        """Of the output's quantisation."""
        return _SUM_SCALE if self.residual else _OUT_SCALE


def reference(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return np.asarray(onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0])


def compiled(case: Case, path: Path, target: Target) -> CompiledModule:
    return ofa_tvm.compile(case.model(), target, path)


def integer_kernels(module: CompiledModule) -> list[str]:
    return [use.name for use in module.kernels if use.signature.in_integers]


def assert_agrees(case: Case, folder: Path, target: Target) -> None:
    """Within one step of quantisation, and but for roundings at a tie equal."""
    x = np.random.default_rng(1).uniform(-4, 4, (1, case.c_in, *case.size)).astype(np.float32)
    module = compiled(case, folder / "m.so", target)
    got, expected = ofa_tvm.load(module.path, target)(x), reference(case.model(), x)
    steps = np.abs(np.rint((np.asarray(got) - expected) / case.step))
    assert steps.max() <= 1, case
    assert (steps > 0).mean() < 0.01, case
    assert len(integer_kernels(module)) == (case.groups in (1, case.c_in)), case


@st.composite
def cases(draw: st.DrawFn) -> Case:
    depthwise, grouped = draw(st.booleans()), draw(st.sampled_from([False, False, False, True]))
    c_in = draw(st.sampled_from([1, 3, 4, 6, 16, 24, 40]))
    groups = c_in if depthwise else 2 if grouped and c_in % 4 == 0 else 1
    c_out = c_in if depthwise else draw(st.sampled_from([2, 8, 10, 16, 24, 40]))
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (5, 5), (7, 7), (3, 1), (1, 5), (2, 2)]))
    pads = draw(st.sampled_from([(0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 1, 0), (3, 2, 3, 2)]))
    dilation = draw(st.sampled_from([1, 1, 2]))
    needed = [dilation * (k - 1) + 1 - pads[i] - pads[i + 2] for i, k in enumerate(kernel)]
    size = tuple(max(n, draw(st.integers(1, 11))) for n in needed)
    return Case(
        c_in, c_out, size, kernel, draw(st.sampled_from([(1, 1), (2, 2), (2, 1)])), pads,
        (dilation, dilation), groups, draw(st.integers(0, 255)),
        draw(st.sampled_from(["", "Relu", "HardSwish"])), residual=False, seed=draw(st.integers(0, 99)),
    )  # fmt: skip


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(case=cases())
def test_convolutions_of_every_shape_agree(case: Case, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert_agrees(case, tmp_path_factory.mktemp("case"), get_target("x86"))


FEW = {
    "pointwise": Case(24, 40, (6, 5), (1, 1), pads=(0, 0, 0, 0), activation="HardSwish"),
    "stem": Case(3, 16, (13, 12), strides=(2, 2), activation="HardSwish"),
    "depthwise": Case(40, 40, (9, 8), (5, 5), (2, 2), (2, 2, 2, 2), groups=40, activation="Relu"),
    "window": Case(10, 24, (8, 8), zero=3),
    "residual": Case(24, 24, (6, 6), (1, 1), pads=(0, 0, 0, 0), residual=True),
}


@pytest.mark.parametrize("case", FEW.values(), ids=FEW)
def test_kinds_of_convolutions_agree(case: Case, tmp_path: Path) -> None:
    assert_agrees(case, tmp_path, get_target("x86"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("case", FEW.values(), ids=FEW)
def test_other_instruction_sets_agree(case: Case, name: str, tmp_path: Path) -> None:
    assert_agrees(case, tmp_path, runnable(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cortex-a76", "cortex-a72"])
@pytest.mark.parametrize("kind", ["stem", "depthwise", "residual"])
def test_emulated_arms_agree(kind: str, name: str, tmp_path: Path) -> None:
    assert_agrees(FEW[kind], tmp_path, arm_target(name))


@needs_opencl
def test_an_opencl_device_agrees(tmp_path: Path) -> None:
    assert_agrees(FEW["stem"], tmp_path, get_target("opencl"))


def test_one_kernel_does_it_all(tmp_path: Path) -> None:
    """Sum, bias, activation, rounding, residual addition: nothing but bytes lies between kernels."""
    module = compiled(FEW["residual"], tmp_path / "m.so", get_target("x86"))
    (sums,) = (use.signature for use in module.kernels if use.signature.in_integers)
    assert sums.operators.count("quantize") == 2  # what the convolution makes, and the sum with the shortcut
    maps = [(shape, dtype) for shape, dtype in zip(sums.shapes, sums.dtypes, strict=True) if len(shape) == 2]
    assert ((36, 24), "uint8") in maps
    others = [use.signature for use in module.kernels if not use.signature.in_integers]
    assert all("uint8" in other.dtypes or "transpose" in other.operators for other in others)


@pytest.mark.slow
def test_maps_that_leave_the_network_as_integers_stay_unsigned(tmp_path: Path) -> None:
    """On ARM they are stored as int8 inside."""
    g = Graph()
    x = g.input("x", 1, 8, 6, 6)
    scheme = g.constant(0.05), g.constant(100, "uint8")
    q = g.op("QuantizeLinear", x, *scheme)
    pooled = g.op("MaxPool", q, kernel_shape=[2, 2], strides=[2, 2])
    weight = g.op(
        "DequantizeLinear", g.constant(np.ones((8, 8, 1, 1)), "int8"), g.constant(0.01), g.constant(0, "int8")
    )
    y = g.op("Conv", g.op("DequantizeLinear", pooled, *scheme), weight)
    model = g.model(pooled, g.op("QuantizeLinear", y, *scheme))
    data = np.random.default_rng(0).uniform(-8, 8, (1, 8, 6, 6)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for target in (get_target("x86"), arm_target("cortex-a76")):
        ofa_tvm.compile(model, target, tmp_path / "m.so")
        for got, expected in zip(
            ofa_tvm.load(tmp_path / "m.so", target)(data), session.run(None, {"x": data}), strict=True
        ):
            assert got.dtype == np.uint8
            assert np.abs(got.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("name", ["x86", "cortex-a76"])
def test_another_calibration_has_the_same_kernels(name: str) -> None:
    """Scales and zero points are parameters, so that what was tuned for one network serves the next."""
    kinds = ("depthwise", "stem", "residual", "window")
    found = [
        {
            kernel.key
            for kind in kinds
            for kernel in kernels_of(
                lower_onnx(dataclasses.replace(FEW[kind], zero=zero, seed=seed).model(), get_target(name))
            ).values()
        }
        for zero, seed in ((117, 0), (45, 1))
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["x86", "cortex-a76"])
def test_bytes_at_the_edges(name: str, tmp_path: Path) -> None:
    """Zero points along the last axis, and conversions to int64, whose kernels have long indices."""
    g = Graph()
    x = g.input("x", 5, 16)
    along = g.constant(np.linspace(0.02, 0.05, 16)), g.constant(np.arange(16) * 7, "uint8")
    plain = g.op("QuantizeLinear", x, g.constant(0.03), g.constant(100, "uint8"))
    picture = g.op("Reshape", plain, g.constant(np.array([1, 5, 4, 4]), "int64"))
    model = g.model(
        g.op("QuantizeLinear", x, *along, axis=1),
        g.op("Cast", g.op("MaxPool", picture, kernel_shape=[2, 2]), to=onnx.TensorProto.INT64),
        g.op("Add", g.op("Cast", plain, to=onnx.TensorProto.INT64), g.constant(np.array(2**40), "int64")),
    )
    data = np.random.default_rng(0).uniform(-5, 5, (5, 16)).astype(np.float32)
    target = arm_target(name) if name.startswith("cortex") else get_target(name)
    module = ofa_tvm.compile(model, target, tmp_path / "m.so")
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": data})
    for got, want in zip(ofa_tvm.load(module.path, target)(data), expected, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


def test_no_word_is_read_beyond_a_map() -> None:
    """ARM's dots take words from vectors of 16 bytes, where those lie in the map: not of three rows of 8."""
    target = get_target("cortex-a76")
    for rows, vectors in ((3, False), (4, True)):
        text = built(product(target, rows, 8, 16, "int8"), target)[0].mod.inspect_source("ll")
        assert ("load <4 x i32>" in text) == vectors, rows

"""bfloat16 as a setting: operators to the last bit, products by every instruction, networks near float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
import tvm
from emulated import arm_target
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_models import Builder, Graph, mlp, random_inputs, reference, residual_network, swishes
from places import runnable
from tvm import te, tirx
from tvm.s_tir import Schedule
from word_products import built, word_product

import ofa_tvm
from ofa_tvm.agreement import relative_difference, tolerance
from ofa_tvm.compiler.build import kernels_of, lower_onnx
from ofa_tvm.compiler.code import kernel_code
from ofa_tvm.compiler.final import final_form
from ofa_tvm.compiler.kernels import Kernel
from ofa_tvm.compiler.pairs import dot2, nearest, pairs, widened
from ofa_tvm.compiler.templates import templates_of
from ofa_tvm.errors import UserError
from ofa_tvm.export import to_onnx
from ofa_tvm.number_formats import bfloat16_products
from ofa_tvm.targets import Target, get_target
from ofa_tvm.targets.tvm_target import cpu_features

X86 = ["x86", "x86-64-v2", "x86-64-v3", "x86-64-v4"]
ONE = 0x3F800000  # bits of 1.0
SIGN = 1 << 31


def rounded(values: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """To bfloat16 and back."""
    return np.asarray(values, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)


def multiplies(target: Target) -> bool:
    return bool(bfloat16_products(cpu_features(target.tvm_target())))


def bit_patterns() -> npt.NDArray[np.float32]:
    """Ties and their neighbours at every exponent, both signs; zeros, denormals, infinities, NaN."""
    exponents = np.arange(256, dtype=np.uint32) << 23
    fractions = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x17FFF, 0x18000, 0x18001, 0x7F7FFF])
    bits = (exponents[:, np.newaxis] | fractions.astype(np.uint32)).ravel()
    bits = np.concatenate([bits, [0x7F800001, 0x7FFFFFFF, 0x007FFFFF]])  # NaN of the lower half only
    bits = np.concatenate([bits, bits | SIGN]).astype(np.uint32)
    return np.resize(bits, -(-bits.size // 64) * 64).view(np.float32)


@pytest.mark.parametrize("lanes", [1, 4, 8, 16, 32])
@pytest.mark.parametrize("name", X86)
def test_every_value_is_rounded_to_the_nearest(name: str, lanes: int) -> None:
    target, values = runnable(name), bit_patterns()
    data = te.placeholder(values.shape, "float32", name="data")
    stored = te.compute(values.shape, lambda i: tirx.reinterpret("bfloat16", nearest(data[i])), name="stored")
    sch = Schedule(tvm.IRModule({"main": te.create_prim_func([data, stored])}))
    (loop,) = sch.get_loops(sch.get_sblock("stored"))
    if lanes > 1:
        sch.vectorize(sch.split(loop, [None, lanes])[1])
    tensors = tvm.runtime.tensor(values), tvm.runtime.tensor(np.zeros(values.shape, ml_dtypes.bfloat16))
    kernel_code(final_form(sch.mod, target.tvm_target()), target.tvm_target())["main"](*tensors)
    with np.errstate(invalid="ignore"):  # NaN
        expected = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    got = tensors[1].numpy().view(np.uint16)
    numbers = ~np.isnan(values)
    if multiplies(target):  # the instruction takes denormals for zero
        denormal = np.abs(values) < np.finfo(np.float32).tiny
        np.testing.assert_array_equal(got[denormal], (values[denormal].view(np.uint32) & SIGN) >> 16)
        numbers &= ~denormal
    np.testing.assert_array_equal(got[numbers], expected[numbers])
    assert np.isnan(tensors[1].numpy().astype(np.float32)[np.isnan(values)]).all()


def test_what_was_bfloat16_is_not_rounded_again() -> None:
    data = te.placeholder((64,), "bfloat16", name="data")

    def value(i: tirx.Var) -> tirx.Expr:
        wide = widened(tirx.reinterpret("uint16", data[i]))
        return nearest(tirx.if_then_else(i < 60, wide, tirx.const(0, "float32")))

    mod = tvm.IRModule({"main": te.create_prim_func([data, te.compute((64,), value, name="again")])})
    text = final_form(mod, get_target("x86").tvm_target()).script()
    assert "reinterpret" in text and "widened(" not in text and "nearest(" not in text


def product(target: Target, rows: int, depth: int, width: int) -> tvm.IRModule:
    """The product of bfloat16 (rows, depth) and panels of weights."""

    def dot(two: Sequence[tirx.Expr], weights: tirx.Expr) -> tirx.Expr:
        return dot2([tirx.reinterpret("uint16", value) for value in two], weights)

    return word_product(target, (rows, depth, width), "bfloat16", 2, dot)


@pytest.mark.parametrize("name", X86)
def test_sums_of_products(name: str, rng: np.random.Generator) -> None:
    """Of whole numbers, which are exact, beside infinities and NaN, which reach their own rows only."""
    target = runnable(name)
    lanes = templates_of(target.tvm_target()).lanes() or 1
    left = rng.integers(-128, 129, (6, 48)).astype(np.float32)
    weights = rng.integers(-128, 129, (48, 3 * lanes)).astype(np.float32)
    left[1, 7], left[2, 8], left[3, 0], weights[[0, 7, 8]] = np.inf, -np.inf, np.nan, 1
    panels = pairs(weights.reshape(24, 2, 3, lanes).transpose(2, 0, 3, 1))
    expected = left.astype(np.float64) @ weights
    for executable in built(product(target, 6, 48, 3 * lanes), target):
        arrays = [left.astype(ml_dtypes.bfloat16), panels, np.zeros(expected.shape, np.float32)]
        tensors = [tvm.runtime.tensor(array) for array in arrays]
        executable["main"](*tensors)
        np.testing.assert_array_equal(tensors[-1].numpy(), expected)


@pytest.mark.parametrize(
    ("name", "instruction"),
    [
        *((name, "vdpbf16ps") for name in ("sapphirerapids", "znver4", "znver5")),
        ("neoverse-v1", "bfdot"),
        *((name, "") for name in ("icelake-server", "alderlake", "x86-64-v2", "cortex-a76", "cortex-a53")),
    ],
)
def test_every_target_has_its_instruction(name: str, instruction: str) -> None:
    """Where LLVM has none to choose it would end the process, so it is asked before."""
    target = get_target(name)
    lanes = templates_of(target.tvm_target()).lanes() or 1
    assembly = [e.mod.inspect_source("asm") for e in built(product(target, 8, 32, 2 * lanes), target)]
    assert all(f"\t{instruction}" in text for text in assembly)
    assert target.dtypes["bfloat16"] == (instruction or "storage"), "what doctor says of it"
    assert not any("ofa_tvm_" in text for text in assembly), "all is inlined"


def kernels(model: onnx.ModelProto, target: str = "x86") -> list[Kernel]:
    return list(kernels_of(lower_onnx(model, get_target(target).with_dtype("bfloat16"))).values())


def test_maps_between_products_are_bfloat16_and_those_at_the_edges_float32() -> None:
    found = kernels(residual_network(32))
    products = [kernel.signature for kernel in found if kernel.signature.has_product]
    assert products[0].dtypes[0] == products[-1].dtypes[-1] == "float32"
    assert products[0].dtypes[-1] == products[-1].dtypes[0] == "bfloat16"
    assert {dtype for s in products[1:-1] for dtype in (s.dtypes[0], s.dtypes[-1])} == {"bfloat16"}
    assert {signature.dtypes[1] for signature in products[1:-1]} == {"int32"}, "pairs of weights"


def test_what_is_no_kernel_reads_float32(tmp_path: Path) -> None:
    """Sorting is a call of TVM's runtime."""
    g = Graph()
    y = g.conv(g.input("x", 1, 16, 6, 6), 16, 24, 1)
    values, _ = g.op("TopK", y, g.constant([3], "int64"), axis=-1, outputs=2)
    model = g.model(g.conv(y, 24, 16, 1), values)
    moved = [kernel.signature.dtypes for kernel in kernels(model) if "transpose" in kernel.signature.kind]
    assert ("bfloat16", "float32") in moved
    arrays = random_inputs(model)
    ofa_tvm.compile(model, get_target("x86"), tmp_path / "m.so", dtype="bfloat16")
    for got, expected in zip(ofa_tvm.load(tmp_path / "m.so")(*arrays), reference(model, arrays), strict=True):
        assert relative_difference(expected, np.asarray(got)) < 1e-2


def test_kernels_of_several_results_keep_theirs(tmp_path: Path) -> None:
    """Parts of a map, a sum that is read twice, and a kernel that is called on both kinds of maps."""
    g = Graph()
    y = g.op("Relu", g.conv(g.input("x", 1, 16, 6, 6), 16, 32, 1))
    a, b = g.op("Split", y, axis=1, num_outputs=2, outputs=2)
    both = g.op("Add", g.op("Sigmoid", a), b)
    z = g.conv(g.op("Concat", both, g.op("Mul", both, a), axis=1), 32, 16, 3)
    model = g.model(g.op("Sigmoid", z), g.op("Softmax", both, axis=1))
    arrays = random_inputs(model)
    ofa_tvm.compile(model, get_target("x86"), tmp_path / "m.so", dtype="bfloat16")
    for got, expected in zip(ofa_tvm.load(tmp_path / "m.so")(*arrays), reference(model, arrays), strict=True):
        assert relative_difference(expected, np.asarray(got)) < 2e-2


def chain(seed: int = 0) -> Graph:
    """Two products, whose weights and map in between are rounded and nothing else."""
    g = Graph(seed)
    y = g.op("Relu", g.conv(g.input("x", 2, 37, 5, 3), 37, 41, 1))
    g.finish(g.conv(y, 41, 24, 1))
    return g


@pytest.mark.parametrize("name", X86)
def test_is_what_the_format_promises(name: str, tmp_path: Path) -> None:
    """Products of rounded factors, added in float32; here odd numbers of channels."""
    model = chain().finished()
    (x,) = random_inputs(model)
    ofa_tvm.compile(model, runnable(name), tmp_path / "m.so", dtype="bfloat16")
    run_ = ofa_tvm.load(tmp_path / "m.so")
    w1, b1, w2, b2 = (onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    first = (
        np.einsum("nihw,oi->nohw", rounded(x).astype(np.float64), rounded(w1[..., 0, 0])) + b1[:, None, None]
    )
    second = np.einsum(
        "nihw,oi->nohw", rounded(np.maximum(first, 0)).astype(np.float64), rounded(w2[..., 0, 0])
    )
    expected = second + b2[:, None, None]
    assert run_.metadata["target"]["dtype"] == "bfloat16"
    assert run_(x).dtype == np.float32
    # Sums may fall to the other side of a tie: one map's value by a step of 2^-8.
    assert relative_difference(expected, run_(x)) < 1e-3
    assert relative_difference(reference(model, [x])[0], run_(x)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("build", [mlp, residual_network, swishes], ids=lambda build: build.__name__)
def test_networks_are_close_to_float32(build: Builder, tmp_path: Path) -> None:
    model = build()
    ofa_tvm.compile(model, get_target("x86"), tmp_path / "m.so", dtype="bfloat16")
    arrays = random_inputs(model)
    got, expected = ofa_tvm.load(tmp_path / "m.so")(*arrays), reference(model, arrays)[0]
    assert 0 < relative_difference(expected, np.asarray(got)) < 2e-2


def agrees(model: onnx.ModelProto, folder: Path, target: Target, most: float = 2e-2) -> None:
    ofa_tvm.compile(model, target, folder / "m.so", dtype="bfloat16")
    arrays = random_inputs(model)
    got = np.asarray(ofa_tvm.load(folder / "m.so", target)(*arrays))
    assert relative_difference(reference(model, arrays)[0], got) < most


@dataclass(frozen=True)
class Case:
    """A convolution between others, so that what it reads and makes lies in memory as bfloat16."""

    c_in: int = 32
    c_out: int = 24
    size: tuple[int, int] = (9, 7)
    k: int = 3
    stride: int = 1
    groups: int = 1
    dilation: int = 1
    batch: int = 1
    padded: bool = True
    activation: str = "HardSwish"
    shortcut: bool = False
    seed: int = 0

    def model(self) -> onnx.ModelProto:
        g = Graph(self.seed)
        x = g.op("Relu", g.conv(g.input("x", self.batch, 5, *self.size), 5, self.c_in, 1))
        pad = self.dilation * (self.k // 2) * self.padded
        window = {"strides": [self.stride] * 2, "pads": [pad] * 4, "dilations": [self.dilation] * 2}
        y = g.conv(x, self.c_in, self.c_out, self.k, self.groups, **window)
        if self.shortcut:
            y = g.op("Add", y, x)
        y = g.op(self.activation, y) if self.activation else y
        return g.model(g.conv(y, self.c_out, 16, 1))


FEW = {
    "dense": Case(),
    "odd channels": Case(19, 33, stride=2, activation="Relu"),
    "few channels": Case(3, 16, size=(12, 10), stride=2),
    "depthwise": Case(24, 24, k=5, groups=24),
    "depthwise, large": Case(20, 20, size=(16, 30), k=7, groups=20, batch=2),
    "depthwise, stride": Case(24, 24, size=(14, 14), groups=24, stride=2),
    "depthwise, dilation": Case(24, 24, size=(14, 11), groups=24, dilation=2),
    "depthwise, not padded": Case(24, 24, k=4, groups=24, padded=False),
    "grouped": Case(32, 48, groups=4, activation=""),
    "shortcut": Case(21, 21, k=1, batch=3, shortcut=True),
    "not padded": Case(16, 16, padded=False),
}


def assert_close(model: onnx.ModelProto, target: Target, folder: Path) -> None:
    """Each rounding moves a value by up to 2^-9 of itself; over three layers that makes up to 2 %."""
    ofa_tvm.compile(model, target, folder / "m.so", dtype="bfloat16")
    arrays = random_inputs(model)
    got = np.asarray(ofa_tvm.load(folder / "m.so", target)(*arrays))
    assert relative_difference(reference(model, arrays)[0], got) < 2e-2


@pytest.mark.parametrize("case", FEW.values(), ids=FEW)
def test_kinds_of_convolutions_agree(case: Case, tmp_path: Path) -> None:
    assert_close(case.model(), get_target("x86"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("case", FEW.values(), ids=FEW)
def test_other_instruction_sets_agree(case: Case, name: str, tmp_path: Path) -> None:
    assert_close(case.model(), runnable(name), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dense", "odd channels", "depthwise", "shortcut"])
@pytest.mark.parametrize("name", ["neoverse-v1", "cortex-a53"])
def test_emulated_arms_agree(name: str, kind: str, tmp_path: Path) -> None:
    arm_target()  # skips
    target = get_target(name)
    assert_close(FEW[kind].model(), target, tmp_path)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    depthwise, shortcut = draw(st.booleans()), draw(st.booleans())
    c_in = draw(st.integers(1, 70))
    return Case(
        c_in,
        c_in if depthwise or shortcut else draw(st.integers(1, 70)),
        (draw(st.integers(5, 20)), draw(st.integers(5, 20))),
        draw(st.sampled_from([1, 3, 5])),
        1 if shortcut else draw(st.integers(1, 2)),
        c_in if depthwise else 1,
        draw(st.integers(1, 2)),
        draw(st.integers(1, 2)),
        shortcut or draw(st.booleans()),
        draw(st.sampled_from(["", "Relu", "HardSwish"])),
        shortcut,
        draw(st.integers(0, 99)),
    )


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(case=cases())
def test_convolutions_of_every_shape_agree(case: Case, tmp_path_factory: pytest.TempPathFactory) -> None:
    taps = case.dilation * (case.k - 1) + 1
    if not case.padded and taps > min(case.size):
        case = replace(case, padded=True)
    assert_close(case.model(), get_target("x86"), tmp_path_factory.mktemp("case"))


@pytest.mark.parametrize(
    "case", [Case(19, 33, k=1), Case(16, 16), *(Case(24, 24, k=k, groups=24) for k in (3, 5, 7))]
)
def test_not_a_number_and_infinity_pass(case: Case, tmp_path: Path, rng: np.random.Generator) -> None:
    """A bad pixel reaches the same outputs as in float32, and no others: padding and zeros hold it up."""
    model = replace(case, activation="Relu", size=(13, 12)).model()
    ofa_tvm.compile(model, get_target("x86"), tmp_path / "m.so", dtype="bfloat16")
    x = rng.standard_normal((1, 5, 13, 12)).astype(np.float32)
    x[0, 2, 0, 3], x[0, 1, 12, 11] = np.nan, np.inf
    got, expected = np.asarray(ofa_tvm.load(tmp_path / "m.so")(x)), reference(model, [x])[0]
    finite = np.isfinite(expected)
    assert not finite.all()
    np.testing.assert_array_equal(np.isfinite(got), finite)
    assert np.abs(got[finite] - expected[finite]).max() < 2e-2 * np.abs(expected[finite]).max()


def test_weights_of_products_take_half_the_room(tmp_path: Path) -> None:
    sizes = {}
    g = Graph()
    model = g.model(g.op("MatMul", g.input("x", 1, 1024), g.weight(1024, 1024)))
    for dtype in ("float32", "bfloat16"):
        ofa_tvm.compile(model, get_target("x86-64-v3"), tmp_path / "m.so", dtype=dtype)
        sizes[dtype] = (tmp_path / "m.so").stat().st_size
    assert abs(sizes["float32"] - sizes["bfloat16"] - 2 * 1024 * 1024) < 1 << 16


@pytest.mark.parametrize("name", ["opencl", "cuda"])
def test_devices_refuse_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bfloat16 is for CPUs; here choose another --dtype"):
        ofa_tvm.compile(mlp(), get_target(name), tmp_path / "m.so", dtype="bfloat16")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ofa_mbv3_w1.0", "ofa_proxyless_w1.3", "ofa_resnet50", "ofa_digits"])
def test_random_subnets_are_exact_enough_to_ship(name: str, tmp_path: Path) -> None:
    """Of random weights, which is the worst case: no class stands out."""
    space = ofa_tvm.get_space(name)
    torch.manual_seed(0)
    net = ofa_tvm.build_supernet(space, n_classes=10).eval()
    rng = np.random.default_rng(0)
    for batch in (1, 2):
        arch = space.sample(rng)
        model = to_onnx(net.extract(arch), min(arch.r, 96), batch)
        ofa_tvm.compile(model, get_target("x86"), tmp_path / "m.so", dtype="bfloat16")
        (image,) = random_inputs(model)
        got, (expected,) = np.asarray(ofa_tvm.load(tmp_path / "m.so")(image)), reference(model, [image])
        assert 0 < relative_difference(expected, got) < tolerance("ship", "bfloat16")

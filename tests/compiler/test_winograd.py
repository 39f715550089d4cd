"""3 x 3 convolutions by Winograd's filtering: right at every size and border, taken only where they pay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from emulated import arm_target
from onnx_models import Graph, random_inputs, reference
from single_kernels import convolution, kernels

import ofa_tvm
from ofa_tvm.targets import Target, get_target

CASES = [  # batch, channels in and out, lines, columns, padding, residual
    (1, 32, 32, 12, 12, (1, 1, 1, 1), True),
    (1, 32, 40, 13, 10, (1, 1, 1, 1), False),
    (1, 40, 32, 9, 15, (0, 0, 0, 0), False),
    (2, 32, 32, 11, 14, (1, 0, 0, 1), True),
    (1, 36, 33, 14, 9, (0, 1, 1, 0), False),
    (1, 32, 64, 10, 12, (2, 2, 2, 2), False),
    (1, 64, 64, 7, 7, (1, 1, 1, 1), False),
    (1, 64, 64, 60, 59, (1, 1, 1, 1), True),  # enough for two threads
]


def network() -> Graph:
    """Every case with bias and ReLU, some with a shortcut; each fed by a convolution of one tap."""
    g, outputs = Graph(), []
    for number, (batch, c_in, c_out, height, width, pads, residual) in enumerate(CASES):
        x = g.op("Relu", g.conv(g.input(f"x{number}", batch, c_in, height, width), c_in, c_in, 1))
        y = g.conv(x, c_in, c_out, 3, pads=pads)
        if residual:
            lines, columns = height + pads[0] + pads[2] - 2, width + pads[1] + pads[3] - 2
            y = g.op("Add", y, g.input(f"z{number}", batch, c_out, lines, columns))
        outputs.append(g.op("Relu", y))
    g.finish(*outputs)
    return g


def target_of(name: str) -> Target:
    return arm_target(name) if name.startswith("cortex") else get_target(name)


@pytest.mark.slow
@pytest.mark.usefixtures("all_cpus")
@pytest.mark.parametrize(("name", "threads"), [("x86-64-v3", 1), ("x86-64-v3", 2), ("cortex-a72", 1)])
def test_every_border_and_odd_size(name: str, threads: int, tmp_path: Path) -> None:
    model, target = network().finished(), target_of(name).with_threads(threads)
    made = ofa_tvm.compile(model, target, tmp_path / "n.so")
    found = [use.calls for use in made.kernels if use.name.startswith("winograd-output")]
    assert sum(found) == len(CASES)
    inputs = random_inputs(model)
    outputs = ofa_tvm.load(tmp_path / "n.so", target)(*inputs)
    for got, expected in zip(outputs, reference(model, inputs), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_it_is_as_exact_as_a_sum(tmp_path: Path) -> None:
    """Behind a mean that is large beside what varies, too."""
    graph = convolution(64, 64, 16, 16, 3)
    model, target = graph.finished(), get_target("x86-64-v3")
    made = ofa_tvm.compile(model, target, tmp_path / "n.so")
    assert any(use.name.startswith("winograd-input") for use in made.kernels)
    (weight,) = (onnx.numpy_helper.to_array(value) for value in model.graph.initializer)
    x = 100 + np.random.default_rng(0).standard_normal((1, 64, 16, 16)).astype(np.float32)
    exact = torch.conv2d(torch.tensor(x).double(), torch.tensor(weight).double(), padding=1).numpy()
    ours = np.abs(ofa_tvm.load(tmp_path / "n.so")(x) - exact).max()
    assert ours <= 2 * np.abs(reference(model, [x])[0] - exact).max()


def test_what_is_not_finite_gives_the_same_or_nan(tmp_path: Path) -> None:
    graph = convolution(32, 32, 14, 14, 3, epilogue="bias relu")
    ofa_tvm.compile(graph.finished(), get_target("x86-64-v3"), tmp_path / "n.so")
    run = ofa_tvm.load(tmp_path / "n.so")
    x = np.random.default_rng(0).standard_normal((1, 32, 14, 14)).astype(np.float32)
    for bad in (np.nan, np.inf, -np.inf):
        x[0, 5, 6, 9] = bad
        got, expected = run(x), reference(graph.finished(), [x])[0]
        unknown = np.isnan(got)
        assert (unknown | ~np.isnan(expected)).all()
        np.testing.assert_allclose(got[~unknown], expected[~unknown], rtol=0, atol=1e-5)
        tiles = np.zeros((14, 14), bool)
        tiles[4:8, 8:12] = True  # the four that read it
        assert not unknown[0, :, ~tiles].any()


@pytest.mark.parametrize(
    ("graph", "target"),
    [
        (convolution(64, 64, 14, 14, 3, 2), get_target("x86-64-v3")),
        (convolution(64, 64, 14, 14, 5), get_target("x86-64-v3")),
        (convolution(8, 8, 14, 14, 3), get_target("x86-64-v3")),
        (convolution(3, 64, 32, 32, 3), get_target("x86-64-v3")),
        (convolution(512, 512, 2, 2, 3), get_target("x86-64-v3")),
        (convolution(64, 64, 14, 14, 3, groups=64), get_target("x86-64-v3")),
        (convolution(64, 64, 14, 14, 3), get_target("x86-64-v3").with_dtype("float16")),
        (convolution(64, 64, 14, 14, 3), get_target("opencl-pocl")),
    ],
    ids=["stride", "5x5", "few channels", "colours", "small map", "depthwise", "half precision", "GPU"],
)
def test_other_convolutions_are_plain(graph: Graph, target: Target) -> None:
    names = [kernel.signature.kind for kernel in kernels(graph, target)]
    assert names and not any("winograd" in name for name in names)

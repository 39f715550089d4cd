"""Depthwise convolution: its own gradients against PyTorch's in float64."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ofa_tvm.supernet import depthwise
from ofa_tvm.supernet.depthwise import DepthwiseConv2d, depthwise_conv2d

SHAPES = st.tuples(
    st.sampled_from([0, 1, 3, 4, 5, 9, 70]),  # images: none, and up to several chunks
    st.integers(1, 70),  # channels: whole vectors, and a rest
    st.integers(1, 20),
    st.integers(1, 20),
    st.sampled_from([3, 5, 7]),
    st.sampled_from([1, 2]),
)


def operands(n: int, c: int, h: int, w: int, kernel: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, c, h, w, generator=generator).contiguous(memory_format=torch.channels_last)
    return x.requires_grad_(), torch.randn(c, 1, kernel, kernel, generator=generator).requires_grad_()


def gradients(y: Tensor, x: Tensor, weight: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    chosen = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed)).to(y.dtype)
    of_x, of_weight = torch.autograd.grad((y * chosen).sum(), (x, weight))
    return of_x, of_weight


def exact(x: Tensor, weight: Tensor, stride: int) -> tuple[Tensor, Tensor, Tensor]:
    x, weight = (t.detach().double().requires_grad_() for t in (x, weight))
    y = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=x.shape[1])
    return x, weight, y


def assert_near(found: Tensor, expected: Tensor) -> None:
    largest = float(expected.detach().abs().max()) if expected.numel() else 1.0
    np.testing.assert_allclose(found.detach(), expected.detach(), rtol=0, atol=1e-5 * max(largest, 1e-3))


def test_compiled_here() -> None:
    compute, problem = depthwise.weight_gradient()
    assert compute is not None, problem


@settings(max_examples=150, deadline=None)
@given(SHAPES, st.integers(0, 1000))
def test_gradients(shape: tuple[int, int, int, int, int, int], seed: int) -> None:
    *sizes, kernel, stride = shape
    x, weight = operands(*sizes, kernel, seed)
    y = depthwise_conv2d(x, weight, stride)
    assert "DepthwiseConv2d" in type(y.grad_fn).__name__
    x64, weight64, y64 = exact(x, weight, stride)
    assert_near(y, y64)
    for found, expected in zip(
        gradients(y, x, weight, seed), gradients(y64, x64, weight64, seed), strict=True
    ):
        assert_near(found, expected)


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_threads_do_not_matter(kernel: int) -> None:
    x, weight = operands(11, 40, 13, 10, kernel, 0)
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(gradients(depthwise_conv2d(x, weight, 1), x, weight, 0)[1])
    finally:
        torch.set_num_threads(before)
    if kernel >= 5:  # below, the gradient is PyTorch's
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])
    assert_near(found[1], found[0])


@pytest.mark.parametrize("only", ["input", "weight"])
@pytest.mark.parametrize("stride", [1, 2])
def test_one_gradient_only(only: str, stride: int) -> None:
    x, weight = operands(3, 24, 9, 9, 5, 1)
    frozen, trained = (weight, x) if only == "input" else (x, weight)
    frozen.requires_grad_(False)
    y = depthwise_conv2d(x, weight, stride)
    (found,) = torch.autograd.grad(y.sum(), (trained,))
    x64, weight64, y64 = exact(x, weight, stride)
    (expected,) = torch.autograd.grad(y64.sum(), (x64 if only == "input" else weight64,))
    assert_near(found, expected)


def test_a_gradient_that_is_not_dense() -> None:
    x, weight = operands(2, 16, 8, 8, 7, 2)
    y = depthwise_conv2d(x, weight, 1)
    found = torch.autograd.grad(y.mean((2, 3)).sum(), (x, weight))  # its gradient is expanded, stride 0
    x64, weight64, y64 = exact(x, weight, 1)
    expected = torch.autograd.grad(y64.mean((2, 3)).sum(), (x64, weight64))
    for a, b in zip(found, expected, strict=True):
        assert_near(a, b)


def grad_name(y: Tensor) -> str:
    return type(y.grad_fn).__name__


def test_other_types_and_layouts_are_pytorchs() -> None:
    x, weight = operands(2, 16, 8, 8, 5, 3)
    assert "DepthwiseConv2d" in grad_name(depthwise_conv2d(x, weight, 1))
    assert "DepthwiseConv2d" not in grad_name(depthwise_conv2d(x.contiguous(), weight, 1))
    assert "DepthwiseConv2d" not in grad_name(depthwise_conv2d(x.double(), weight.double(), 1))
    with torch.autocast("cpu", torch.bfloat16):
        y = depthwise_conv2d(x, weight, 1)
    assert y.dtype == torch.bfloat16
    traced = torch.jit.trace(lambda a, b: depthwise_conv2d(a, b, 1), (x, weight))
    assert "DepthwiseConv2d" not in str(traced.graph)
    with torch.no_grad():
        assert torch.equal(depthwise_conv2d(x, weight, 1), F.conv2d(x, weight, None, 1, 2, groups=16))


def test_without_a_compiler_pytorch_does_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    x, weight = operands(2, 16, 8, 8, 5, 4)
    ours = gradients(depthwise_conv2d(x, weight, 1), x, weight, 4)
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    monkeypatch.setitem(sys.modules, "ziglang", None)
    monkeypatch.setenv("OFA_TVM_CACHE", os.fspath(tmp_path))
    depthwise.weight_gradient.cache_clear()
    try:
        compute, problem = depthwise.weight_gradient()
        assert compute is None
        assert "C++ compiler" in problem
        assert "apt-get install g++" in problem
        y = depthwise_conv2d(x, weight, 1)
        assert "DepthwiseConv2d" not in grad_name(y)
        for found, expected in zip(gradients(y, x, weight, 4), ours, strict=True):
            assert_near(found, expected)
    finally:
        depthwise.weight_gradient.cache_clear()


def test_the_module_is_a_convolution() -> None:
    torch.manual_seed(0)
    layer = DepthwiseConv2d(24, 5, 2).to(memory_format=torch.channels_last)
    plain = torch.nn.Conv2d(24, 24, 5, 2, 2, groups=24, bias=False)
    plain.load_state_dict(layer.state_dict())
    x, _ = operands(2, 24, 11, 11, 5, 5)
    assert_near(layer(x), plain(x))

"""Single kernels of every class and many shapes, and running them with and without a schedule."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tvm
from onnx_models import Graph

from ofa_tvm.compiler.build import kernels_of, lower_onnx
from ofa_tvm.compiler.kernels import Kernel, shapes
from ofa_tvm.targets import Target


def convolution(
    c_in: int,
    c_out: int,
    height: int,
    width: int,
    k: int = 1,
    stride: int = 1,
    *,
    groups: int = 1,
    epilogue: str = "",
    batch: int = 1,
    pad: bool = True,
) -> Graph:
    """One convolution with an epilogue of the words `bias`, `relu`, `hswish`, `residual`, in this order."""
    g = Graph()
    x = g.input("x", batch, c_in, height, width)
    y = g.conv(
        x, c_in, c_out, k, groups, bias="bias" in epilogue, strides=[stride] * 2, pads=[k // 2 * pad] * 4
    )
    if "relu" in epilogue:
        y = g.op("Relu", y)
    if "hswish" in epilogue:
        y = g.op("HardSwish", y)
    if "residual" in epilogue:
        out = (height + 2 * (k // 2) * pad - k) // stride + 1, (width + 2 * (k // 2) * pad - k) // stride + 1
        y = g.op("Add", y, g.input("shortcut", batch, c_out, *out))
    g.finish(y)
    return g


def squeeze(channels: int, height: int, width: int) -> Graph:
    """Global average pooling and the two small products of squeeze-and-excitation, with the gate."""
    g = Graph()
    x = g.input("x", 1, channels, height, width)
    y = g.op("Relu", g.conv(g.op("GlobalAveragePool", x), channels, max(1, channels // 4), 1))
    y = g.op("HardSigmoid", g.conv(y, max(1, channels // 4), channels, 1))
    g.finish(g.op("Mul", x, y))
    return g


def pooling(channels: int, height: int, width: int, k: int, stride: int, kind: str) -> Graph:
    """Max or average pooling."""
    g = Graph()
    x = g.input("x", 1, channels, height, width)
    g.finish(g.op(kind, x, kernel_shape=[k] * 2, strides=[stride] * 2, pads=[k // 2] * 4))
    return g


def product(rows: int, depth: int, columns: int, *, activation: str = "") -> Graph:
    """A fully connected layer."""
    g = Graph()
    y = g.op("Gemm", g.input("x", rows, depth), g.weight(columns, depth), g.weight(columns), transB=1)
    g.finish(g.op(activation, y) if activation else y)
    return g


def kernels(graph: Graph, target: Target) -> list[Kernel]:
    """Distinct kernels of a graph's network."""
    return list(kernels_of(lower_onnx(graph.finished(), target)).values())


def arguments(kernel: Kernel, seed: int = 0) -> list[np.ndarray]:
    """Random values for a kernel's buffers, its output included."""
    rng = np.random.default_rng(seed)
    function = kernel.mod["main"]
    return [
        rng.standard_normal(shape).astype(str(buffer.dtype))
        for shape, buffer in zip(shapes(function), function.params, strict=True)
    ]


def run(mod: tvm.IRModule, target: Target, arrays: list[np.ndarray]) -> np.ndarray:
    """A kernel's output (its last buffer)."""
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    tvm.compile(mod, target=target.tvm_target())["main"](*tensors)
    return np.asarray(tensors[-1].numpy())


def some(items: Iterator[tvm.s_tir.Schedule], most: int) -> list[tvm.s_tir.Schedule]:
    """At most `most` of a sequence: its ends and what lies evenly between."""
    found = list(items)
    if len(found) <= most:
        return found
    return [found[round(i * (len(found) - 1) / (most - 1))] for i in range(most)]

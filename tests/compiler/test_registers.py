"""The first schedules of AVX2's sixteen registers: what is added up stays in them."""

from __future__ import annotations

import re

import pytest
from onnx_models import Graph
from single_kernels import convolution, kernels

from ofa_tvm.compiler.code import kernel_code
from ofa_tvm.compiler.final import final_form
from ofa_tvm.compiler.templates import templates_of
from ofa_tvm.targets import get_target

SUMS = ("conv2d", "matmul", "winograd-sums")
_LABEL = re.compile(r"(\.LBB\d+_\d+):")


def adding_loops(assembly: str) -> list[list[str]]:
    """Innermost loops with multiply-adds of vectors, as lines."""
    lines = [line.strip() for line in assembly.splitlines()]
    starts = {match[1]: at for at, line in enumerate(lines) if (match := _LABEL.match(line))}
    found = []
    for at, line in enumerate(lines):
        jump = re.fullmatch(r"j\w+\s+(\.LBB\d+_\d+)", line)
        if jump is None or starts.get(jump[1], at) >= at:
            continue
        body = lines[starts[jump[1]] + 1 : at]
        if not any(map(_LABEL.match, body)) and any("vfmadd" in text for text in body):
            found.append(body)
    return found


@pytest.mark.parametrize(
    "graph",
    [
        convolution(64, 64, 28, 28, 3, 2),
        convolution(64, 64, 14, 14, 3),
        convolution(256, 64, 14, 14, 1),
        convolution(160, 40, 28, 28, 1),
        convolution(320, 112, 14, 14, 1),
        convolution(640, 160, 7, 7, 1),
    ],
    ids=["3x3", "Winograd's", "1x1", "40 wide", "112 wide", "49 rows"],
)
def test_sums_stay_in_registers(graph: Graph) -> None:
    """A tile of eight rows of one vector took twice as long for each multiply-add as one of seven."""
    target = get_target("x86-64-v3")
    (kernel,) = (kernel for kernel in kernels(graph, target) if kernel.signature.kind.startswith(SUMS))
    first = next(templates_of(target.tvm_target()).ranked(kernel.mod))
    made = kernel_code(final_form(first.mod, target.tvm_target()), target.tvm_target())
    loops = adding_loops(made.mod.inspect_source("asm"))
    assert loops and not [line for body in loops for line in body if "(%rsp" in line]

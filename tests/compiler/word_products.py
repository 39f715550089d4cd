"""Products of words of several values, and what all of their schedules compile to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tvm
from tvm import te, tirx

from ofa_tvm.compiler.code import kernel_code
from ofa_tvm.compiler.final import final_form
from ofa_tvm.compiler.kernels import make_kernel
from ofa_tvm.compiler.templates import templates_of
from ofa_tvm.targets import Target


def word_product(
    target: Target,
    shape: tuple[int, int, int],
    dtype: str,
    together: int,
    dot: Callable[[Sequence[tirx.Expr], tirx.Expr], tirx.Expr],
    words: str = "int32",
) -> tvm.IRModule:
    """The product (rows, depth, width) of values and panels of weights, `together` of which are a word."""
    rows, depth, width = shape
    lanes = templates_of(target.tvm_target()).lanes() or 1
    left = te.placeholder((rows, depth), dtype, name="left")
    right = te.placeholder((width // lanes, depth // together, lanes), words, name="right")
    k = te.reduce_axis((0, depth // together), "k")

    def value(i: tirx.Var, j: tirx.Var) -> tirx.Expr:
        factors = [left[i, together * k + number] for number in range(together)]
        return te.sum(dot(factors, right[j // lanes, k, j % lanes]), axis=k)

    out = te.compute((rows, width), value, name="product")
    return make_kernel(te.create_prim_func([left, right, out]), "matmul").mod


def built(mod: tvm.IRModule, target: Target) -> list[tvm.runtime.Executable]:
    """By the first schedule, one between, and the last."""
    found = list(templates_of(target.tvm_target()).ranked(mod))
    return [
        kernel_code(final_form(sch.mod, target.tvm_target()), target.tvm_target())
        for sch in (found[0], found[len(found) // 2], found[-1])
    ]

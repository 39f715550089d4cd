"""Kernels: the fused PrimFuncs of a lowered network, and what makes two of them the same."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import tvm
import tvm_ffi
from tvm.s_tir import SBlock, SBlockRealize
from tvm.s_tir.analysis import estimate_tir_flops

from ofa_tvm.logs import Signature

_DIGITS = re.compile(r"\d+$")
_OF_SEVERAL_WORDS = (
    "depthwise_conv2d", "avg_pool2d", "max_pool2d", "adaptive_avg_pool2d",
    "winograd_input", "winograd_sums", "winograd_output",
)  # fmt: skip


@dataclass(frozen=True)
class Kernel:
    """One distinct kernel.

    Parameters
    ----------
    key
        Identity: a hash of the kernel's structure (loops, shapes, arithmetic), not of names.
    signature
        What it computes: operators, shapes, number formats.
    code
        Module whose only function, `main`, is the unscheduled kernel; or TVM's JSON of it, which is read when
        `mod` is asked for (5 ms).
    flops
        Floating-point operations of one call.
    calls
        How often the network calls it.
    """

    key: str
    signature: Signature
    code: tvm.IRModule | str
    flops: float
    calls: int = 1

    @cached_property
    def mod(self) -> tvm.IRModule:
        """The module of `code`."""
        return tvm.ir.load_json(self.code) if isinstance(self.code, str) else self.code

    @property
    def json(self) -> str:
        """TVM's JSON of `code`."""
        return self.code if isinstance(self.code, str) else str(tvm.ir.save_json(self.code))

    @property
    def name(self) -> str:
        """What it computes, for people: `matmul+add+relu 196x80,80x480,1x480->196x480`."""
        return str(self.signature)


def kernel_key(function: tvm.tirx.PrimFunc) -> str:
    """Identity of a kernel in tuning logs: equal for structurally equal functions, in every process.

    Others may, seldom, have the same one: they would be tuned as one, and computed each as it is.
    """
    plain = function.without_attr("global_symbol").without_attr("op_pattern")
    return f"{tvm_ffi.structural_hash(plain) & (2**64 - 1):016x}"


def is_static(function: tvm.tirx.PrimFunc) -> bool:
    """Whether all parameters are tensors of fixed shape."""
    return all(
        isinstance(extent, int | tvm.tirx.IntImm)
        for buffer in function.params
        for extent in getattr(buffer, "shape", [None])
    )


def shapes(function: tvm.tirx.PrimFunc) -> list[tuple[int, ...]]:
    """Static shapes of a kernel's parameters, outputs last."""
    return [tuple(int(d) for d in buffer.shape) for buffer in function.params]


def _operators(name: str) -> tuple[str, ...]:
    """Operators of a function that TVM's fusion named after them: `fused_matmul1_add_relu2`."""
    parts: list[str] = []
    for word in name.removeprefix("fused_").replace("tir_", "").split("_"):
        word = _DIGITS.sub("", word) if not word.endswith("2d") else word
        parts.append(re.sub(r"(2d)\d+$", r"\1", word))
    text = "_".join(parts)
    for known in _OF_SEVERAL_WORDS:
        text = text.replace(known, known.replace("_", "-"))
    return tuple(text.split("_"))


def has_product(hint: str) -> bool:
    """Whether what fusion named so computes a convolution or a matrix product."""
    return Signature(_operators(hint), ()).has_product


def _signature(hint: str, function: tvm.tirx.PrimFunc) -> Signature:
    dtypes = tuple(str(buffer.dtype) for buffer in function.params)
    return Signature(_operators(hint), tuple(shapes(function)), dtypes)


def _with_canonical_blocks(stmt: tvm.tirx.Stmt, numbers: Iterator[int]) -> tvm.tirx.Stmt:
    """The statement with its blocks named `block0`, `block1`, ... in order of execution.

    Operators name blocks after the variables of the network that they came from. A schedule's trace refers
    to blocks by name, and has to fit the same kernel of another network.
    """
    match stmt:
        case tvm.tirx.SeqStmt():
            return tvm.tirx.SeqStmt([_with_canonical_blocks(part, numbers) for part in stmt.seq])
        case tvm.tirx.For():
            body = _with_canonical_blocks(stmt.body, numbers)
            return tvm.tirx.For(
                stmt.loop_var, stmt.min, stmt.extent, stmt.kind, body, stmt.thread_binding, stmt.annotations
            )
        case SBlockRealize():
            block = stmt.block
            name = block.name_hint if block.name_hint == "root" else f"block{next(numbers)}"
            renamed = SBlock(
                block.iter_vars,
                block.reads,
                block.writes,
                name,
                _with_canonical_blocks(block.body, numbers),
                block.init,
                block.alloc_buffers,
                block.match_buffers,
                block.annotations,
            )
            return SBlockRealize(stmt.iter_values, stmt.predicate, renamed)
    return stmt


def make_kernel(function: tvm.tirx.PrimFunc, hint: str, calls: int = 1) -> Kernel:
    """Kernel of a PrimFunc; `hint` is the name that fusion gave it."""
    plain = function.without_attr("op_pattern").with_attr("global_symbol", "main")
    mod = tvm.IRModule({"main": plain.with_body(_with_canonical_blocks(plain.body, itertools.count()))})
    return Kernel(
        key=kernel_key(function),
        signature=_signature(hint, function),
        code=mod,
        flops=float(estimate_tir_flops(mod)),
        calls=calls,
    )

"""ONNX in, a shared library out: tuned kernels, weights and metadata in one file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import onnx
import tvm
from tvm import relax

from ofa_tvm.compiler import graph, half, layout, lowering
from ofa_tvm.compiler.byte_tables import with_tables
from ofa_tvm.compiler.choice import choose
from ofa_tvm.compiler.dataflow import bindings, static_shape_of
from ofa_tvm.compiler.formats import PASSES
from ofa_tvm.compiler.importer import import_onnx, known_operators
from ofa_tvm.compiler.integers import integer_sums, scalars_as_parameters
from ofa_tvm.compiler.kernels import Kernel, is_static, make_kernel
from ofa_tvm.compiler.linking import LIBRARY_BYTES
from ofa_tvm.compiler.metadata import network_metadata
from ofa_tvm.compiler.network import KernelUse, Network, device_library, host_library
from ofa_tvm.compiler.products import ProductForm
from ofa_tvm.compiler.refusals import refusal
from ofa_tvm.compiler.templates import templates_of
from ofa_tvm.compiler.transfer import Transfer
from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.files import sha256
from ofa_tvm.logs import KernelTable, find_records
from ofa_tvm.targets import DType, Target


@dataclass(frozen=True)
class CompiledModule:
    """What `compile` made.

    Parameters
    ----------
    path
        The shared library.
    kernels
        The network's distinct kernels.
    tuned_fraction
        Share of the network's kernel time that has a record, 0..1; kernels without one are counted with
        the time that the recorded ones take for as many operations.
    """

    path: Path
    kernels: tuple[KernelUse, ...]
    tuned_fraction: float


def lower_onnx(
    model: onnx.ModelProto, target: Target, shapes: graph.Shapes | None = None, source: str = "the model"
) -> tvm.IRModule:
    """Import and lower a model: `main` calls fused kernels, which are the module's other functions.

    Parameters
    ----------
    model
        The ONNX model.
    target
        The target, which decides the layout; its batch is the first size of inputs where that is dynamic.
    shapes
        Sizes of dynamic input shapes, by input name.
    source
        What to call the model in errors.

    Raises
    ------
    UsageError
        If an input shape is dynamic and not given, or no input takes the target's batch.
    UserError
        If the model has an operator that cannot be compiled (the sentence names the operator and its node),
        or if the target cannot compute in its number format.
    """
    target.check_dtype()
    sizes = graph.input_shapes(model, shapes, target.batch)
    try:
        prepared = graph.prepare(half.widened(graph.normalized(model, sizes, known_operators())))
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    prepared = PASSES[target.dtype].prepare(prepared)
    form = templates_of(target.tvm_target()).products(target.dtype)
    try:
        return _lowered(prepared, target, form)
    except Exception as error:
        why = refusal(prepared, partial(_lowered, target=target, form=form), error)
        raise UserError(f"{source}: {why}") from error


def _lowered(prepared: onnx.ModelProto, target: Target, form: ProductForm) -> tvm.IRModule:
    mod = import_onnx(prepared, graph.input_shapes(prepared))
    mod = relax.transform.DecomposeOpsForInference()(mod)
    mod = integer_sums(mod, signed=form.signed_bytes)
    mod = layout.channels_last(mod, form)
    mod = with_tables(mod, lookups=form.byte_tables)
    finished = PASSES[target.dtype].finish(mod, form.in_half)
    finished = scalars_as_parameters(finished)
    lowered = lowering.lower(finished, target.tvm_target(), target.dtype)
    lowered = PASSES[target.dtype].store(lowered)
    if not _is_static(lowered):
        raise ValueError(
            "the shape of what it makes depends on values that the network computes, or its kernel for "
            f"{target.kind} has no fixed shape"
        )
    return lowered


def _is_static(mod: tvm.IRModule) -> bool:
    """Whether all of a lowered module's shapes are fixed (TVM's sorting on GPUs is not, nor is NonZero)."""
    types = [binding.var.ty for binding in bindings(mod["main"])]
    tensors = [f for ty in types for f in (ty.fields if isinstance(ty, relax.TupleType) else [ty])]
    return all(static_shape_of(ty) is not None for ty in tensors) and all(
        is_static(mod[name]) for name in kernel_calls(mod)
    )


def kernels_of(mod: tvm.IRModule) -> dict[str, Kernel]:
    """Distinct kernels of a lowered module by the name under which `main` calls them."""
    calls = Counter(kernel_calls(mod))
    return {name: make_kernel(mod[name], name, count) for name, count in calls.items()}


def kernel_calls(mod: tvm.IRModule) -> list[str]:
    """Names of the kernels that `main` of a lowered module calls, in order of execution."""
    call_tir = tvm.ir.Op.get("relax.call_tir")
    values = (binding.value for binding in bindings(mod["main"]))
    return [v.args[0].name_hint for v in values if isinstance(v, relax.Call) and v.op == call_tir]


def compile(
    model: str | os.PathLike[str] | onnx.ModelProto,
    target: Target,
    path: str | os.PathLike[str],
    *,
    shape: graph.Shapes | None = None,
    logs: Iterable[Path] = (),
    records: KernelTable | None = None,
    profile: bool = False,
    cuda_graph: bool = False,
    dtype: DType | None = None,
    weights: Literal["float16"] | None = None,
) -> CompiledModule:
    """Compile an ONNX model for a target into a shared library that carries its own metadata.

    Parameters
    ----------
    model
        ONNX file, or a model in memory.
    target
        What to compile for.
    path
        The `.so` to write; it appears whole or not at all.
    shape
        Sizes of dynamic input shapes, by input name: `{"input": (1, 3, 224, 224)}`.
    logs
        Folders of tuning logs to look in before those that ship with ofa-tvm.
    records
        Records to use instead of searching `logs`.
    profile
        Time every kernel inside the network, for `ofa_tvm.measurement.profile`; a clock reading a call.
    cuda_graph
        On a CUDA target, capture the network's kernels in a CUDA graph that is launched as a whole.
    dtype
        "float16" or "bfloat16" for weights and feature maps of 16 bits; by default the target's.
    weights
        "float16" for the weights of one-row products alone, short for the dtype "float16-weights".

    Raises
    ------
    UsageError, UserError
        If the model cannot be read or imported, the target's linker is missing, or `path` cannot be written.
    """
    if weights is not None:
        if weights != "float16" or dtype not in (None, "float32"):
            raise UsageError(
                f"weights are None or 'float16', beside float32 maps, not {weights!r} and {dtype}"
            )
        dtype = "float16-weights"
    if dtype is not None:
        target = target.with_dtype(dtype)
    unlinked = prepare(
        model,
        target,
        Path(path),
        shape=shape,
        logs=logs,
        records=records,
        profile=profile,
        cuda_graph=cuda_graph,
    )
    unlinked.link()
    return unlinked.module


@dataclass(frozen=True)
class Unlinked:
    """A compiled network whose library is not written yet.

    Parameters
    ----------
    module
        What it will be.
    link
        Writes the library; another thread may do that, since it is the linker that takes the time.
    """

    module: CompiledModule
    link: Callable[[], None]


def prepare(
    model: str | os.PathLike[str] | onnx.ModelProto,
    target: Target,
    path: Path,
    *,
    shape: graph.Shapes | None = None,
    logs: Iterable[Path] = (),
    records: KernelTable | None = None,
    profile: bool = False,
    cuda_graph: bool = False,
) -> Unlinked:
    """`compile` but for the linking; not to be called in two threads at once (TVM's builders are global).

    Raises
    ------
    UsageError, UserError
        As `compile`, and if `profile` is asked of a network that cannot be profiled.
    """
    proto = graph.check(model) if isinstance(model, onnx.ModelProto) else graph.read_onnx(model)
    source = "the model" if isinstance(model, onnx.ModelProto) else str(model)
    mod = lower_onnx(proto, target, shape, source)
    table = find_records(target, logs) if records is None else records
    kernels = kernels_of(mod)
    target = _stated(target, kernels.values(), source)
    tvm_target = target.tvm_target()

    single = find_records(target.with_threads(1), logs) if records is None and target.threads > 1 else None
    transfer = Transfer(table, *([single] if single else []))
    chosen = {name: choose(kernel, table, transfer, tvm_target) for name, kernel in kernels.items()}
    metadata = network_metadata(proto, mod, target)
    if not isinstance(model, onnx.ModelProto):  # by which `ofa-tvm measure` finds it again
        metadata["source"] = {"name": Path(model).name, "sha256": sha256(model)}
    network = Network(
        mod,
        {name: scheduled for name, (scheduled, _) in chosen.items()},
        tuple(use for _, use in chosen.values()),
        metadata,
        source,
    )
    library = (
        device_library(network, target, cuda_graph=cuda_graph, profile=profile)
        if templates_of(tvm_target).device_code
        else host_library(network, target, profile=profile)
    )
    size = LIBRARY_BYTES + 2 * proto.ByteSize()  # weights are packed, which pads them
    fraction = _tuned_fraction(list(kernels.values()), network.uses)
    compiled = CompiledModule(path, network.uses, fraction)
    return Unlinked(compiled, partial(library, target=target, path=path, size=size))


def _stated(target: Target, kernels: Iterable[Kernel], source: str) -> Target:
    """The target with the number format that a network's products are in.

    Raises
    ------
    UserError
        If integers were asked for and there are none.
    """
    if any(kernel.signature.in_integers for kernel in kernels):
        return target.with_dtype("int8") if target.dtype == "float32" else target
    if target.dtype == "int8":
        raise UserError(
            f"{source} is not quantised, so no kernel of it would be in int8; quantise it first (ofa-tvm "
            "quantize MODEL --data IMAGES -o model.int8.onnx), or leave --dtype out"
        )
    return target


def _tuned_fraction(kernels: Sequence[Kernel], uses: Sequence[KernelUse]) -> float:
    known_cost = sum(use.cost * use.calls for use in uses if use.cost is not None)
    known_flops = sum(k.flops * u.calls for k, u in zip(kernels, uses, strict=True) if u.cost is not None)
    unknown_flops = sum(k.flops * u.calls for k, u in zip(kernels, uses, strict=True) if u.cost is None)
    if not known_cost or not known_flops:
        return 0.0
    return known_cost / (known_cost + unknown_flops * known_cost / known_flops)

"""Networks for GPU-kind targets: the virtual machine calls kernels that hold device code.

Here the kernels are not object files of their own: each is split by TVM into device code, all of which ends
in one device module, and a host function that launches it.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import tvm
from tvm import relax

from ofa_tvm.compiler.gpu_schedules import is_scheduled
from ofa_tvm.compiler.nvrtc import binary_kind, compiling_cuda, on_cuda
from ofa_tvm.compiler.objects import ScheduledKernel
from ofa_tvm.compiler.virtual_machine import main_calling, metadata_builder, vm_passes
from ofa_tvm.errors import UserError


def gpu_executable(
    mod: tvm.IRModule,
    scheduled: dict[str, ScheduledKernel],
    metadata: bytes,
    target: tvm.target.Target,
    *,
    cuda_graph: bool = False,
) -> tvm.runtime.Executable:
    """Build a lowered module whose kernels have schedules.

    Parameters
    ----------
    mod
        A lowered module.
    scheduled
        Its kernels by the names under which `main` calls them.
    metadata
        What the library says of itself.
    target
        A CUDA or OpenCL target with its host.
    cuda_graph
        Let Relax capture the kernels in a CUDA graph, which is launched as a whole.

    Raises
    ------
    UserError
        If a kernel would run on the host, or the result holds no device code.
    """
    for name, kernel in scheduled.items():
        if not is_scheduled(kernel.function):
            raise UserError(f"kernel {name} has no schedule for {target.kind.name}: it would run on the host")
    builder = metadata_builder(metadata)
    symbols = {
        kernel.symbol: builder.add_func(kernel.function, kernel.symbol)
        for kernel in {kernel.symbol: kernel for kernel in scheduled.values()}.values()
    }
    names = {name: symbols[kernel.symbol] for name, kernel in scheduled.items()}
    module = builder.finalize()
    module["main"] = main_calling(
        mod["main"],
        lambda call: relax.Call(
            call.op, [names[call.args[0].name_hint], *call.args[1:]], call.attrs, call.ty_args
        ),
    )
    settings = {"relax.backend.use_cuda_graph": cuda_graph}
    compiler = compiling_cuda(str(target.attrs["arch"])) if on_cuda(target) else nullcontext()
    with compiler, tvm.transform.PassContext(config=settings):
        executable = relax.build(module, target, relax_pipeline=vm_passes(cuda_graph=cuda_graph))
    if symbols and not device_modules(executable.mod, str(target.kind.name)):
        raise UserError(f"TVM made no device code for {target.kind.name}")
    return executable


def refuse_source_only(path: Path) -> None:
    """Refuse a library for CUDA that holds source and no binary: it would not run.

    Raises
    ------
    UserError
        If it holds neither cubin, fatbin nor PTX.
    """
    if not binary_kind(path.read_bytes()):
        raise UserError("the module holds CUDA source but no binary; it was not written. Please report this")


def device_modules(module: tvm.runtime.Module, kind: str) -> list[tvm.runtime.Module]:
    """All device modules of a kind among a module's imports."""
    found = [module] if module.kind == kind else []
    for imported in module.imports:
        found += device_modules(imported, kind)
    return found

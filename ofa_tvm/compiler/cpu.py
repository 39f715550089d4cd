"""Networks for CPU targets: the virtual machine calls a generated driver, or kernels in object files."""

from __future__ import annotations

import tvm
from tvm import relax, te

from ofa_tvm.compiler.driver import Driver
from ofa_tvm.compiler.driver_source import SYMBOL
from ofa_tvm.compiler.objects import ScheduledKernel
from ofa_tvm.compiler.virtual_machine import main_calling, metadata_builder, vm_passes


def cpu_executable(
    mod: tvm.IRModule,
    scheduled: dict[str, ScheduledKernel],
    driver: Driver | None,
    metadata: bytes,
    target: tvm.target.Target,
) -> tvm.runtime.Executable:
    """The network's code for the virtual machine; its kernels stay external and are linked from objects.

    Parameters
    ----------
    mod
        A lowered module.
    scheduled
        Its kernels by the names under which `main` calls them.
    driver
        What runs the whole network in one call; None for a network that has to be called kernel by kernel.
    metadata
        What the library says of itself.
    target
        A CPU target.
    """
    module = metadata_builder(metadata).finalize()
    module["main"] = (
        main_calling(mod["main"], lambda call: _call_external(call, scheduled))
        if driver is None
        else _call_driver(mod, driver)
    )
    module["placeholder"] = _placeholder()
    return relax.build(module, target, relax_pipeline=vm_passes())


def _call_driver(mod: tvm.IRModule, driver: Driver) -> relax.Function:
    """`main` that hands its inputs and fresh outputs to the generated driver."""
    params = [relax.Var(param.name, param.ty) for param in mod["main"].params]
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        result = builder.emit(relax.op.call_dps_packed(SYMBOL, relax.Tuple(params), list(driver.outputs)))
        single = driver.tuple_result and len(driver.outputs) == 1
        builder.emit_func_output(relax.Tuple([result]) if single else result)
    return builder.finalize()["main"]


def _call_external(call: relax.Call, scheduled: dict[str, ScheduledKernel]) -> relax.Expr:
    """A call of a PrimFunc as one of the external function with the kernel's symbol."""
    (result,) = call.ty_args
    outputs = list(result.fields) if isinstance(result, relax.TupleType) else [result]
    return relax.op.call_dps_packed(scheduled[call.args[0].name_hint].symbol, call.args[1], outputs)


def _placeholder() -> tvm.tirx.PrimFunc:
    """A function that does nothing much.

    With no generated code among the modules, TVM packs the weights as C source, which takes the C compiler
    20 s for an ImageNet-sized network; beside an LLVM module they are packed by LLVM.
    """
    value = te.placeholder((1,), name="x")
    return te.create_prim_func([value, te.compute((1,), lambda i: value[i], name="y")]).with_attr(
        "global_symbol", "placeholder"
    )

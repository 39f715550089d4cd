"""What every network run by TVM's virtual machine consists of: its metadata, its calls, its lowering."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax


def metadata_builder(metadata: bytes) -> relax.BlockBuilder:
    """A builder whose module has the function `metadata`, which hands these bytes out."""
    builder = relax.BlockBuilder()
    with builder.function("metadata", []):
        builder.emit_func_output(builder.emit(relax.const(np.frombuffer(metadata, np.uint8).copy())))
    return builder


def main_calling(main: relax.Function, rewrite: Callable[[relax.Call], relax.Expr]) -> relax.Function:
    """`main` of a lowered module with each of its kernel calls (`call_tir`) replaced."""
    return _KernelCalls(rewrite).visit_expr(main).with_attr("global_symbol", "main")


@relax.expr_functor.mutator
class _KernelCalls(relax.PyExprMutator):
    def __init__(self, rewrite: Callable[[relax.Call], relax.Expr]) -> None:
        super().__init__()
        self._rewrite = rewrite

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        return self._rewrite(call) if call.op == tvm.ir.Op.get("relax.call_tir") else call


def vm_passes(*, cuda_graph: bool = False) -> tvm.transform.Pass:
    """From dataflow to the virtual machine's instructions, with planned memory.

    Parameters
    ----------
    cuda_graph
        Let Relax capture the kernels in a CUDA graph.
    """
    return tvm.transform.Sequential(
        [
            relax.transform.ToNonDataflow(),
            relax.transform.RemovePurityChecking(),
            relax.transform.CallTIRRewrite(),
            relax.transform.StaticPlanBlockMemory(),
            *([relax.transform.RewriteCUDAGraph()] if cuda_graph else []),
            relax.transform.LowerAllocTensor(),
            relax.transform.KillAfterLastUse(),
            relax.transform.LowerRuntimeBuiltin(),
            relax.transform.ComputePrimValue(),
            relax.transform.VMShapeLower(),
            relax.transform.AttachGlobalSymbol(),
        ]
    )

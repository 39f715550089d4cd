"""How kernels may be fused, where they state it themselves."""

from __future__ import annotations

import tvm
from tvm import tirx

PATTERN = "ofa_tvm.pattern"  # attribute of a function: how it may be fused, one of these
# Relax's OpPatternKind: with all, inlined at most, with elementwise operators behind it, and not at all.
ELEMENTWISE, INJECTIVE, WITH_ELEMENTWISE, OPAQUE = 0, 2, 4, 8


@tvm.transform.module_pass(opt_level=0, name="ofa_tvm.FusedAsStated")
def fused_as_stated(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
    """Let kernels be fused as they state; that lookups are elementwise, and sums open, TVM does not see."""
    stated = {
        name: function.with_attr("op_pattern", int(function.attrs[PATTERN]))
        for name, function in mod.functions.items()
        if isinstance(function, tirx.PrimFunc) and PATTERN in (function.attrs or {})
    }
    mod.update(tvm.IRModule(stated))
    return mod

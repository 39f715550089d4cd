"""Making sure that TVM compiles for the CPU and features that a descriptor asks for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ofa_tvm.errors import UserError

if TYPE_CHECKING:
    import tvm

    from ofa_tvm.targets.target import Target


def honoured_target(target: Target) -> tvm.target.Target:
    """See `Target.tvm_target`."""
    os.environ.setdefault("TVM_FFI_DISABLE_TORCH_C_DLPACK", "1")  # else tvm compiles an extension for torch
    import tvm

    settings = target.tvm_dict()
    on_host = settings["kind"] != "llvm"
    cpu = settings.get("host") if on_host else settings
    if cpu is not None:
        _check_cpu(target, cpu)
    try:
        made = tvm.target.Target(settings)
    except Exception as error:  # tvm raises several kinds for one cause: a target that it cannot parse
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"target {target.name}: TVM does not accept its tvm settings: {reason}") from error
    if cpu is not None:
        _check_features(target, made.host if on_host else made)
    return made


def _check_cpu(target: Target, cpu: dict[str, Any]) -> None:
    from tvm.target import codegen

    name = cpu.get("mcpu", "")
    triple = cpu.get("mtriple") or codegen.llvm_get_system_triple()
    if not name or codegen.llvm_is_valid_cpu(name, triple):
        return
    if target.probed:
        level = next((other for other in target.compatible if codegen.llvm_is_valid_cpu(other, triple)), None)
        if level is not None:
            cpu["mcpu"] = level
            return
    raise UserError(
        f"target {target.name}: LLVM {codegen.llvm_version_major()} knows no CPU {name!r} of {triple}; "
        f"correct mcpu in {target.source or 'the descriptor'}"
    )


def _check_features(target: Target, cpu: tvm.target.Target) -> None:
    from tvm.target import codegen

    missing = [name for name in target.features if not codegen.llvm_cpu_has_features(name, cpu)]
    if missing:
        raise UserError(
            f"target {target.name}: its mcpu and mattr do not switch on {', '.join(missing)}; "
            f"correct them or `features` in {target.source or 'the descriptor'}"
        )

"""TVM's object for a target, with the CPU and the features that its descriptor asks for really in force."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ofa_tvm.errors import UserError

if TYPE_CHECKING:
    import tvm


def make_tvm_target(
    name: str,
    settings: dict[str, Any],
    features: Sequence[str],
    fallbacks: Sequence[str],
    source: str,
) -> tvm.target.Target:
    """TVM's object for a target; TVM alone takes what it does not know for something generic.

    Parameters
    ----------
    name
        Of the target, for errors.
    settings
        TVM's target dict; its `mcpu` is replaced where a fallback has to be taken.
    features
        What LLVM has to have switched on.
    fallbacks
        CPUs, best first, that serve where LLVM does not know the one of the settings.
    source
        The descriptor's file, for errors; "" without one.

    Raises
    ------
    UserError
        If LLVM knows neither the CPU nor a fallback, a feature is off, or TVM refuses the settings.
    """
    os.environ.setdefault("TVM_FFI_DISABLE_TORCH_C_DLPACK", "1")  # else tvm compiles an extension for torch
    import tvm

    descriptor = source or "the descriptor"
    on_host = settings["kind"] != "llvm"
    cpu = settings.get("host") if on_host else settings
    if cpu is not None:
        _choose_cpu(name, cpu, fallbacks, descriptor)
    try:
        made = tvm.target.Target(settings)
    except Exception as error:  # tvm raises several kinds for one cause: a target that it cannot parse
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"target {name}: TVM does not accept its tvm settings: {reason}") from error
    if cpu is not None:
        _check_features(name, made.host if on_host else made, features, descriptor)
    return made


@lru_cache(maxsize=32)
def cpu_features(cpu: tvm.target.Target) -> frozenset[str]:
    """LLVM's features of a CPU's target."""
    from tvm.target import codegen

    return frozenset(str(name) for name in codegen.llvm_get_cpu_features(cpu))


def _choose_cpu(name: str, cpu: dict[str, Any], fallbacks: Sequence[str], descriptor: str) -> None:
    from tvm.target import codegen

    wanted = cpu.get("mcpu", "")
    triple = cpu.get("mtriple") or codegen.llvm_get_system_triple()
    if not wanted or codegen.llvm_is_valid_cpu(wanted, triple):
        return
    known = next((other for other in fallbacks if codegen.llvm_is_valid_cpu(other, triple)), None)
    if known is None:
        raise UserError(
            f"target {name}: LLVM {codegen.llvm_version_major()} knows no CPU {wanted!r} of {triple}; "
            f"correct mcpu in {descriptor}"
        )
    cpu["mcpu"] = known


def _check_features(name: str, cpu: tvm.target.Target, features: Sequence[str], descriptor: str) -> None:
    from tvm.target import codegen

    missing = [feature for feature in features if not codegen.llvm_cpu_has_features(feature, cpu)]
    if missing:
        raise UserError(
            f"target {name}: its mcpu and mattr do not switch on {', '.join(missing)}; "
            f"correct them or `features` in {descriptor}"
        )

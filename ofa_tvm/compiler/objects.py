"""Object files of kernels, generated once and linked again: subnets of one space share their kernels."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import tvm
import tvm_ffi
from tvm import tirx
from tvm.s_tir import Schedule

from ofa_tvm.compiler import elementary
from ofa_tvm.compiler.code import REVISION, kernel_code
from ofa_tvm.compiler.final import final_form
from ofa_tvm.compiler.kernels import kernel_key
from ofa_tvm.compiler.refusals import reason
from ofa_tvm.errors import UserError
from ofa_tvm.files import cache_dir, read_sealed, require_room, write_sealed
from ofa_tvm.runtime.threads import usable_cpus
from ofa_tvm.temporaries import remove_dead

_MOST_THREADS = 16
_LARGEST_BYTES = 1 << 20


@dataclass(frozen=True)
class ScheduledKernel:
    """A kernel with a schedule, under a symbol that depends on all of it.

    Parameters
    ----------
    symbol
        Name of the function in the object file.
    make
        Makes `function`; not asked where the kernel's object is known.
    """

    symbol: str
    make: Callable[[], tvm.tirx.PrimFunc]

    @cached_property
    def function(self) -> tvm.tirx.PrimFunc:
        """The scheduled PrimFunc."""
        return self.make()


def scheduled_kernel(sch: Schedule, target: tvm.target.Target) -> ScheduledKernel:
    """The kernel in its final form, named by what it is."""
    function = final_form(sch.mod, target)["main"]
    symbol = f"kernel_{code_key(function)}"
    named = function.with_attr("global_symbol", symbol)
    return ScheduledKernel(symbol, lambda: named)


def code_key(function: tvm.tirx.PrimFunc) -> str:
    """A hash that tells different code apart, whatever its names.

    TVM's structural hash does not: numbers go into it nearly as they are, and may cancel out, as those of
    max(-inf, min(inf, x)) and of max(1, min(1, x)) did. So they and the variables are counted in, in order.
    """
    parts: list[object] = [kernel_key(function)]
    variables: dict[tvm.ir.Var, int] = {}
    tvm_ffi.structural_walk(
        function,
        [
            ((tirx.IntImm, tirx.FloatImm), lambda node: parts.append(node.value)),
            (tvm.ir.Var, lambda var: parts.append(("var", variables.setdefault(var, len(variables))))),
        ],
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


class NotCached(UserWarning):
    """Kernels cannot be kept for the next network; they are generated anew each time."""


def objects_folder(target: tvm.target.Target) -> Path:
    """Where objects of a target's kernels are kept."""
    made_by = f"{tvm.__version__} {elementary.REVISION} {REVISION} {target}"
    return cache_dir() / "kernels" / hashlib.sha256(made_by.encode()).hexdigest()[:16]


def object_files(kernels: Mapping[str, ScheduledKernel], target: tvm.target.Target) -> list[Path | bytes]:
    """Object file of every kernel, from the cache or generated now; its bytes where it cannot be kept.

    A cached object ends in the digest of what comes before; linkers find their way by its headers and never
    look behind its last section.

    Parameters
    ----------
    kernels
        By name, such as "fused_conv2d_add"; several may be the same.

    Raises
    ------
    UserError
        If files may not be as large as an object is (`ulimit -f`), or if TVM cannot make a kernel's code.
    """
    folder = objects_folder(target)
    remove_dead(folder)
    require_room(None, _LARGEST_BYTES)

    names = {kernel.symbol: name for name, kernel in kernels.items()}
    places = {symbol: folder / f"{symbol}.o" for symbol in names}
    missing = [symbol for symbol, place in places.items() if read_sealed(place) is None]

    def generate(symbol: str, function: tvm.tirx.PrimFunc) -> Path | bytes:
        path, name = places[symbol], names[symbol]
        try:
            library = kernel_code(tvm.IRModule({symbol: function}), target)
        except tvm.error.InternalError as error:
            raise UserError(f"TVM cannot make code of the kernel {name} ({reason(error)})") from error
        code = _object_code(library.mod)
        try:
            write_sealed(path, code)
        except UserError as error:
            remark = "going on without the cache of kernels; OFA_TVM_CACHE names another folder for it"
            said = str(error).replace(str(path), str(folder))  # once, not for each kernel
            warnings.warn(f"{said}: {remark}", NotCached, stacklevel=2)
            return code
        return path

    functions = [kernels[names[symbol]].function for symbol in missing]  # TVM schedules in one thread only
    with ThreadPoolExecutor(min(usable_cpus(), _MOST_THREADS)) as pool:
        made = dict(zip(missing, pool.map(generate, missing, functions), strict=True))
    return [made.get(symbol, place) for symbol, place in places.items()]


def _object_code(module: tvm.runtime.Module) -> bytes:
    """Written into memory: LLVM ends the process where a disk is full."""
    with os.fdopen(os.memfd_create("kernel"), "rb") as handle:
        module.write_to_file(f"/proc/self/fd/{handle.fileno()}", "o")
        return handle.read()

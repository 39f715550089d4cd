"""Object files of kernels, generated once and linked again: subnets of one space share their kernels."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tvm
from tvm.s_tir import Schedule

from ofa_tvm.compiler import elementary
from ofa_tvm.compiler.kernels import kernel_key
from ofa_tvm.compiler.nan import keeping_nan
from ofa_tvm.files import cache_dir, replacing
from ofa_tvm.temporaries import remove_dead

_DIGEST_BYTES = hashlib.sha256().digest_size
_LLVM_THREADS = 2


@dataclass(frozen=True)
class ScheduledKernel:
    """A kernel with a schedule, under a symbol that depends on all of it.

    Parameters
    ----------
    symbol
        Name of the function in the object file.
    function
        The scheduled PrimFunc.
    """

    symbol: str
    function: tvm.tirx.PrimFunc


def scheduled_kernel(sch: Schedule, target: tvm.target.Target) -> ScheduledKernel:
    """The kernel as code is made of it: with NaN kept, named by what it is."""
    function = keeping_nan(sch.mod, target)["main"]
    symbol = f"kernel_{kernel_key(function)}"
    return ScheduledKernel(symbol, function.with_attr("global_symbol", symbol))


def _is_whole(path: Path) -> bool:
    """Whether a cached object is as it was written.

    It ends in the digest of what comes before; linkers find their way by the object's headers and never look
    behind its last section.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-_DIGEST_BYTES]).digest() == content[-_DIGEST_BYTES:]


def object_files(kernels: list[ScheduledKernel], target: tvm.target.Target) -> list[Path]:
    """Object file of every kernel, from the cache or generated now."""
    made_by = f"{tvm.__version__} {elementary.REVISION} {target}"
    digest = hashlib.sha256(made_by.encode()).hexdigest()[:16]
    folder = cache_dir() / "kernels" / digest
    remove_dead(folder)

    def generate(kernel: ScheduledKernel) -> Path:
        path = folder / f"{kernel.symbol}.o"
        if not _is_whole(path):
            library = tvm.compile(tvm.IRModule({kernel.symbol: kernel.function}), target=target)
            with replacing(path, durable=False) as temporary:
                library.mod.write_to_file(str(temporary), "o")
                with temporary.open("ab") as handle:
                    handle.write(hashlib.sha256(temporary.read_bytes()).digest())
        return path

    with ThreadPoolExecutor(_LLVM_THREADS) as pool:
        return list(pool.map(generate, kernels))

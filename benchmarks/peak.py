"""What one core can do at most: fused multiply-adds on registers, nothing else."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import tempfile
import time
from pathlib import Path

from ofa_tvm.targets import Target

_SUMS = 12  # more than two units of four cycles need, and registers for them where there are 16
_SOURCE = """
typedef float v __attribute__((vector_size(BYTES)));
float peak(long n) {
  v a[SUMS], x, y;
  for (int i = 0; i < BYTES / 4; ++i) { x[i] = 1.0f; y[i] = 0.5f; }
  for (int k = 0; k < SUMS; ++k) a[k] = x * (float)k;
  for (long i = 0; i < n; ++i)
    for (int k = 0; k < SUMS; ++k) a[k] = a[k] * y + x;
  v sum = a[0];
  for (int k = 1; k < SUMS; ++k) sum += a[k];
  return sum[0];
}
"""


def peak_gflops(target: Target, lanes: int) -> float:
    """Best of a second of samples on the calling thread, in GFLOP/s of float32.

    Parameters
    ----------
    target
        A target of this machine; its linker compiles the loop for whatever CPU this is.
    lanes
        float32 values of a vector register.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "peak.c", Path(folder) / "peak.so"
        source.write_text(_SOURCE.replace("BYTES", str(4 * lanes)).replace("SUMS", str(_SUMS)))
        # Not by the CPU's name: compilers learn names later than LLVM does.
        native = (
            ["-march=native", "-mprefer-vector-width=512"]
            if platform.machine() == "x86_64"
            else ["-mcpu=native"]
        )
        options = ["-O3", "-funroll-loops", "-ffp-contract=fast", *native, "-shared", "-fPIC"]
        command = [*target.link.find(), "-x", "c", *options, "-o", str(library), str(source)]
        subprocess.run(command, check=True)
        function = ctypes.CDLL(str(library)).peak
        function.argtypes, function.restype = [ctypes.c_long], ctypes.c_float
        calls, best = 100_000, 0.0
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            start = time.perf_counter()
            function(calls)
            best = max(best, calls * _SUMS * lanes * 2 / (time.perf_counter() - start) / 1e9)
    return best

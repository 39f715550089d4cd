"""Uses every part of the OpenCL runtime, built with sanitizers: `sanitized.py LIBRARY`."""

from __future__ import annotations

import ctypes
import sys
import threading
from contextlib import suppress
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.modules["torch"] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402
import tvm  # noqa: E402

ctypes.CDLL(sys.argv[1])

from test_opencl import ADD, INT, device_code, load, scaled  # noqa: E402

device = tvm.device("opencl", 0)
library = scaled(2.0)


def work(number: int) -> None:
    """Allocates, copies, launches and frees."""
    for dtype in ("float32", "int8", "float64"):
        array = np.full((3, 5), number, dtype)
        np.testing.assert_array_equal(tvm.runtime.tensor(array, device=device).numpy(), array)
    x = tvm.runtime.tensor(np.full(64, number, "float32"), device=device)
    y = tvm.runtime.empty((64,), "float32", device=device)
    for _ in range(50):
        library["main"](x, y)
    np.testing.assert_array_equal(y.numpy(), 2.0 * number)


threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
x = tvm.runtime.tensor(np.zeros(64, "float32"), device=device)
library.jit().time_evaluator("main", device, number=3, repeat=3)(
    x, tvm.runtime.empty((64,), "float32", device=device)
)
for attribute in (
    "device_name",
    "compute_version",
    "max_thread_dimensions",
    "l2_cache_size_bytes",
    "api_version",
):
    getattr(device, attribute)
whole = device_code(ADD, [INT])
for cut in range(0, len(whole), 7):
    with suppress(ValueError):
        load(whole[:cut])
with suppress(RuntimeError):
    tvm.runtime.empty((1 << 40,), "float32", device=device)
with suppress(RuntimeError):
    load(device_code("not OpenCL", [INT]))["add"](1, 1, 1)
sys.stdout.write("clean\n")

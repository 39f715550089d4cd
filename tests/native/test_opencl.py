"""The OpenCL runtime for TVM, on whatever OpenCL device there is (PoCL on this CPU)."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opencl_device import needs_opencl

from ofa_tvm.native import build_library, load_opencl, opencl_devices

tvm = pytest.importorskip("tvm")
pytestmark = needs_opencl

ADD = """
__kernel void add(__global const float* a, __global float* b, float c, int n) {
  int i = get_global_id(0);
  if (i < n) b[i] = a[i] + c;
}
"""
HANDLE, FLOAT, INT = (3, 64, 1), (2, 32, 1), (0, 32, 1)


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def device_code(
    source: str, args: list[tuple[int, int, int]], tags: tuple[str, ...] = ("blockIdx.x", "threadIdx.x")
) -> bytes:
    """TVM's byte format of a device module with one kernel, `add`."""
    types = b"".join(struct.pack("<BBH", *kind) for kind in args)
    return b"".join(
        [
            _text("cl"),
            struct.pack("<Q", 1),
            _text("add"),
            _text("add"),
            struct.pack("<Q", len(args)) + types,
            struct.pack("<Q", len(tags)) + b"".join(map(_text, tags)),
            struct.pack("<Q", 0),
            _text(source),
        ]
    )


def load(code: bytes) -> Any:
    load_opencl()
    return tvm.get_global_func("ffi.Module.load_from_bytes.opencl")(code)


@pytest.fixture(scope="module")
def device() -> Any:
    load_opencl()
    return tvm.device("opencl", 0)


def test_says_what_the_device_is(device: Any) -> None:
    (first, *_) = opencl_devices()
    assert device.exist
    assert not tvm.device("opencl", 63).exist
    assert first.name == device.device_name
    assert first.compute_units >= 1
    assert first.max_threads_per_block >= 1
    assert first.shared_bytes >= 1024
    assert "OpenCL" in device.compute_version


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dtype=st.sampled_from(
        ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint32", "bool"]
    ),
    shape=st.lists(st.integers(0, 9), max_size=4),
    seed=st.integers(0, 2**31),
)
def test_holds_any_dtype_and_shape(device: Any, dtype: str, shape: list[int], seed: int) -> None:
    array = np.random.default_rng(seed).integers(0, 2, shape).astype(dtype)
    there = tvm.runtime.tensor(array, device=device)
    np.testing.assert_array_equal(there.numpy(), array)
    copy = tvm.runtime.empty(tuple(shape), dtype, device=device)
    there.copyto(copy)
    np.testing.assert_array_equal(copy.numpy(), array)


def test_a_buffer_beyond_the_device_is_refused_in_words(device: Any) -> None:
    with pytest.raises(RuntimeError, match=r"has no room for a buffer of 4194304 MiB .* MiB in all"):
        tvm.runtime.empty((1 << 40,), "float32", device=device)


def test_a_missing_device_is_refused_in_words(device: Any) -> None:
    with pytest.raises(RuntimeError, match="there is no device 63; there are 1, counted from 0: "):
        tvm.runtime.empty((1,), "float32", device=tvm.device("opencl", 63))


def scaled(factor: float, n: int = 64) -> Any:
    """A compiled module with one kernel, y = factor * x."""
    from tvm import te

    x = te.placeholder((n,), name="x")
    y = te.compute((n,), lambda i: x[i] * tvm.tirx.const(factor, "float32"), name="y")
    sch = tvm.s_tir.Schedule(te.create_prim_func([x, y]))
    block, thread = sch.split(sch.get_loops(sch.get_sblock("y"))[0], [None, 32])
    sch.bind(block, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    target = tvm.target.Target({"kind": "opencl", "max_num_threads": 256}, host={"kind": "llvm"})
    return tvm.compile(sch.mod, target=target)


def test_runs_and_times_a_kernel(device: Any) -> None:
    library = scaled(3.0)
    x = tvm.runtime.tensor(np.arange(64, dtype="float32"), device=device)
    y = tvm.runtime.empty((64,), "float32", device=device)
    library["main"](x, y)
    np.testing.assert_array_equal(y.numpy(), 3 * np.arange(64, dtype="float32"))
    times = library.jit().time_evaluator("main", device, number=10, repeat=3)(x, y)
    assert all(time > 0 for time in times.results)


def test_a_library_made_without_the_runtime_is_the_same(device: Any, tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        f"sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]}\n"
        "from test_opencl import scaled\n"
        "import tvm\n"
        "assert tvm.get_global_func('device_api.opencl', allow_missing=True) is None\n"
        "scaled(2.0).export_library(sys.argv[1])\n"
    )
    without, beside = tmp_path / "without.so", tmp_path / "with.so"
    subprocess.run([sys.executable, "-c", script, str(without)], check=True)
    scaled(2.0).export_library(str(beside))
    assert without.read_bytes() == beside.read_bytes()
    x = tvm.runtime.tensor(np.ones(64, "float32"), device=device)
    y = tvm.runtime.empty((64,), "float32", device=device)
    tvm.runtime.load_module(str(without))["main"](x, y)
    np.testing.assert_array_equal(y.numpy(), 2.0)


def test_the_compilers_log_is_shown(device: Any) -> None:
    broken = load(device_code(ADD.replace("a[i] + c", "no_such_name"), [INT]))
    with pytest.raises(
        RuntimeError, match=r"(?s)cannot build the kernels: CL_BUILD_PROGRAM_FAILURE.*no_such_name"
    ):
        broken["add"](1, 1, 1)


def test_wrong_arguments_are_refused(device: Any) -> None:
    kernel = load(device_code(ADD, [INT]))["add"]
    with pytest.raises(TypeError, match="kernel add takes 1 arguments and 2 launch sizes, but got 1"):
        kernel(1)
    with pytest.raises(ValueError, match=r"cannot be launched with clusterIdx\.x"):
        load(device_code(ADD, [INT], ("clusterIdx.x",)))


def test_a_work_group_beyond_the_device_is_refused_in_words(device: Any) -> None:
    source = "__kernel void add(int n) {}"
    kernel = load(device_code(source, [INT]))["add"]
    kernel(1, 1, 1)
    with pytest.raises(
        RuntimeError, match=r"launch of add with a work-group of 1048576 x 1 x 1 on .*at most"
    ):
        kernel(1, 1, 1 << 20)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_damaged_code_is_an_error_not_a_crash(choice: st.DataObject) -> None:
    whole = device_code(ADD, [HANDLE, HANDLE, FLOAT, INT])
    cut = choice.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ValueError, match="cut short or damaged"):
        load(whole[:cut])


def test_threads_share_a_kernel(device: Any) -> None:
    library = scaled(5.0)
    call = library["main"]
    wrong: list[int] = []

    def work(number: int) -> None:
        x = tvm.runtime.tensor(np.full(64, number, "float32"), device=device)
        y = tvm.runtime.empty((64,), "float32", device=device)
        for _ in range(200):
            call(x, y)
            if not (y.numpy() == 5.0 * number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


TWO_DEVICES = f"""
import sys
sys.modules["torch"] = None
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]}
import numpy as np
from test_opencl import opencl_devices, scaled, tvm

assert [device.index for device in opencl_devices()] == [0, 1]
first, second = tvm.device("opencl", 0), tvm.device("opencl", 1)
values = np.arange(64, dtype="float32")
x = tvm.runtime.tensor(values, device=first)
y, z = (tvm.runtime.empty((64,), "float32", device=second) for _ in range(2))
x.copyto(y)
np.testing.assert_array_equal(y.numpy(), values)
library = scaled(3.0)
library["main"](y, z)  # on the second, then on the first
np.testing.assert_array_equal(z.numpy(), 3 * values)
w = tvm.runtime.empty((64,), "float32", device=first)
library["main"](x, w)
np.testing.assert_array_equal(w.numpy(), 3 * values)
assert min(library.jit().time_evaluator("main", second, number=3)(y, z).results) > 0
"""


def test_several_devices(device: Any) -> None:
    if "PoCL" not in device.compute_version:
        pytest.skip("only PoCL shows as many devices as it is asked for: apt-get install pocl-opencl-icd")
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES],
        env=os.environ | {"POCL_DEVICES": "basic pthread"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def growth_of_ten_thousand_runs() -> int:
    """Bytes by which this process grows."""
    load_opencl()
    device = tvm.device("opencl", 0)
    library = scaled(2.0, 1 << 12)
    call = library["main"]

    def run(times: int) -> int:
        for _ in range(times):
            x = tvm.runtime.tensor(np.ones(1 << 12, "float32"), device=device)
            y = tvm.runtime.empty((1 << 12,), "float32", device=device)
            call(x, y)
            library.jit().time_evaluator("main", device, number=1, repeat=1)
        device.sync()
        return int(psutil.Process().memory_info().rss)

    before = run(2000)
    return run(10_000) - before


@pytest.mark.slow
def test_ten_thousand_runs_leak_nothing() -> None:
    # In a process of its own: one with other tests behind it grows by itself.
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        growth = fresh.submit(growth_of_ten_thousand_runs).result()
    # A leaked buffer a run would be 320 MiB, a leaked event or function a few MiB.
    assert growth < 3 << 20


@pytest.mark.slow
def test_is_clean_under_sanitizers() -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++: apt-get install g++")
    flags = (
        "-O1",
        "-g",
        "-fno-omit-frame-pointer",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
    )
    # UBSan's check of dynamic types needs type information that TVM's library keeps to itself.
    library = build_library("opencl", flags=(*flags, "-fno-sanitize=vptr"))
    preloaded = [  # the sanitizer looks for the C++ library's functions when it starts
        subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libstdc++.so.6")
    ]
    script = Path(__file__).with_name("sanitized.py")
    done = subprocess.run(
        [sys.executable, str(script), str(library)],
        # Python itself frees little at its end, so leaks are looked for in the test above.
        env=os.environ
        | {"LD_PRELOAD": " ".join(preloaded), "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "ERROR: AddressSanitizer" not in done.stderr
    assert "runtime error" not in done.stderr
    assert done.stdout.endswith("clean\n")


def test_without_a_platform_a_sentence_says_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ofa_tvm.cli.main", "runtime", "build", "opencl"],
        env=os.environ | {"OCL_ICD_VENDORS": str(tmp_path), "OCL_ICD_FILENAMES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "there is no OpenCL device: no platform has one; " in done.stderr
    assert "apt-get install pocl-opencl-icd" in done.stderr
    assert "Traceback" not in done.stderr

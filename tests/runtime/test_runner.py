"""A runner is a function of its arguments, whoever calls it and however often at once."""

from __future__ import annotations

import gc
import multiprocessing
import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Thread

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_module import LABELS, SIZE, SmallModule, write_small_onnx

import ofa_tvm
from ofa_tvm.errors import UsageError
from ofa_tvm.runtime import Runner

pytestmark = pytest.mark.usefixtures("all_cpus")
SHAPE = (1, 3, SIZE, SIZE)


def pictures(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(SHAPE).astype(np.float32) for _ in range(count)]


@pytest.fixture(scope="module")
def wide(small: SmallModule, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A network whose kernels are large enough to be split, for one and for two threads."""
    folder = tmp_path_factory.mktemp("wide")
    model = write_small_onnx(folder / "wide.onnx", width=256, classes=4)
    for threads in (1, 2):
        ofa_tvm.compile(model, small.target.with_threads(threads), folder / f"{threads}.so")
    return {threads: folder / f"{threads}.so" for threads in (1, 2)}


def calls_in_parallel(runs: list[Runner], threads: int, calls: int) -> int:
    """Wrong answers of so many threads that call the runners in turn, each with its own order of inputs."""
    inputs = pictures(16)
    expected = [[np.asarray(run(x)) for x in inputs] for run in runs]
    start = Barrier(threads)

    def caller(seed: int) -> int:
        rng = np.random.default_rng(seed)
        out = np.empty_like(expected[0][0])
        start.wait()
        wrong = 0
        for call in range(calls):
            which, index = int(rng.integers(len(runs))), int(rng.integers(len(inputs)))
            result = runs[which](inputs[index]) if call % 2 else runs[which](inputs[index], out=out)
            wrong += not np.array_equal(np.asarray(result), expected[which][index])
        return wrong

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(caller, range(threads)))


@pytest.mark.parametrize("threads", [2, 8])
def test_one_runner_for_several_threads(small: SmallModule, threads: int) -> None:
    assert calls_in_parallel([ofa_tvm.load(small.so)], threads, 1500) == 0


def test_modules_of_different_thread_counts_shared_by_four_threads(wide: dict[int, Path]) -> None:
    assert calls_in_parallel([ofa_tvm.load(wide[1]), ofa_tvm.load(wide[2])], 4, 400) == 0


def test_calls_at_once_share_the_weights(small: SmallModule, tmp_path: Path) -> None:
    model = write_small_onnx(tmp_path / "heavy.onnx", width=2048, classes=4000)  # 33 MB
    so = tmp_path / "heavy.so"
    ofa_tvm.compile(model, small.target, so)
    run = ofa_tvm.load(so)
    run(pictures(1)[0])
    before = anonymous_mb()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, pictures(64)))
    assert anonymous_mb() - before < 20


def test_weights_are_in_memory_once(small: SmallModule, tmp_path: Path) -> None:
    model = write_small_onnx(tmp_path / "heavy.onnx", width=2048, classes=4000)  # 33 MB
    so = tmp_path / "heavy.so"
    ofa_tvm.compile(model, small.target, so)
    ofa_tvm.load(small.so)(pictures(1)[0])  # what the first call of any module brings
    before = resident_mb()
    run = ofa_tvm.load(so)
    x = pictures(1)[0]
    first = np.asarray(run(x))
    assert resident_mb() - before < 1.5 * 33
    assert np.array_equal(run(x), first)


def resident_mb() -> float:
    """Memory of this process."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def anonymous_mb() -> float:
    """Memory of this process that no file stands behind."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def libraries(name: str) -> int:
    return sum(name in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_loading_gives_everything_back(small: SmallModule, tmp_path: Path) -> None:
    model = write_small_onnx(tmp_path / "heavy.onnx", width=1024, classes=2000)  # 8 MB
    so = tmp_path / "heavyweight.so"
    ofa_tvm.compile(model, small.target, so)
    x = pictures(1)[0]
    for _ in range(3):
        ofa_tvm.load(so)(x)
    gc.collect()
    before = anonymous_mb()
    for _ in range(30):
        ofa_tvm.load(so)(x)
    gc.collect()
    assert anonymous_mb() - before < 20
    assert libraries("heavyweight.so") == 0


@pytest.mark.slow
def test_an_imagenet_sized_network_loaded_300_times(small: SmallModule, tmp_path: Path) -> None:
    space = ofa_tvm.get_space("ofa_mbv3_w1.0")
    arch = space.sample(np.random.default_rng(0)).replace(r=128)
    net = ofa_tvm.build_supernet(space, n_classes=1000)
    net.set_active(arch)
    ofa_tvm.export_onnx(net.extract(arch), tmp_path / "m.onnx", resolution=128, batch=1)
    ofa_tvm.compile(tmp_path / "m.onnx", small.target, tmp_path / "imagenet.so")
    x = np.zeros((1, 3, 128, 128), np.float32)
    seen = []
    for _ in range(300):
        ofa_tvm.load(tmp_path / "imagenet.so")(x)
        seen.append(anonymous_mb())
    size = (tmp_path / "imagenet.so").stat().st_size / 2**20
    assert max(seen[10:]) - min(seen[10:]) < 2 * size
    assert libraries("imagenet.so") == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_that_come_and_go_leave_nothing(wide: dict[int, Path], threads: int) -> None:
    run, x = ofa_tvm.load(wide[threads]), pictures(1)[0]
    expected = np.asarray(run(x))
    results: list[np.ndarray] = []
    counts = []
    for _ in range(20):
        callers = [Thread(target=lambda: results.append(np.asarray(run(x)))) for _ in range(2)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        counts.append(sum(1 for _ in Path("/proc/self/task").iterdir()))
    assert len(results) == 40 and all(np.array_equal(result, expected) for result in results)
    assert max(counts[5:]) <= max(counts[:5]) + 1


def _child(run: Runner, x: np.ndarray, queue: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    queue.put(np.asarray(run(x)))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_process_can_go_on(wide: dict[int, Path], threads: int) -> None:
    """It has none of its parent's threads, and would wait for them for ever."""
    run, x = ofa_tvm.load(wide[threads]), pictures(1)[0]
    expected = np.asarray(run(x))
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    child = fork.Process(target=_child, args=(run, x, queue))
    child.start()
    np.testing.assert_array_equal(queue.get(timeout=60), expected)
    child.join()


def test_a_module_has_its_threads_whatever_ran_before(wide: dict[int, Path]) -> None:
    """TVM's pool of this thread starts with one, which two cannot follow; the other way round it can."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this process may use one CPU only")
    one, two = ofa_tvm.load(wide[1]), ofa_tvm.load(wide[2])
    assert (one.threads, two.threads) == (1, 2)
    x = pictures(1)[0]
    from tvm import get_global_func

    two(x)
    threads = get_global_func("runtime.NumThreads")
    main = threads()
    one(x)
    two(x)
    assert threads() == main
    assert np.allclose(one(x), two(x), atol=1e-5)


def test_more_threads_than_cpus_are_said(wide: dict[int, Path]) -> None:
    before, x = os.sched_getaffinity(0), pictures(1)[0]
    os.sched_setaffinity(0, {min(before)})
    try:
        with pytest.warns(UserWarning, match=r"2\.so is for 2 threads, but this process may use 1 CPUs"):
            run = ofa_tvm.load(wide[2])
        assert run.threads == 1
        np.testing.assert_allclose(run(x), ofa_tvm.load(wide[1])(x), atol=1e-5)
    finally:
        os.sched_setaffinity(0, before)


def test_the_caller_owns_what_it_gets_and_gives(small: SmallModule) -> None:
    run = ofa_tvm.load(small.so)
    first, second = pictures(2)
    one = run(first)
    kept, given = one.copy(), first.copy()
    run(second)
    np.testing.assert_array_equal(one, kept)
    one[...] = 7
    np.testing.assert_array_equal(run(first), kept)
    np.testing.assert_array_equal(first, given)
    (own,) = run.empty_inputs()
    own[...] = first
    np.testing.assert_array_equal(run(own), kept)
    np.testing.assert_array_equal(own, first)
    held = weakref.ref(own)
    del own
    assert held() is None, "a call holds its input no longer than it lasts"


def test_inputs_of_every_layout(small: SmallModule) -> None:
    run, (x,) = ofa_tvm.load(small.so), pictures(1)
    expected = run(x)
    (aligned,) = run.empty_inputs()
    assert aligned.ctypes.data % 64 == 0 and aligned.shape == SHAPE
    aligned[...] = x
    read_only = aligned.copy()
    read_only.setflags(write=False)
    room = np.empty(x.nbytes + 4, np.uint8)
    odd = room[1 : 1 + x.nbytes].view(np.float32).reshape(SHAPE)
    odd[...] = x
    flipped = np.ascontiguousarray(x[:, :, ::-1])[:, :, ::-1]
    layouts = (aligned, read_only, odd, flipped, np.asfortranarray(x), np.broadcast_to(x, SHAPE), x.tolist())
    for array in layouts[:-1]:
        np.testing.assert_array_equal(run(array), expected)
    for wrong in (x.astype(">f4"), x.astype(np.float64), layouts[-1]):
        with pytest.raises(UsageError, match="must be float32"):
            run(wrong)


def test_outputs_into_the_callers_array(small: SmallModule) -> None:
    run, (x,) = ofa_tvm.load(small.so), pictures(1)
    expected = run(x)
    out = np.empty((1, len(LABELS)), np.float32)
    assert run(x, out=out) is out
    np.testing.assert_array_equal(out, expected)
    strided = np.zeros((2, 2 * len(LABELS)), np.float32)[:1, ::2]
    np.testing.assert_array_equal(run(x, out=(strided,)), (expected,))
    (own,) = run.empty_inputs()
    own[...] = x
    overlapping = own.reshape(-1)[: len(LABELS)].reshape(1, -1)
    np.testing.assert_array_equal(run(own, out=overlapping), expected)
    frozen = out.copy()
    frozen.setflags(write=False)
    for wrong, says in (
        (np.empty((1, 3), np.float32), r"must be float32 of shape \(1, 4\), not float32 of \(1, 3\)"),
        (np.empty((1, 4)), "not float64"),
        (frozen, "read-only"),
        ([[0.0] * 4], "must be an array of numpy"),
        ((out, out), "must be 1 arrays"),
    ):
        with pytest.raises(UsageError, match=says):
            run(x, out=wrong)


def elementwise(nodes: list[onnx.NodeProto], inputs: list, outputs: list) -> onnx.ModelProto:  # type: ignore[type-arg]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_scalars_and_empty_tensors(small: SmallModule, tmp_path: Path) -> None:
    kind = TensorProto.FLOAT
    model = elementwise(
        [
            helper.make_node("Mul", ["x", "s"], ["y"]),
            helper.make_node("Add", ["s", "s"], ["t"]),
            helper.make_node("Slice", ["x", "zero", "zero"], ["f"]),
        ],
        [("x", kind, [2, 3]), ("s", kind, [])],
        [("y", kind, [2, 3]), ("t", kind, []), ("f", kind, [0, 3])],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), "zero"))
    ofa_tvm.compile(model, small.target, tmp_path / "m.so")
    run = ofa_tvm.load(tmp_path / "m.so")
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for scalar in (np.float32(2), np.array(2, np.float32), run.empty_inputs()[1]):
        if isinstance(scalar, np.ndarray):
            scalar[...] = 2
        y, t, f = run(x, scalar)
        np.testing.assert_array_equal(y, 2 * x)
        assert t.shape == () and t == 4 and f.shape == (0, 3)
    outs = tuple(np.empty(spec.shape, spec.dtype) for spec in run.outputs)
    assert run(x, scalar, out=outs) is outs and outs[1] == 4
    with pytest.raises(UsageError, match=r"input s must have shape \(\), not \(1,\)"):
        run(x, np.ones(1, np.float32))


def test_a_network_that_hands_out_its_input(small: SmallModule, tmp_path: Path) -> None:
    """What comes back is the caller's all the same."""
    kind = TensorProto.FLOAT
    model = elementwise(
        [helper.make_node("Identity", ["x"], ["y"])], [("x", kind, [2, 64])], [("y", kind, [2, 64])]
    )
    ofa_tvm.compile(model, small.target, tmp_path / "m.so")
    run = ofa_tvm.load(tmp_path / "m.so")
    (x,) = run.empty_inputs()
    x[...] = 1
    y = run(x)
    x[...] = 2
    np.testing.assert_array_equal(y, np.ones((2, 64), np.float32))
    odd = np.empty((2, 65), np.float32)[:, 1:]
    odd[...] = 3
    z = run(odd)
    run(x)
    np.testing.assert_array_equal(z, np.full((2, 64), 3, np.float32))

"""Campaigns on this machine with real kernels: resuming, kills, candidates that crash or hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
import tvm
from tvm import te

import ofa_tvm
from ofa_tvm.compiler.build import kernels_of, lower_onnx
from ofa_tvm.compiler.kernels import Kernel, make_kernel
from ofa_tvm.compiler.templates import templates_of
from ofa_tvm.compiler.traces import scheduled_by_trace
from ofa_tvm.errors import UserError
from ofa_tvm.logs import Header, KernelTable, LogWriter, Record, log_name, read_folder
from ofa_tvm.measurement.pinning import allowed_cpus
from ofa_tvm.native import has_cuda
from ofa_tvm.progress import SILENT, Task
from ofa_tvm.targets import Target, get_target
from ofa_tvm.tuning import allot, crew, time_again, trials_left, tune_kernels
from ofa_tvm.tuning.allotment import by_time
from ofa_tvm.workflow.tune import tune

HERE = Path(__file__).resolve().parent


@pytest.fixture
def target() -> Target:
    return get_target("x86")


@pytest.fixture(autouse=True)
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting a worker takes two seconds of CPU time, most of these campaigns."""
    cpu = min(allowed_cpus())
    monkeypatch.setattr(crew, "allowed_cpus", lambda: {cpu})


def network() -> onnx.ModelProto:
    """Pointwise and depthwise convolution, squeeze and a classifier: seven kernels."""
    rng = np.random.default_rng(0)
    value = {
        "w0": rng.standard_normal((24, 8, 1, 1)),
        "w1": rng.standard_normal((24, 1, 3, 3)),
        "w2": rng.standard_normal((24, 10)),
    }
    helper = onnx.helper
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"]),
        helper.make_node("HardSwish", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["c"], group=24, pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("MatMul", ["e", "w2"], ["f"]),
        helper.make_node("Softmax", ["f"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 8, 12, 12])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 10])],
        [onnx.numpy_helper.from_array(v.astype(np.float32), name) for name, v in value.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def kernels(target: Target) -> list[Kernel]:
    return list(kernels_of(lower_onnx(network(), target)).values())


def trials_made(table: KernelTable, found: Sequence[Kernel]) -> list[int]:
    return [table.trials(kernel.key) for kernel in found]


def assert_nothing_twice(table: KernelTable, found: Sequence[Kernel]) -> None:
    """No schedule of a kernel was tried twice, and every logged trace fits."""
    import tvm_ffi

    for kernel in found:
        records = [*table.records.get(kernel.key, []), *table.failures.get(kernel.key, [])]
        made = {int(tvm_ffi.structural_hash(scheduled_by_trace(kernel.mod, r.trace).mod)) for r in records}
        assert len(made) == len(records), kernel.name


@pytest.mark.slow
def test_a_campaign_tunes_every_kernel_and_resumes(target: Target, tmp_path: Path) -> None:
    found = kernels(target)
    first = tune_kernels(found, target, tmp_path, trials=3)
    assert (first.kernels, first.tuned, first.failed, first.complete) == (len(found), len(found), 0, True)
    assert first.trials == sum(trials_made(first.records, found))
    wanted = allot(found, 3)
    for kernel in found:
        assert 1 <= first.records.trials(kernel.key) <= wanted[kernel.key]
        assert trials_left(kernel, first.records, target, wanted[kernel.key]) == 0
        best = first.records.best(kernel.key)
        assert best is not None
        assert 0 < best.time_us < 1e4

    again = tune_kernels(found, target, tmp_path, trials=3)
    assert (again.trials, again.tuned) == (0, len(found))
    assert again.seconds < first.seconds

    more = tune_kernels(found, target, tmp_path, trials=6, seed=1)
    assert more.trials > 0
    assert max(trials_made(more.records, found)) == max(allot(found, 6).values())
    table = read_folder(tmp_path / log_name(target))
    assert not table.problems
    assert trials_made(table, found) == trials_made(more.records, found)
    assert_nothing_twice(table, found)

    compiled = ofa_tvm.compile(network(), target, tmp_path / "m.so", logs=[tmp_path])
    assert compiled.tuned_fraction == 1
    assert {use.origin for use in compiled.kernels} == {"tuned"}
    assert {use.name: use.cost for use in compiled.kernels} == {
        kernel.name: best.cost for kernel in found if (best := table.best(kernel.key))
    }
    x = np.random.default_rng(0).standard_normal((1, 8, 12, 12)).astype(np.float32)
    ofa_tvm.compile(network(), target, tmp_path / "default.so")
    np.testing.assert_allclose(
        ofa_tvm.load(tmp_path / "m.so")(x), ofa_tvm.load(tmp_path / "default.so")(x), rtol=1e-5, atol=1e-7
    )


@dataclass
class Notes:
    """What a campaign says."""

    said: list[str] = field(default_factory=list)

    def task(self, name: str, total: float | None = None) -> AbstractContextManager[Task]:
        return SILENT.task(name, total)

    def say(self, message: str) -> None:
        self.said.append(message)


def assert_the_search_spends_its_trials(kernel: Kernel, target: Target, root: Path) -> None:
    """Enough trials for MetaSchedule's cost model to learn from, and all of them are made."""
    notes = Notes()
    result = tune_kernels([kernel], target, root, trials=20, progress=notes)
    (took,) = notes.said
    assert (result.trials, result.complete) == (20, True) and took.startswith("tune kernels: ")
    assert_nothing_twice(result.records, [kernel])


@pytest.mark.slow
def test_the_learning_search_spends_its_trials(target: Target, tmp_path: Path) -> None:
    (kernel,) = (k for k in kernels(target) if k.name.startswith("depthwise"))
    assert_the_search_spends_its_trials(kernel, target, tmp_path)


def test_a_time_limit_ends_a_campaign(target: Target, tmp_path: Path) -> None:
    result = tune_kernels(kernels(target), target, tmp_path, trials=2, seconds=0.0)
    assert not result.complete
    assert result.trials == 0


@pytest.mark.slow
def test_a_time_limit_ends_the_trials_of_a_kernel_too(target: Target, tmp_path: Path) -> None:
    (pointwise,) = (k for k in kernels(target) if k.name.startswith("matmul") and "144x8" in k.name)
    result = tune_kernels([pointwise], target, tmp_path, trials=100_000, seconds=1.0)
    assert not result.complete
    assert 0 < result.records.trials(pointwise.key) < trials_left(pointwise, KernelTable(), target, 100_000)


@pytest.mark.slow
def test_part_of_the_kernels_tuned(target: Target, tmp_path: Path) -> None:
    (pointwise,) = (k for k in kernels(target) if k.name.startswith("matmul") and "144x8" in k.name)
    tune_kernels([pointwise], target, tmp_path, trials=1)
    compiled = ofa_tvm.compile(network(), target, tmp_path / "m.so", logs=[tmp_path])
    assert 0 < compiled.tuned_fraction < 1
    origins = {use.name: use.origin for use in compiled.kernels}
    assert origins[pointwise.name] == "tuned"
    assert "default" in origins.values()


def test_what_takes_longest_is_timed_first(target: Target) -> None:
    """By records and calls, not by operations: a depthwise convolution has few and takes long."""
    found = kernels(target)[:3]
    known = KernelTable()
    for kernel, microseconds in zip(found, (5.0, 1.0, 9.0), strict=True):
        known.add(Record(kernel.key, kernel.signature, [[], []], (microseconds,)))
    once = dict.fromkeys((kernel.key for kernel in found), 1.0)
    assert by_time(found, known, once) == [found[2], found[0], found[1]]
    assert by_time(found, known, {**once, found[1].key: 10.0})[0] == found[1]


@pytest.mark.slow
def test_timing_again_measures_known_schedules_here(target: Target, tmp_path: Path) -> None:
    found = kernels(target)
    known = KernelTable()
    for records in tune_kernels(found[:3], target, tmp_path / "there", trials=2).records.records.values():
        for record in records:
            known.add(replace(record, times_us=(1e6,)))
    none = time_again(found, target, tmp_path / "here", known, seconds=0)
    assert not none.complete and none.trials == 0
    again = time_again(found, target, tmp_path / "here", known)
    assert again.complete and again.tuned == len({kernel.key for kernel in found[:3]})
    table = read_folder(tmp_path / "here" / log_name(target))
    for key, records in known.records.items():
        assert {str(r.trace) for r in table.records[key]} <= {str(r.trace) for r in records}
        assert all(0 < r.time_us < 1e5 for r in table.records[key])
    assert time_again(found, target, tmp_path / "here", known).trials == 0


@pytest.mark.slow
def test_records_that_do_not_fit_are_passed_over(target: Target, tmp_path: Path) -> None:
    """As after an upgrade that changed the templates."""
    found = kernels(target)
    tuned = tune_kernels(found[1:3], target, tmp_path / "log", trials=1).records
    swapped = KernelTable()
    for kernel, other in (found[1:3], found[2:0:-1]):
        for record in tuned.records[other.key]:
            swapped.add(Record(kernel.key, kernel.signature, record.trace, (0.001,)))
    compiled = ofa_tvm.compile(network(), target, tmp_path / "m.so", records=swapped)
    assert "tuned" not in {use.origin for use in compiled.kernels}
    with LogWriter(tmp_path / "log", target, Header(log_name(target), {}, "", {}, "")) as log:
        for records in swapped.records.values():
            for record in records:
                log.append(record)
    wanted = allot(found[1:3], 6)
    left = [trials_left(k, read_folder(tmp_path / "log" / log_name(target)), target, wanted[k.key])
            for k in found[1:3]]  # fmt: skip
    result = tune_kernels(found[1:3], target, tmp_path / "log", trials=6)
    assert (result.trials, result.failed) == (sum(left), 0)
    assert result.trials > 0


def broken(kind: str) -> Kernel:
    """A kernel whose every schedule crashes, hangs or does not build."""
    x = te.placeholder((16,), name="x")
    if kind == "crashes":
        y = te.compute((16,), lambda i: x[i + 10**12], name="y")
    elif kind == "hangs":
        n = te.reduce_axis((0, 10**6), "n")
        m = te.reduce_axis((0, 10**7), "m")
        y = te.compute((16,), lambda i: te.max(tvm.tirx.sin(x[i] + n + m), axis=[n, m]), name="y")
    else:
        y = te.compute(
            (16,), lambda i: tvm.tirx.call_pure_extern("float32", "no_such_function", x[i]), name="y"
        )
    return make_kernel(te.create_prim_func([x, y]), kind)


@pytest.mark.slow
def test_candidates_that_crash_are_recorded_and_the_campaign_goes_on(target: Target, tmp_path: Path) -> None:
    found = [broken("crashes"), *kernels(target)[:3]]
    result = tune_kernels(found, target, tmp_path, trials=2)
    assert result.complete
    assert result.tuned == 3
    assert result.failed == 1
    (failure,) = result.records.failures[found[0].key]
    assert "crashed (SIGSEGV)" in failure.error
    again = tune_kernels(found, target, tmp_path, trials=2)
    assert again.trials == 0  # a schedule that crashed is not tried again


@pytest.mark.slow
def test_candidates_that_hang_are_stopped(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "TRIAL_LIMIT_S", 3.0)
    found = [broken("hangs"), *kernels(target)[:3]]
    result = tune_kernels(found, target, tmp_path, trials=1)
    assert result.tuned == 3
    failures = result.records.failures[found[0].key]
    assert len(failures) == allot(found, 1)[found[0].key]
    for failure in failures:
        assert "gave no sign for 3 s and was stopped" in failure.error


@pytest.mark.slow
def test_candidates_that_do_not_build_are_recorded(target: Target, tmp_path: Path) -> None:
    found = [broken("links to nothing"), *kernels(target)[:3]]
    result = tune_kernels(found, target, tmp_path, trials=2)
    assert result.tuned == 3
    assert result.failed >= 1
    assert result.records.failures[found[0].key][0].error


@pytest.mark.slow
def test_a_campaign_without_one_time_says_what_the_trials_failed_with(target: Target, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no trial on target x86 worked, of 1; links to nothing.*; see"):
        tune([broken("links to nothing")], target, tmp_path, trials=1)
    with pytest.raises(UserError, match="no trial"):  # nor does the next call, which has none left to make
        tune([broken("links to nothing")], target, tmp_path, trials=1)


@pytest.mark.slow
def test_plain_loops_are_a_candidate_where_no_template_fits(target: Target, tmp_path: Path) -> None:
    # A running sum is written as loops, which no template takes apart.
    node = onnx.helper.make_node("CumSum", ["x", "axis"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4, 32]) for name in "xy")
    axis = onnx.numpy_helper.from_array(np.array(1), "axis")
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "sum", [x], [y], [axis]),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=9,
    )
    (kernel,) = kernels_of(lower_onnx(model, target)).values()
    assert next(templates_of(target.tvm_target()).ranked(kernel.mod), None) is None
    result = tune_kernels([kernel], target, tmp_path, trials=1)
    (record,) = result.records.records[kernel.key]
    assert record.trace == [[], []]


def test_workers_load_only_what_they_need() -> None:
    program = "import sys, ofa_tvm.tuning.worker; print([m for m in ('torch', 'onnx') if sys.modules.get(m)])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=HERE.parents[1]
    )
    assert done.stdout == "[]\n"


def test_targets_that_cannot_be_tuned_here(tmp_path: Path) -> None:
    if not has_cuda():
        with pytest.raises(UserError, match="there is no NVIDIA driver"):
            tune_kernels([], get_target("cuda-sm90"), tmp_path)
    gone = get_target("x86").on_tracker("127.0.0.1:9", "x86")
    with pytest.raises(UserError, match=r"no tracker answers at 127\.0\.0\.1:9"):
        tune_kernels(kernels(get_target("x86")), gone, tmp_path)


PROGRAM = """\
import os, sys
from pathlib import Path
os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
from test_campaign import get_target, kernels, tune_kernels
target = get_target("x86")
print("begins", flush=True)
result = tune_kernels(kernels(target), target, Path(sys.argv[1]), trials=40)
print(result.trials)
"""


def start_campaign(root: Path) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(root)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_trials(log: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while not log.exists() or len(log.read_text().splitlines()) <= count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_campaign_that_was_ended_resumes(how: signal.Signals, target: Target, tmp_path: Path) -> None:
    log = tmp_path / log_name(target) / "tuning.jsonl"
    process = start_campaign(tmp_path)
    wait_for_trials(log, 6)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as a terminal does: to the workers as well
    else:
        process.kill()
    begun = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    if how == signal.SIGINT:
        assert time.monotonic() - begun < 10
        assert "KeyboardInterrupt" in errors
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive, "workers outlive their campaign"

    found = kernels(target)
    before = read_folder(log.parent)
    made = sum(trials_made(before, found))
    assert made >= 6
    assert not before.failures  # what was in flight does not count as a failure
    result = tune_kernels(found, target, tmp_path, trials=4)
    assert result.tuned == len(found)
    table = read_folder(log.parent)
    assert len(table.problems) <= 1  # a torn line
    assert sum(trials_made(table, found)) == made + result.trials
    assert_nothing_twice(table, found)


@pytest.mark.slow
def test_two_campaigns_at_once(target: Target, tmp_path: Path) -> None:
    first = start_campaign(tmp_path)
    wait_for_trials(tmp_path / log_name(target) / "tuning.jsonl", 1)
    found = kernels(target)
    result = tune_kernels(found, target, tmp_path, trials=3)
    assert result.tuned == len(found)
    first.kill()
    first.communicate()
    folder = tmp_path / log_name(target)
    assert sorted(path.name for path in folder.glob("*.jsonl")) == ["tuning-2.jsonl", "tuning.jsonl"]
    assert len(read_folder(folder).problems) <= 1

"""Timing single calls: by several runners at once, and while other programs want the CPUs too."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_module import SmallModule

from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.measurement import CallTimes, measure_calls
from ofa_tvm.measurement.calls import RunnerCalls
from ofa_tvm.measurement.measure_calls import runners_cpus
from ofa_tvm.measurement.other_work import OtherWork, other_work, working_s
from ofa_tvm.runtime.threads import usable_cpus
from ofa_tvm.targets import get_target

pytestmark = pytest.mark.usefixtures("all_cpus")


def call_times(*runners: RunnerCalls, images: int | None = 1) -> CallTimes:
    return CallTimes(
        runners=runners,
        threads=1,
        images=images,
        warm_up_s=1.0,
        warm_up_calls=7,
        others=None,
        cold_ms=2.0,
        sample_ms=2.0,
        target="x86",
        machine="a machine",
        date="2026-01-01T00:00:00+00:00",
    )


def test_figures_are_of_all_runners_calls() -> None:
    first = RunnerCalls((0,), np.full(100, 1.0), 0.1)
    second = RunnerCalls((1,), np.arange(1.0, 101.0), 5.05)
    times = call_times(first, second, images=4)
    assert times.cpus == (0, 1)
    assert times.per_s == pytest.approx(4 * (100 / 0.1 + 100 / 5.05))
    report = times.to_json()
    assert report["median_ms"] == report["p50_ms"] == pytest.approx(np.median([*[1.0] * 100, *range(1, 101)]))
    assert (report["min_ms"], report["max_ms"], report["calls"]) == (1.0, 100.0, 200)
    assert report["min_ms"] <= report["p5_ms"] <= report["p90_ms"] <= report["p95_ms"] <= report["p99_ms"]
    assert report["images_per_s"] == pytest.approx(4 * report["calls_per_s"])
    assert [runner["p99_ms"] for runner in report["runners"]] == [1.0, pytest.approx(99.01)]
    assert sum(report["histogram"]["calls"]) == 200
    assert report["histogram"]["edges_ms"][-1] == 100.0
    assert call_times(first, images=None).to_json()["images_per_s"] is None


def test_noise_is_judged_by_samples_and_not_by_calls() -> None:
    rng = np.random.default_rng(0)
    restless = rng.uniform(0.005, 0.015, 40_000)  # but means of 200 of them are all alike
    assert not call_times(RunnerCalls((0,), restless, 1.0)).noisy
    drifting = np.linspace(0.005, 0.015, 40_000)
    assert call_times(RunnerCalls((0,), drifting, 1.0)).noisy


def test_what_others_worked_is_what_is_not_ones_own(tmp_path: Path) -> None:
    def look(cpu0: int, cpu1: int) -> dict[int, float]:
        text = f"cpu 9 9 9\ncpu0 {cpu0} 0 10 900 50 0 0 0 0 0\ncpu1 0 0 {cpu1} 900 50 0 0 0 77 0\nintr 4\n"
        (tmp_path / "stat").write_text(text)
        return working_s(tmp_path)

    before, after = look(100, 100), look(300, 200)  # in ticks of 10 ms: 2 s and 1 s
    found = other_work(before, after, own_s=1.5, cpus=[0], seconds=2.0)
    assert found == OtherWork(here=pytest.approx(0.25), machine=pytest.approx(0.75), exact_to=0.02)
    assert found.busy
    alone = other_work(before, after, own_s=2.95, cpus=[0, 1], seconds=2.0)
    assert alone is not None and alone.here == pytest.approx(0.0125) and not alone.busy
    assert other_work({}, {}, 1.0, [0], 2.0) is None
    assert other_work({0: 0.0}, {0: 0.0}, 1.0, [0], 2.0) is None
    assert working_s(tmp_path / "none") == {}


def test_a_runner_makes_calls_until_the_time_is_over(small: SmallModule) -> None:
    times = measure_calls(small.so, small.target, seconds=0.3, warm_up_s=0.1)
    assert 0.3 <= times.seconds < 3
    assert times.warm_up_calls > 2 and times.images == 1 and times.cold_ms > 0
    assert times.times_ms.sum() <= 1e3 * times.seconds  # what is between calls counts for throughput alone
    assert times.per_s == pytest.approx(len(times.times_ms) / times.seconds)
    few = measure_calls(small.so, small.target, seconds=5, warm_up_s=0, calls=7)
    assert len(few.times_ms) == 7


@pytest.mark.slow
def test_runners_have_cpus_of_their_own_and_other_work_is_seen(small: SmallModule) -> None:
    if usable_cpus() < 2:
        pytest.skip("two runners need two CPUs")
    spin = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(spin) for _ in range(usable_cpus())]
    try:
        times = measure_calls(small.so, small.target, runners=2, seconds=1, warm_up_s=0.1)
    finally:
        for process in others:
            process.kill()
            process.wait()
    first, second = times.runners
    assert len(first.cpus) == len(second.cpus) == 1 and first.cpus != second.cpus
    assert times.per_s == pytest.approx(first.per_s + second.per_s)
    assert times.others is not None and times.others.busy


def test_more_runners_than_cpus_are_refused() -> None:
    usable = usable_cpus()
    with pytest.raises(
        UsageError, match=rf"{usable + 1} runners need {usable + 1} CPUs.* may use {usable} CPU"
    ):
        runners_cpus(usable + 1, 1)
    with pytest.raises(UsageError, match=rf"of 2 threads each.*at most {usable // 2} runner"):
        runners_cpus(max(usable, 2), 2)
    cpus = [cpu for own in runners_cpus(usable, 1) for cpu in own]
    assert len(cpus) == len(set(cpus)) == usable


def test_what_cannot_be_timed_here_is_refused(small: SmallModule, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cortex-a72 is another device"):
        measure_calls(small.so, get_target("cortex-a72"))
    lacking = replace(small.target, features=("avx512_of_tomorrow",))
    with pytest.raises(UserError, match="this machine lacks avx512_of_tomorrow"):
        measure_calls(small.so, lacking)
    (tmp_path / "cut.so").write_bytes(small.so.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"cut\.so is damaged"):
        measure_calls(tmp_path / "cut.so", small.target)

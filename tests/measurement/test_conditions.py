"""Heat and clocks: what a system's files say, a reference kernel, waiting for a machine to cool, marks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ofa_tvm.measurement import Measurement
from ofa_tvm.measurement.conditions import Conditions, SystemLook, system_files
from ofa_tvm.measurement.protocol import Timing, interleave_timers
from ofa_tvm.measurement.watch import Watch, hashing_s, local_watch


def nothing() -> None:
    """Tells nobody that work goes on."""


class System:
    """A folder with files such as a phone of four small and four big cores has them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.zone(0, "battery", 31000)
        self.zone(1, "cpu-1-0-usr", 48200)
        self.zone(2, "cpu-0-0-usr", 41000)
        self.zone(3, "gpu-usr", 64000)
        self.zone(4, "cpu-broken", -273000)
        self.write("sys/class/thermal/cooling_device0/type", "thermal-cpufreq-4")
        self.write("sys/class/thermal/cooling_device1/type", "battery")
        self.write("sys/class/thermal/cooling_device1/cur_state", "3")
        self.cool(0)
        for cpu in range(8):
            self.clock(cpu, 1766400 if cpu < 4 else 2649600)

    def write(self, name: str, text: object) -> None:
        """As the kernel would say it; in one step, as a reader sees no half of it."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(path.name + ".new")
        new.write_text(f"{text}\n")
        new.rename(path)

    def zone(self, number: int, kind: str, millidegrees: int) -> None:
        self.write(f"sys/class/thermal/thermal_zone{number}/type", kind)
        self.write(f"sys/class/thermal/thermal_zone{number}/temp", millidegrees)

    def cool(self, state: int) -> None:
        self.write("sys/class/thermal/cooling_device0/cur_state", state)

    def clock(self, cpu: int, khz: int, limit: int | None = None) -> None:
        folder = f"sys/devices/system/cpu/cpu{cpu}/cpufreq"
        self.write(f"{folder}/scaling_cur_freq", khz)
        self.write(f"{folder}/scaling_max_freq", limit or khz)

    def look(self, *cpus: int) -> SystemLook:
        return SystemLook.of(system_files(self.root), cpus)

    def watch(self, pace: Callable[[], float] = hashing_s, **settings: float) -> Watch:
        defaults = {"wait_s": 5.0, "pause_s": 0.02}
        return Watch(pace, partial(system_files, self.root), cpus=(4, 5), **(defaults | settings))


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path)


def test_the_systems_files_are_read(system: System) -> None:
    look = system.look(4, 5)
    assert look == SystemLook(temperature_c=48.2, clock_mhz=2649.6, limit_mhz=2649.6)
    assert system.look(0).clock_mhz == 1766.4 and system.look().clock_mhz == pytest.approx(2208)
    system.cool(2)
    assert system.look().cooling
    system.cool(0)
    system.write("sys/devices/platform/soc/soc:firmware/get_throttled", "50000")  # since the start, not now
    assert not system.look().cooling
    system.write("sys/devices/platform/soc/soc:firmware/get_throttled", "50004")
    assert system.look().cooling
    system.write("sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", 7)
    assert system.look().events == 7
    system.write("sys/devices/system/cpu/cpu4/cpufreq/scaling_cur_freq", "<unknown>")
    assert system.look(4, 5).clock_mhz == 2649.6


def test_nothing_changes_where_nothing_can_be_read(tmp_path: Path) -> None:
    assert SystemLook.of(system_files(tmp_path)).blank
    watch = Watch(lambda: 1e-4, partial(system_files, tmp_path))
    (timing,) = interleave_timers([lambda n: 1e-3 * n], repeats=6, watch=watch)
    assert timing == Timing((1.0,) * 6, 2, 1) and timing.conditions is None
    assert "conditions" not in Measurement.of(timing, "x86", 1, (0,), "here").to_json()


def test_a_hot_machine_is_waited_for_and_then_timed(system: System) -> None:
    system.cool(1)
    threading.Timer(0.3, system.cool, [0]).start()
    beats: list[float] = []
    (timing,) = interleave_timers(
        [lambda n: 1e-3 * n], repeats=5, alive=lambda: beats.append(time.monotonic()), watch=system.watch()
    )
    found = timing.conditions
    assert found is not None and 0.2 < found.waited_s < 3 and not found.throttled
    assert found.temperature_c == 48.2 and found.clock_mhz == 2649.6
    assert len(beats) > 10, "whoever waits for an answer hears that work goes on"


def test_what_was_timed_while_it_throttled_is_timed_again(system: System) -> None:
    calls = beats = 0

    def run(count: int) -> float:
        nonlocal calls
        calls += 1
        if calls == 8:  # in the middle of the first pass
            system.cool(3)
        throttled = system.look().cooling
        return (2e-3 if throttled else 1e-3) * count

    def alive() -> None:
        nonlocal beats
        beats += 1
        if beats == 13:  # one of warming up, ten of the first pass, and then it is waited for
            system.cool(0)

    (timing,) = interleave_timers([run], repeats=10, alive=alive, watch=system.watch())
    assert timing.passes == 2 and timing.median_ms == pytest.approx(1.0)
    assert timing.conditions is not None and not timing.conditions.slow and timing.conditions.waited_s > 0


def test_a_machine_that_stays_hot_is_taken_as_it_is_and_marked(system: System) -> None:
    watch = system.watch(lambda: 1e-4, wait_s=0.2)
    system.cool(2)
    start = time.monotonic()
    for _ in range(5):
        (timing,) = interleave_timers([lambda n: 1e-3 * n], repeats=5, watch=watch)
        assert timing.conditions is not None and timing.conditions.throttled and timing.passes == 1
    assert time.monotonic() - start < 1, "waited for once, not before each of five modules"
    result = Measurement.of(timing, "pixel-3", 1, (4,), "a phone")
    assert result.slow == "the CPU was throttled at 48 °C"
    again = Measurement.from_json(result.to_json())
    assert again.conditions is not None and again.conditions.throttled and again.slow == result.slow
    system.cool(0)
    watch.begin(nothing)
    assert not watch.hopeless


def test_a_lowered_limit_of_the_clock_is_throttling_and_a_users_own_is_not(system: System) -> None:
    for cpu in (4, 5):
        system.clock(cpu, 1000000)  # fixed by a user, for steady times
    watch = system.watch(wait_s=0.05)
    watch.begin(nothing)
    found = watch.end()
    assert found is not None and not found.throttled and found.clock_mhz == 1000
    system.clock(4, 800000)
    watch.begin(nothing)
    found = watch.end()
    assert found is not None and found.throttled and found.waited_s >= 0.05
    counts = "sys/devices/system/cpu/cpu4/thermal_throttle/core_throttle_count"
    system.clock(4, 1000000)
    system.write(counts, 1)
    watch.begin(nothing)
    system.write(counts, 2)  # throttled, and over again before it is looked at
    found = watch.end()
    assert found is not None and found.throttled


def test_a_slower_reference_kernel_marks_times_even_where_nothing_can_be_read(tmp_path: Path) -> None:
    work = 1

    def pace() -> float:  # as much work in twice the time is what a core at half its clock does
        return sum(hashing_s() for _ in range(work))

    watch = Watch(pace, partial(system_files, tmp_path))
    watch.begin(nothing)
    for _ in range(20):
        watch.tick()
    watch.end()
    work = 2
    watch.begin(nothing)
    for _ in range(20):
        watch.tick()
    found = watch.end()
    assert found is not None and found.slower > 0.6 and found.slow and not found.throttled
    assert found.sentence.startswith("the CPU ran more slowly than before, a reference kernel took ")


def test_many_short_samples_of_this_machine_wait_for_it_too(system: System, tmp_path: Path) -> None:
    assert local_watch((4, 5), partial(system_files, tmp_path / "nothing")) is None
    looks = 0

    def read() -> dict[str, str]:
        nonlocal looks
        looks += 1
        return system_files(system.root)

    watch = local_watch((4, 5), read, wait_s=5.0, pause_s=0.1)
    assert watch is not None
    told: list[str] = []

    def times() -> tuple[float, bool]:
        return watch.while_cool(lambda: 1.0, nothing, lambda: told.append("hot"))

    system.cool(1)
    threading.Timer(0.3, system.cool, [0]).start()
    start = time.monotonic()
    assert times() == (1.0, False) and not told and 0.2 < time.monotonic() - start < 3
    before = looks
    for _ in range(1000):
        assert times() == (1.0, False)
    assert looks - before < 3 + 4 * (time.monotonic() - start), (
        "it is asked twice a second, not for each sample"
    )
    system.cool(2)
    watch = local_watch((4, 5), read, wait_s=0.2, pause_s=0.05)
    assert watch is not None
    assert times() == times() == (1.0, True) and told == ["hot"]


def test_conditions_are_what_was_written() -> None:
    found = Conditions(0.12345, 71.26, 1766.4, True, 3.14159)
    assert found.to_json() == {
        "slower": 0.1235, "temperature_c": 71.3, "clock_mhz": 1766, "throttled": True, "waited_s": 3.1,
    }  # fmt: skip
    assert Conditions.from_json(found.to_json() | {"later": 1}).throttled
    assert found.sentence == (
        "the CPU was throttled at 71 °C, a reference kernel took 12% longer than at its best, after waiting "
        "3 s for it to cool down"
    )

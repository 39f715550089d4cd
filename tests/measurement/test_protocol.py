"""The protocol on subjects whose true cost is known, because they only pretend to take time."""

from __future__ import annotations

import itertools
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa_tvm.measurement import Timing, interleave, ratio
from ofa_tvm.measurement.protocol import NOISY, PASSES, Timer, best_pass, interleave_timers
from ofa_tvm.measurement.result import Measurement
from ofa_tvm.targets import detect_machine


def steady(seconds: float, log: list[tuple[str, int]], name: str = "") -> Timer:
    def run(calls: int) -> float:
        log.append((name, calls))
        return seconds * calls

    return run


def test_a_sample_is_filled_with_calls() -> None:
    (timing,) = interleave_timers([steady(100e-6, [])], repeats=20, sample_ms=2.0)
    assert timing.calls == 20
    assert len(timing.samples_ms) == 20
    assert timing.median_ms == pytest.approx(0.1)
    assert timing.mad_ms == pytest.approx(0)
    assert not timing.noisy and timing.passes == 1


def test_each_sample_follows_a_call_that_does_not_count() -> None:
    log: list[tuple[str, int]] = []
    interleave_timers([steady(1e-3, log)], repeats=5, sample_ms=4.0)
    assert log[-10:] == [("", 1), ("", 4)] * 5


def test_rounds_visit_every_subject_in_changing_order() -> None:
    log: list[tuple[str, int]] = []
    names = "abcd"
    interleave_timers([steady(1e-3, log, name) for name in names], repeats=12, sample_ms=4.0, seed=3)
    visits = [name for name, calls in log if calls == 4][-48:]
    rounds = [visits[i : i + 4] for i in range(0, 48, 4)]
    assert all(sorted(order) == list(names) for order in rounds)
    assert len({tuple(order) for order in rounds}) > 5


def test_a_slow_subject_gives_fewer_samples_but_at_least_five() -> None:
    slow, quick = interleave_timers([steady(2.0, []), steady(1e-3, [])], repeats=20, seconds=5.0)
    assert (len(slow.samples_ms), slow.calls) == (5, 1)
    assert len(quick.samples_ms) == 20


def test_a_noisy_pass_is_repeated_and_the_quietest_kept() -> None:
    noise = random.Random(0)
    calls_made = itertools.count()

    def run(calls: int) -> float:
        # The first pass (with its warm-up, some 50 runs) is disturbed, later ones are not.
        disturbed = next(calls_made) < 50
        return 1e-3 * calls * (1 + (noise.random() if disturbed else 0.0))

    (timing,) = interleave_timers([run], repeats=20)
    assert timing.passes > 1 and not timing.noisy
    assert timing.median_ms == pytest.approx(1.0, rel=1e-3)


def test_a_steady_pass_in_a_slow_phase_is_not_believed() -> None:
    """Restless at 1 ms, then 20 steady samples at 3.5 ms, then restless again."""
    noise = random.Random(0)
    calls_made = itertools.count()

    def run(calls: int) -> float:
        slow = 50 <= next(calls_made) < 90  # the second pass: 20 samples of two runs each
        return 1e-3 * calls * (3.5 if slow else 1 + 0.2 * noise.random())

    (timing,) = interleave_timers([run], repeats=20)
    assert 1.0 < timing.median_ms < 1.2 and timing.noisy


@given(
    st.lists(st.tuples(st.floats(0.1, 10.0), st.floats(0.0, 1.0)), min_size=1, max_size=5),
)
def test_the_kept_pass_is_fast_and_no_other_fast_one_is_steadier(passes: list[tuple[float, float]]) -> None:
    middle, spread = passes[best_pass(passes)]
    fastest = min(one for one, _ in passes)
    assert middle <= (1 + NOISY) * fastest
    assert not any(m <= (1 + NOISY) * fastest and d / m < spread / middle for m, d in passes)


def test_noise_that_does_not_end_is_said() -> None:
    noise = random.Random(0)
    (timing,) = interleave_timers([lambda calls: 1e-3 * calls * (1 + noise.random())], repeats=20)
    assert timing.noisy
    assert timing.passes <= PASSES


def test_ratios_hold_while_the_machine_drifts() -> None:
    clock = itertools.count()

    def drifting(cost: float) -> Timer:
        return lambda calls: cost * calls * (1 + 0.002 * next(clock))  # twice as slow after 500 runs

    slow, quick = interleave_timers([drifting(3e-3), drifting(1e-3)], repeats=40, sample_ms=3.0)
    assert ratio(slow, quick) == pytest.approx(3.0, rel=0.02)


def test_callables_are_timed_by_name() -> None:
    timings = interleave({"short": lambda: sum(range(200)), "long": lambda: sum(range(20_000))}, repeats=5)
    assert list(timings) == ["short", "long"]
    assert ratio(timings["long"], timings["short"]) > 10


def test_a_measurement_round_trips_and_agrees_with_its_samples() -> None:
    timing = Timing((1.0, 2.0, 4.0, 3.0, 10.0), calls=3, passes=2)
    measurement = Measurement.of(timing, "x86", 1, (0,), detect_machine().model)
    assert measurement.median_ms == 3.0 and measurement.mad_ms == 1.0
    assert measurement.noisy and measurement.cost == 3.0
    assert measurement.percentile_ms(0) == 1.0 and measurement.percentile_ms(100) == 10.0
    assert Measurement.from_json(measurement.to_json()) == measurement
    assert statistics.median(measurement.samples_ms) == measurement.median_ms


def test_an_emulated_cost_is_not_a_latency() -> None:
    timing = Timing((1.0,) * 5, calls=1, passes=1)
    content = Measurement.of(timing, "arm", 1, (0,), detect_machine().model).to_json()
    content |= {"median_ms": None, "mad_ms": None, "unit": "Minstr", "instructions": 2_080_000}
    assert Measurement.from_json(content).cost == pytest.approx(2.08)

"""How anything is timed: warm-up, then interleaved rounds; medians and their spread; noise is seen and said.

A sample is the mean of as many calls as fill `sample_ms`, after one call that is not timed. In each round
every subject gives one sample, in an order drawn anew, so that a slow phase of the machine hits all of them
alike and ratios hold. A subject whose samples scatter is measured again, see `best_pass` for what is kept.
Where a `Watch` is at hand, a reference kernel runs in each round, a machine that throttles is waited for, and
what was timed while it did is timed again, or marked.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ofa_tvm.measurement.conditions import Conditions
from ofa_tvm.measurement.watch import Watch

NOISY = 0.03  # a pass whose MAD exceeds this share of its median is measured again
PASSES = 3
FEWEST = 5  # samples that a slow subject gives at least
WARM_UP_S = 0.005  # per subject, at least two calls

Timer = Callable[[int], float]
"""Runs its subject n times and returns the seconds that took."""


@dataclass(frozen=True)
class Timing:
    """Samples of one subject, in milliseconds a call, in the order of their rounds.

    `conditions` are the machine's meanwhile; None where nothing is known of them and nothing was slow.
    """

    samples_ms: tuple[float, ...]
    calls: int
    passes: int
    conditions: Conditions | None = None

    @property
    def median_ms(self) -> float:
        """Median of the samples."""
        return statistics.median(self.samples_ms)

    @property
    def mad_ms(self) -> float:
        """Median absolute deviation of the samples from their median (not scaled)."""
        middle = self.median_ms
        return statistics.median(abs(sample - middle) for sample in self.samples_ms)

    @property
    def noisy(self) -> bool:
        """Whether the samples still scatter more than the protocol accepts."""
        return self.mad_ms > NOISY * self.median_ms


def ratio(a: Timing, b: Timing) -> float:
    """How many times as long `a` takes as `b`: paired by round where both come from the same rounds."""
    if len(a.samples_ms) == len(b.samples_ms) and a.passes == b.passes:
        return statistics.median(x / y for x, y in zip(a.samples_ms, b.samples_ms, strict=True))
    return a.median_ms / b.median_ms


def timer(call: Callable[[], object]) -> Timer:
    """Timer of a Python callable; its own call overhead (about 50 ns) counts."""

    def run(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return time.perf_counter() - start

    return run


def interleave(
    subjects: Mapping[str, Callable[[], object]],
    *,
    repeats: int = 20,
    sample_ms: float = 2.0,
    seconds: float = 5.0,
    seed: int = 0,
) -> dict[str, Timing]:
    """Time several callables in interleaved rounds, so that their ratios hold; see `interleave_timers`."""
    timings = interleave_timers(
        [timer(call) for call in subjects.values()],
        repeats=repeats,
        sample_ms=sample_ms,
        seconds=seconds,
        seed=seed,
    )
    return dict(zip(subjects, timings, strict=True))


def interleave_timers(
    timers: Sequence[Timer],
    *,
    repeats: int = 20,
    sample_ms: float = 2.0,
    seconds: float = 5.0,
    seed: int = 0,
    alive: Callable[[], None] = lambda: None,
    watch: Watch | None = None,
) -> list[Timing]:
    """Time several subjects in interleaved rounds.

    Parameters
    ----------
    timers
        The subjects.
    repeats
        Samples a subject.
    sample_ms
        Milliseconds that one sample fills with calls.
    seconds
        A subject whose pass would take longer gives fewer samples, at least five.
    seed
        Of the order within the rounds.
    alive
        Called after each sample.
    watch
        Of the machine: what was timed while it was throttled is timed again once it has cooled down.

    Returns
    -------
    list of Timing
        In the order of `timers`.
    """
    order = random.Random(seed)
    calls = [_calls(run, sample_ms, alive) for run in timers]
    passes: list[list[Timing]] = [[] for _ in timers]
    waiting = list(range(len(timers)))
    if watch is not None:
        watch.start()
    for attempt in range(1, PASSES + 1):
        if watch is not None:
            watch.begin(alive)
        samples = _rounds(timers, calls, waiting, repeats, seconds, order, alive, watch)
        found = None if watch is None else watch.end()
        for index in waiting:
            passes[index].append(Timing(tuple(samples[index]), calls[index], attempt, found))
        hot = found is not None and found.throttled and watch is not None and not watch.hopeless
        waiting = [index for index in waiting if hot or _kept(passes[index]).noisy]
        if not waiting:
            break
    return [_kept(of_subject) for of_subject in passes]


def best_pass(passes: Sequence[tuple[float, float]]) -> int:
    """Which of several passes of one subject to believe, by their medians and median absolute deviations.

    Other work on the machine only ever adds time, and where it lasts for a whole pass it adds the same to
    every sample. So of the passes within `NOISY` of the fastest the one that scatters least: a steady pass in
    a slow phase loses against a restless one that was twice as fast.
    """
    limit = (1 + NOISY) * min(middle for middle, _ in passes)
    return min(
        (index for index, (middle, _) in enumerate(passes) if middle <= limit),
        key=lambda index: passes[index][1] / passes[index][0],
    )


def _kept(passes: Sequence[Timing]) -> Timing:
    return passes[best_pass([(timing.median_ms, timing.mad_ms) for timing in passes])]


def requested_timings(
    request: dict[str, Any],
    timers: Sequence[Timer],
    alive: Callable[[], None],
    watch: Watch | None = None,
) -> list[dict[str, Any]]:
    """`interleave_timers` as a measuring process is asked for it and answers (JSON)."""
    settings = {name: request[name] for name in ("repeats", "sample_ms", "seconds", "seed")}
    return [
        {"samples_ms": timing.samples_ms, "calls": timing.calls, "passes": timing.passes}
        | ({} if timing.conditions is None else {"conditions": timing.conditions.to_json()})
        for timing in interleave_timers(timers, **settings, alive=alive, watch=watch)
    ]


def _calls(run: Timer, sample_ms: float, alive: Callable[[], None]) -> int:
    """Warm a subject up and find how many of its calls fill a sample."""
    run(1)
    alive()
    once = run(1)
    spent, calls = once, 1
    while spent < WARM_UP_S:
        calls *= 2
        took = run(calls)
        spent += took
        once = took / calls
    return max(1, round(sample_ms / 1e3 / max(once, 1e-9)))


def _rounds(
    timers: Sequence[Timer],
    calls: Sequence[int],
    which: Sequence[int],
    repeats: int,
    seconds: float,
    order: random.Random,
    alive: Callable[[], None],
    watch: Watch | None,
) -> dict[int, list[float]]:
    samples: dict[int, list[float]] = {index: [] for index in which}
    spent = dict.fromkeys(which, 0.0)
    for _ in range(repeats):
        due = [index for index in which if len(samples[index]) < FEWEST or spent[index] < seconds]
        order.shuffle(due)
        if watch is not None:
            watch.tick()
        for index in due:
            run, count = timers[index], calls[index]
            spent[index] += run(1)  # brings its weights and code back into the caches
            took = run(count)
            spent[index] += took
            samples[index].append(took / count * 1e3)
            alive()
    return samples

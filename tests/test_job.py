"""What is left of a whole job: guesses until units were timed, then their pace."""

from __future__ import annotations

import pytest

from ofa_tvm.bars import RichProgress
from ofa_tvm.job import Job, JobProgress, Part, in_job
from ofa_tvm.progress import SILENT, Deadline, as_progress

PARTS = (
    Part("learn", "evaluate", 10, 1.0),
    Part("search", "look", 4, 1.0),
    Part("search", "evaluate again", 5, 1.0, "evaluate"),
    Part("tune", "kernels", 1000, 1.0, most_s=30.0),
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_first_units_correct_what_was_guessed(clock: Clock) -> None:
    job = Job("work", PARTS, clock=clock)
    progress = JobProgress(job, SILENT)
    assert job.left_s is None and job.share == 0.0
    with progress.phase("learn"):
        with progress.task("something else") as other, progress.task("evaluate", 10) as task:
            clock.now = 5.0
            other.advance(7)
            task.advance(1)
            # 9 and 5 evaluations of 5 s; searches at twice their guess at most; tuning as long as it may.
            assert job.left_s == pytest.approx(45 + 25 + 8 + 30)
            clock.now = 7.0
            assert job.left_s == pytest.approx(45 + 25 + 8 + 30 - 2), "a part of the next one is done"
            clock.now = 25.0
            task.advance(1)
            assert job.left_s == pytest.approx((8 + 5) * 20 + 8 + 30), "the first one warmed up"
        assert [phase.state for phase in job.phases] == ["now", "to come", "to come"]
    assert job.left_s == pytest.approx(5 * 20 + 8 + 30), "a phase that ended early has nothing left"
    assert job.phases[0].seconds == 25.0
    before = job.share
    with progress.phase("search"), progress.task("evaluate again", 5) as task:
        clock.now = 500.0
        task.advance(1)
        assert job.share >= before


def test_what_a_cache_knew_says_nothing_of_the_pace(clock: Clock) -> None:
    job = Job("work", PARTS[:1], clock=clock)
    with job.phase("learn"), JobProgress(job, SILENT).task("evaluate", 10) as task:
        task.advance(6)
        assert job.left_s is None
        clock.now = 3.0
        task.advance(1)
        assert job.left_s == pytest.approx(9.0)


def test_a_deadline_ends_it(clock: Clock) -> None:
    job = Job("work", PARTS, Deadline.after(7.0), clock)
    with job.phase("learn"), JobProgress(job, SILENT).task("evaluate", 10) as task:
        clock.now = 2.0
        task.advance(1)
        left = job.left_s
    assert left is not None and 6.0 < left <= 7.0


def test_a_job_within_a_job_is_a_part_of_it() -> None:
    with in_job(SILENT, "outer", [Part("one", "task", 1, 1.0)]) as outer, outer.phase("one"):
        two = [Part("two", "task", 1, 1.0)]
        with in_job(outer, "inner", two) as inner, inner.phase("two"), inner.task("task", 1) as task:
            task.advance(1)
        assert isinstance(inner, JobProgress)
        assert [phase.name for phase in outer._job.phases] == ["one"]


def test_what_people_give_as_progress() -> None:
    assert isinstance(as_progress(True), RichProgress) and as_progress(False) is SILENT
    assert as_progress(SILENT) is SILENT

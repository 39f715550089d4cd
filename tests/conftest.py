"""Fixtures shared by all tests, and how the whole suite is spread over the CPUs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from demo_project import demo  # noqa: F401  (a fixture)
from hypothesis import HealthCheck, settings
from once import Once
from once import once as once  # (a fixture)

from ofa_tvm.files import cache_dir
from ofa_tvm.measurement.pinning import allowed_cpus
from ofa_tvm.process import collect_seldom

_MOST_WORKERS = 8  # each takes up to 2 GB
_CPUS = pytest.StashKey[set[int]]()  # of the machine, of which a worker has its share


@pytest.hookimpl
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """As many as there are CPUs for the whole suite; tests named on the command line run in one process."""
    cpus = len(allowed_cpus())
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return min(cpus, _MOST_WORKERS) if whole and cpus > 1 else 0


def pytest_configure(config: pytest.Config) -> None:
    """Workers keep to CPUs of their own: threads that wait for others spin, and times would be of neighbours.

    Before torch and TVM are loaded, which ask once how many there are. Tests of several threads at once use
    the fixture `all_cpus`. Nothing of a terminal's width comes into what verbs print.
    """
    collect_seldom()
    os.environ.pop("COLUMNS", None)
    # No test is about absolute time: machines are shared.
    settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("shared")
    config.stash[_CPUS] = cpus = allowed_cpus()
    if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
        number, workers = int(worker.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        os.sched_setaffinity(0, sorted(cpus)[number % len(cpus) :: workers])


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Workers begin with the files that take longest, and all end at about the same time.

    What asks for the quickstart's folder is slow: whichever test is first makes it, in 50 s of CPU time.
    """
    for item in items:
        if "demo" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
    if "PYTEST_XDIST_WORKER" in os.environ:
        slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
        items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="module")
def all_cpus(request: pytest.FixtureRequest) -> Iterator[set[int]]:
    """Every CPU, also in a worker, which has a share of them; until the end of the file that asks."""
    before, everything = allowed_cpus(), request.config.stash[_CPUS]
    if before != everything:
        os.sched_setaffinity(0, everything)
    yield everything
    if before != everything:
        os.sched_setaffinity(0, before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real latencies, accuracies and images (never part of the repository)."""
    checkout = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get("OFA_TVM_DATA", checkout.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data is absent: {folder} (set OFA_TVM_DATA)")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(2026)


@pytest.fixture(scope="session", autouse=True)
def kernel_cache(once: Once) -> Iterator[Path]:
    """One kernel cache for the whole run; what devices need is downloaded and built once for all runs."""
    folder = once.make("cache", _new_cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OFA_TVM_CACHE", str(folder))
        yield folder


def _new_cache(folder: Path) -> Path:
    for kept in ("devices", "runtime"):
        (cache_dir() / kept).mkdir(parents=True, exist_ok=True)
        (folder / kept).symlink_to(cache_dir() / kept)
    return folder

"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from demo_project import demo  # noqa: F401  (a fixture)

from ofa_tvm.files import cache_dir


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
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One kernel cache for the whole run; what devices need is downloaded and built once for all runs."""
    folder = tmp_path_factory.mktemp("cache")
    for shared in ("devices", "runtime"):
        (cache_dir() / shared).mkdir(parents=True, exist_ok=True)
        (folder / shared).symlink_to(cache_dir() / shared)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OFA_TVM_CACHE", str(folder))
        yield folder

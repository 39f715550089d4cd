"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest


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

from __future__ import annotations

import numpy as np
import pytest

from ofa_tvm.spaces import get_space
from ofa_tvm.spaces.blocks import BlockTables, block_structure
from ofa_tvm.spaces.space import Space


@pytest.fixture(scope="session")
def space() -> Space:
    return get_space("ofa_mbv3_w1.0")


@pytest.fixture(scope="session")
def latency(space: Space) -> BlockTables:
    """Milliseconds that follow MACs and kernel counts; 5.9 to 48.6 over the default resolutions."""
    return block_structure(space).tables(lambda layers: sum(la.macs / 3e7 + 0.05 for la in layers))


@pytest.fixture(scope="session")
def accuracy(space: Space) -> BlockTables:
    """More network is better, with a taste of its own for each choice."""
    rng = np.random.default_rng(7)
    return block_structure(space).tables(
        lambda layers: sum(la.macs**0.25 for la in layers) * rng.uniform(0.8, 1.2) / 100
    )

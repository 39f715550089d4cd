"""Where tensors and weights lie."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ofa_tvm.compiler.memory_plan import Storage, Weights, place

storages = st.builds(
    lambda size, first, length: Storage(size, first=first, last=first + length),
    st.integers(1, 5000),
    st.integers(0, 12),
    st.integers(0, 6),
)


@given(st.lists(storages, max_size=25))
def test_the_memory_plan_keeps_living_tensors_apart(pieces: list[Storage]) -> None:
    size = place(pieces)
    for i, one in enumerate(pieces):
        assert one.offset % 64 == 0
        assert one.offset + one.bytes <= size
        for other in pieces[:i]:
            together = one.first <= other.last and other.first <= one.last
            apart = one.offset + one.bytes <= other.offset or other.offset + other.bytes <= one.offset
            assert apart or not together
    alive = max((sum(s.bytes for s in pieces if s.first <= t <= s.last) for t in range(20)), default=0)
    assert size >= alive
    assert size <= sum(-(-s.bytes // 128) * 128 for s in pieces)


def test_a_chain_needs_two_places() -> None:
    storages = [Storage(1000, first=i, last=i + 1) for i in range(10)]
    assert place(storages) <= 2 * 1024


def test_weights_lie_in_order_of_use_and_once() -> None:
    weights = Weights()
    a, b = np.arange(5, dtype=np.float32), np.arange(40, dtype=np.int64)
    places = [weights.place(value) for value in (a, b, a.copy(), np.zeros(0, np.float32), b[::2])]
    assert places[:3] == [0, 128, 0]
    assert all(place % 128 == 0 for place in places)
    content = weights.content()
    assert np.array_equal(np.frombuffer(content, np.int64, 40, places[1]), b)
    assert np.array_equal(np.frombuffer(content, np.int64, 20, places[4]), b[::2])

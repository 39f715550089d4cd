"""A decoding process that is killed, told by its pipe or by the signal of its end."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from ofa_tvm.errors import UserError
from ofa_tvm.training.decoders import dead_workers_explained


class Slow(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(0.01)
        return torch.zeros(1)


@pytest.mark.parametrize("first", [None, ConnectionResetError, EOFError])
def test_whichever_tells_first_it_is_explained(first: type[Exception] | None) -> None:
    batches = iter(DataLoader(Slow(), batch_size=2, num_workers=1))
    next(batches)
    with pytest.raises(UserError, match="a decoding process was killed"), dead_workers_explained():
        os.kill(batches._workers[0].pid, signal.SIGKILL)  # type: ignore[attr-defined]
        if first is not None:
            raise first
        for _ in batches:
            pass


@pytest.mark.parametrize("error", [ConnectionResetError("another pipe"), RuntimeError("another trouble")])
def test_other_errors_are_left_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error), match="another"), dead_workers_explained():
        raise error

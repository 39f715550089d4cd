"""Several processes that share evaluations: the verb itself, with the variables that torchrun sets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ofa_tvm.accuracy import shares
from ofa_tvm.accuracy.cache import AccuracyCache
from ofa_tvm.accuracy.evaluate import evaluate_subnets
from ofa_tvm.accuracy.shares import Claims, share
from ofa_tvm.devices.tracker import wait_until
from ofa_tvm.errors import UsageError
from ofa_tvm.spaces import Arch, get_space
from ofa_tvm.supernet import build_supernet
from ofa_tvm.training import digits
from ofa_tvm.training.distributed import Rank

SPACE = get_space("ofa_digits")
N = 12
HOLD = """
import sys, time
from pathlib import Path
from ofa_tvm.accuracy.shares import Claims
from ofa_tvm.spaces import Arch
with Claims(Path(sys.argv[1])) as claims:
    print(claims.take(Arch.from_json(sys.argv[2])), flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a subnet gets right of random weights is a value like any other."""
    path = tmp_path_factory.mktemp("shares") / "supernet.pt"
    build_supernet(SPACE, n_classes=10).save_checkpoint(path)
    return path


def started(
    checkpoint: Path, cache: Path, rank: int | None = None, of: int = 2, launcher: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    ranks = {} if rank is None else {"RANK": str(rank), "WORLD_SIZE": str(of)}
    words = ["evaluate", "--checkpoint", checkpoint, "--space", SPACE.name, "--data", "digits", "-n", N]
    words += ["--cache", cache, "--calibration-images", 100, "--json"]
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "ofa_tvm.cli.main", *map(str, words)],
        cwd=checkpoint.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | ranks,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answer(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def rows(cache: Path) -> list[tuple[str, float]]:
    if not cache.exists():
        return []
    lines = [json.loads(line) for line in cache.read_text().splitlines()]
    return [(json.dumps(line["arch"]), line["accuracy"]) for line in lines]


@pytest.fixture(scope="module")
def alone(checkpoint: Path) -> tuple[dict, dict[str, float]]:
    cache = checkpoint.parent / "alone.jsonl"
    result = json.loads(answer(started(checkpoint, cache)))
    assert len(result["subnets"]) == N and not list(checkpoint.parent.glob(".*claims"))
    return result, dict(rows(cache))


@pytest.mark.slow
@pytest.mark.usefixtures("all_cpus")
def test_two_ranks_give_what_one_gives_and_none_does_the_others_work(
    checkpoint: Path, alone: tuple[dict, dict[str, float]], tmp_path: Path
) -> None:
    cache = tmp_path / "accuracy.jsonl"
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    result = json.loads(answer(started(checkpoint, cache, launcher=launcher)))
    assert result["subnets"] == alone[0]["subnets"]
    found = rows(cache)
    assert dict(found) == alone[1] and len(found) == len(alone[1]), "each once"
    left = {file.name for file in tmp_path.iterdir()}
    assert left == {"accuracy.jsonl", "accuracy.confusion.json"}, "nothing else is left behind"


@pytest.mark.slow
@pytest.mark.usefixtures("all_cpus")
def test_a_killed_rank_loses_what_it_was_at_and_another_takes_it(
    checkpoint: Path, alone: tuple[dict, dict[str, float]], tmp_path: Path
) -> None:
    cache = tmp_path / "accuracy.jsonl"
    victim = started(checkpoint, cache, 1, of=3)
    assert wait_until(lambda: len(rows(cache)) > 1, 60)
    others = [started(checkpoint, cache, rank, of=3) for rank in (2, 0)]
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    before = rows(cache)
    assert 1 < len(before) < N, "killed in the middle"
    assert answer(others[0]) == "", "one talks"
    result = json.loads(answer(others[1]))
    after = rows(cache)
    assert after[: len(before)] == before
    assert result["subnets"] == alone[0]["subnets"]
    assert dict(after) == alone[1] and len(after) == len(alone[1])
    # With another number of processes there is nothing left to do.
    assert json.loads(answer(started(checkpoint, cache)))["subnets"] == result["subnets"]
    assert rows(cache) == after


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Path, Arch, subprocess.Popen[str]]]:
    """A claim that another process has."""
    path, arch = tmp_path / "claims", SPACE.min_arch()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, path, arch.to_json()], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "True\n"
    yield path, arch, process
    process.kill()
    process.communicate()


def test_a_claim_ends_with_its_process(held: tuple[Path, Arch, subprocess.Popen[str]]) -> None:
    path, arch, process = held
    cache = AccuracyCache(path.with_name("accuracy.jsonl"), "key")
    with Claims(path) as claims:
        assert claims.take(SPACE.max_arch()) and not claims.take(arch)
        threading.Timer(0.5, process.kill).start()
        start = time.monotonic()
        share([arch], cache, lambda one: cache.add(one, 0.5), claims, Rank(1, 2), lambda: None)
        assert cache.known == {arch: 0.5} and 0.4 < time.monotonic() - start < 20


def test_a_process_that_hangs_is_not_waited_for(
    held: tuple[Path, Arch, subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, arch, _ = held
    monkeypatch.setattr(shares, "_PATIENCE_S", 0.5)
    cache = AccuracyCache(path.with_name("accuracy.jsonl"), "key")
    done: list[Arch] = []

    def evaluate(one: Arch) -> None:
        done.append(one)
        cache.add(one, 0.5)

    with Claims(path) as claims:
        share([arch], cache, evaluate, claims, Rank(1, 2), lambda: None)
        assert not done, "rank 0 does it"
        share([arch], cache, evaluate, claims, Rank(0, 2), lambda: None)
    assert done == [arch]


def test_ranks_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Rank.here() == Rank(0, 1)
    for index, processes in (("2", "2"), ("-1", "2"), ("a", "2"), ("0", "")):
        monkeypatch.setenv("RANK", index)
        monkeypatch.setenv("WORLD_SIZE", processes)
        with pytest.raises(UsageError, match="torchrun sets both"):
            Rank.here()
    with pytest.raises(UsageError, match="name its file"):
        evaluate_subnets(build_supernet(SPACE, 10), [SPACE.min_arch()], digits(), rank=Rank(0, 2))

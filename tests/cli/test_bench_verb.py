"""ofa-tvm bench, and the threads and the target that it and `measure` take from a module."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_module import SmallModule, build_small_module
from verbs import without_torch

import ofa_tvm
from ofa_tvm.cli.histogram import histogram
from ofa_tvm.deploy import Manifest, write_artefact
from ofa_tvm.deploy.manifest import TargetEntry
from ofa_tvm.runtime.threads import usable_cpus
from ofa_tvm.targets import get_target

pytestmark = pytest.mark.usefixtures("all_cpus")
_QUICK = ("--seconds", 0.2, "--warm-up", 0.1)


@pytest.fixture(scope="module")
def deploy(small: SmallModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "deploy"
    write_artefact(folder, small.so, small.onnx, Manifest(TargetEntry.of(small.target)))
    return folder


@pytest.fixture(scope="module")
def two_threads(all_cpus: set[int], small: SmallModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if usable_cpus() < 2:
        pytest.skip("two threads need two CPUs")
    path = tmp_path_factory.mktemp("two") / "two.so"
    return build_small_module(small.onnx, path, small.target.with_threads(2))


@pytest.mark.slow
def test_it_says_what_people_know(deploy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    done = without_torch(deploy, "bench", deploy, *_QUICK)
    assert done.code == 0, done.err
    header = next(line for line in done.out.splitlines() if "p50" in line)
    assert header.split() == ["ms", "min", "p50", "p90", "p95", "p99", "max", "images/s"]
    for words in (
        "1 runner of 1 thread",
        "0.1 s of warm-up",
        "cold caches",
        "a JPEG of 500 x 375",
        "decoding",
    ):
        assert words in done.out
    bars = [line for line in done.out.splitlines() if "█" in line]
    assert bars and max(map(len, bars)) == 70


def test_json_has_all_figures_of_a_bare_module_too(small: SmallModule, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "black.png")
    words = ("bench", small.so, *_QUICK, "--repeats", 20, "--image", "black.png", "--json")
    report = json.loads(without_torch(tmp_path, *words).out)
    assert report["calls"] == 20 and report["unit"] == "ms"
    assert report["min_ms"] <= report["median_ms"] <= report["p99_ms"] <= report["max_ms"]
    assert report["images_per_s"] == report["calls_per_s"] > 0
    picture = report["picture"]
    assert picture["picture"] == "black.png (40 x 30 pixels)"
    parts = [picture[f"{part}_ms"] for part in ("decode", "prepare", "classify")]
    assert min(parts) > 0 and picture["total_ms"] == pytest.approx(sum(parts))


@pytest.mark.slow
def test_a_module_for_two_threads_is_timed_with_two(two_threads: Path) -> None:
    """By both verbs, unless they are told otherwise."""
    folder = two_threads.parent

    def timed(*words: object) -> int:
        quick = ("--seconds", 0.1, "--repeats", 5, "--json")
        return int(json.loads(without_torch(folder, *words, *quick).out)["threads"])

    assert timed("measure", "two.so") == timed("bench", "two.so") == 2
    assert timed("measure", "two.so", "--target", "x86", "--threads", 1) == 1
    assert ofa_tvm.measure(two_threads, repeats=5, seconds=0.2).threads == 2
    assert ofa_tvm.measure(two_threads, get_target("x86"), repeats=5, seconds=0.2).threads == 1


@pytest.mark.slow
def test_refusals(deploy: Path, small: SmallModule) -> None:
    folder, usable = deploy.parent, usable_cpus()

    def refused(*words: object, code: int = 2) -> str:
        return without_torch(folder, "bench", *words).error(code)

    said = refused("deploy", "--runners", usable + 1)
    assert f"{usable + 1} runners need {usable + 1} CPUs, but this process may use {usable} CPU" in said
    assert "--runners is timed on this machine" in refused("deploy", "--target", "cortex-a72", "--runners", 2)
    assert "`ofa-tvm measure" in refused(small.onnx)
    assert "no such image: none.png" in refused("deploy", "--image", "none.png", code=1)
    other = next((name for name in ("x86-64-v4", "sapphirerapids") if _lacks(name)), None)
    if other is not None:
        assert "cannot be measured here: this machine lacks" in refused("deploy", "--target", other, code=1)


def _lacks(name: str) -> bool:
    from ofa_tvm.targets import detect_machine

    return bool(get_target(name).runs_on(detect_machine()))


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_histogram_is_as_wide_as_it_may_be(width: int) -> None:
    values = np.random.default_rng(0).exponential(1.0, 10_000) + 0.3
    for blocks, mark in ((True, "█"), (False, "#")):
        lines = histogram(values, "ms", width, blocks=blocks)
        assert max(map(len, lines)) == width and any(mark in line for line in lines)
        assert blocks or all(line.isascii() for line in lines)
    assert sum(int(line.split(" ms ")[1].split()[0]) for line in lines) == len(values)
    assert lines[-1].split()[-2] != lines[-1].split()[0]


@pytest.mark.parametrize("slow", [0.0, 0.02, 0.1, 0.2])
@pytest.mark.parametrize("fast", [0.0, 0.01])
def test_a_histogram_shows_where_most_values_lie(slow: float, fast: float) -> None:
    """Interrupted calls, be they many, leave the others in bins of their own."""
    rng = np.random.default_rng(0)
    values = 0.05 + 0.002 * rng.standard_normal(5000)
    values[: int(slow * 5000)] *= 20 + 30 * rng.random(int(slow * 5000))
    values[-int(fast * 5000) or 5000 :] = 0.001
    lines = histogram(values, "ms", 80, blocks=False)
    counts = [int(line.split(" ms ")[1].split()[0]) for line in lines]
    assert sum(counts) == 5000 and len(counts) == 12 + (slow > 0) + (fast > 0)
    body = counts[fast > 0 : len(counts) - (slow > 0)]
    assert max(body) < 0.45 * sum(body) and sum(n > 0.02 * sum(body) for n in body) >= 4
    if slow:
        assert counts[-1] == int(slow * 5000) and lines[-1].split()[2] == f"{values.max():.4f}"


def test_a_histogram_of_values_that_are_all_the_same() -> None:
    lines = histogram(np.full(7, 0.5), "ms", 60)
    assert sum(int(line.split(" ms ")[1].split()[0]) for line in lines) == 7

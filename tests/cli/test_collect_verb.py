"""ofa-tvm collect: a table that grows, and what a predictor makes of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from emulated import arm_target
from verbs import Verbs

from ofa_tvm.files import data_dir
from ofa_tvm.latency.collect import draw_subnets
from ofa_tvm.latency.dataset import read_table
from ofa_tvm.spaces import Arch, get_space


@pytest.mark.slow
def test_collect_measures_and_resumes(ofa: Verbs, tmp_path: Path) -> None:
    collect = ("collect", "--space", "ofa_digits", "--resolutions", "32", "-o", "lat.csv", "--seed", 3)
    done = ofa(tmp_path, *collect, "-n", 2, "--json")
    assert done.code == 0, done.err
    assert "random weights: latency does not depend on them" in done.err
    report = json.loads(done.out)
    assert report["rows"] == report["new"] == 2 and report["column"] == "x86_ms"
    first = (tmp_path / "lat.csv").read_text()
    more = json.loads(ofa(tmp_path, *collect, "-n", 3, "--json").out)
    assert more["rows"] == 3 and more["new"] == 1
    assert (tmp_path / "lat.csv").read_text().startswith(first), "rows are added, never written anew"
    table = read_table(tmp_path / "lat.csv")
    assert len(table) == 3 and {arch.r for arch in table.archs} == {32}
    assert {entry["n_classes"] for entry in table.meta} == {1000}
    for entry in table.meta:
        assert entry["reference_ms"] > 0 and entry["drifted"] in (True, False)
        assert entry["mad_ms"] >= 0 and entry["repeats"] > 0 and "apache-tvm" in entry["versions"]
    assert ofa(tmp_path, "predictor", "fit", "--data", "lat.csv", "-o", "p.model").code == 0
    suggest = (
        "predictor",
        "suggest",
        "--model",
        "p.model",
        "--resolutions",
        "32",
        "-n",
        1,
        "-o",
        "next.jsonl",
    )
    assert ofa(tmp_path, *suggest).code == 0
    own = json.loads(ofa(tmp_path, *collect, "--archs", "next.jsonl", "--json").out)
    assert own["new"] == 1 and own["rows"] == 4, "the suggested subnet, which is none of the measured ones"


@pytest.mark.slow
def test_half_precision_is_collected_apart(ofa: Verbs, tmp_path: Path) -> None:
    arm_target("cortex-a76")
    collect = ["collect", "-t", "cortex-a76", "--space", "ofa_digits", "--resolutions", "32", "-n", 1]
    half = [*collect, "--dtype", "float16", "-o", "half.csv", "--json"]
    done = ofa(tmp_path, *half)
    assert done.code == 0, done.err
    assert json.loads(done.out)["column"] == "cortex-a76_float16_minstr"
    message = ofa(tmp_path, *collect, "-o", "half.csv").error(1)
    assert "has the heading 'arch,cortex-a76_float16_minstr'" in message
    assert ofa(tmp_path, *collect, "-o", "full.csv").code == 0
    (less,), (more,) = (read_table(tmp_path / f"{name}.csv").values[:, 0] for name in ("half", "full"))
    assert less < 0.8 * more, "eight values a register instead of four"


def test_what_cannot_be_measured_is_said(ofa: Verbs, tmp_path: Path) -> None:
    space = ("collect", "--space", "ofa_digits", "-n", 1, "-o", "lat.csv")
    (tmp_path / "lat.csv").write_text("something else\n")
    assert "has the heading 'something else'" in ofa(tmp_path, *space).error(1)


@pytest.mark.slow
def test_a_linker_that_fails_ends_it_in_a_sentence(ofa: Verbs, tmp_path: Path) -> None:
    """Libraries are linked in a thread of their own, whose failure is the command's."""
    text = (data_dir("targets") / "x86-64-v2.yaml").read_text().replace("name: x86-64-v2", "name: mine")
    text = re.sub(r"compilers: \[.*\]", 'compilers: ["false"]', text)
    (tmp_path / "mine.yaml").write_text(text)
    collect = ("collect", "--target", "mine.yaml", "--space", "ofa_digits", "-n", 1, "-o", "lat.csv")
    assert "/false failed" in ofa(tmp_path, *collect, "--resolutions", "32").error(1)


def test_subnets_are_spread_over_their_cost() -> None:
    space = get_space("ofa_digits")

    def macs(genes: np.ndarray) -> np.ndarray:
        return space.macs_batch(genes).astype(float)

    uniform = draw_subnets(space, 40, space.resolutions, 0)
    spread = draw_subnets(space, 40, space.resolutions, 0, macs)
    assert len(set(spread)) == 40 and spread == draw_subnets(space, 40, space.resolutions, 0, macs)

    def unevenness(archs: list[Arch]) -> float:
        """Largest distance between the costs' distribution and one that is even over their range."""
        costs = np.sort(macs(space.encode(archs)))
        return float(np.abs((costs - costs[0]) / np.ptp(costs) - np.linspace(0, 1, len(costs))).max())

    assert unevenness(spread) < 0.1 < unevenness(uniform)
    assert len(draw_subnets(space, 40, [32], 0)) == 40
    for seed in range(20):
        few = draw_subnets(space, 4, space.resolutions, seed, macs if seed % 2 else None)
        assert len(set(few)) == 4 and {arch.r for arch in few} == set(space.resolutions)
    assert len(draw_subnets(space, 2, space.resolutions, 0)) == 2

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ofa_tvm.errors import UserError
from ofa_tvm.estimators.metrics import errors
from ofa_tvm.latency.dataset import read_table
from ofa_tvm.latency.estimate import first_estimate
from ofa_tvm.latency.families import fit_families
from ofa_tvm.latency.generalized import GeneralizedLatency, shipped_model
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.latency.roofline import rooflines
from ofa_tvm.latency.series import Series, family_of
from ofa_tvm.spaces import get_layered_space
from ofa_tvm.spaces.blocks import block_structure, stacked_contexts
from ofa_tvm.targets.devices import Device, Platform, find_platform
from ofa_tvm.targets.target import Hardware

SPACE = get_layered_space("ofa_digits")
# What a kernel class takes beyond its roofline on every one of the made-up machines.
EFFICIENCY = np.array([2.0, 1.5, 4.0, 2.0, 3.0])


def machine(name: str, gflops: float, gb_s: float) -> Platform:
    hardware = Hardware(device=name, peak_gflops=gflops, bandwidth_gb_s=gb_s)
    return Platform(Device(name, "arm", hardware))


def measured(platform: Platform, n: int, seed: int, quirk: float = 0.0) -> Series:
    """Rooflines times efficiencies, those off by a quirk of the device, and 1 % of noise."""
    rng = np.random.default_rng(seed)
    genes = SPACE.sample_genes(rng, n)
    structure = block_structure(SPACE, 10)
    times, kernels = rooflines(structure, platform, 0.0)
    own = EFFICIENCY * np.exp(quirk * np.random.default_rng(len(platform.device.name)).standard_normal(5))
    index = stacked_contexts(structure, genes)
    ms = (times @ own + 0.001 * kernels)[index].sum(axis=1)
    ms = ms * (1 + 0.01 * rng.standard_normal(n))
    return Series(platform.device.name, platform, SPACE, genes, ms, "made up", 10)


MACHINES = [machine("a", 20, 5), machine("ab", 50, 8), machine("abc", 100, 30), machine("abcd", 30, 20)]
UNSEEN = machine("unseen", 60, 15)


@pytest.fixture(scope="module")
def model() -> GeneralizedLatency:
    return GeneralizedLatency().fit([measured(m, 300, i) for i, m in enumerate(MACHINES)])


def test_a_descriptor_alone_predicts_a_machine_that_obeys_the_roofline(model: GeneralizedLatency) -> None:
    test = measured(UNSEEN, 500, 9)
    score = errors(model.zero_shot(SPACE, UNSEEN, n_classes=10)(test.genes), test.ms)
    assert score["mape"] < 0.05 and score["spearman"] > 0.99
    # The fastest machine lies outside what the three others span.
    assert all(entry["mape"] < 0.2 for entry in model.validation_.values())
    assert model.spread(UNSEEN, "made up") < 0.1  # measured with the same software


def test_twice_the_machine_takes_half_the_time(model: GeneralizedLatency) -> None:
    genes = SPACE.sample_genes(np.random.default_rng(0), 20)
    once = model.zero_shot(SPACE, machine("x", 40, 10), n_classes=10)
    twice = model.zero_shot(SPACE, machine("y", 80, 20), n_classes=10)
    family = model.families["cpu"]
    kernels = block_structure(SPACE, 10).tables(lambda layers: float(len(layers)))(genes)
    floor = np.exp(family.sources["made up"]) * family.floor_ms * kernels
    np.testing.assert_allclose(once(genes) - floor, 2 * (twice(genes) - floor), rtol=1e-6)


def test_five_measurements_adapt_it_to_a_quirky_machine(model: GeneralizedLatency) -> None:
    few, test = measured(UNSEEN, 5, 3, quirk=0.4), measured(UNSEEN, 500, 4, quirk=0.4)
    alone = LatencyRegressor(SPACE, n_classes=10).fit(few.genes, few.ms)
    adapted = model.prior(SPACE, UNSEEN, n_classes=10).fit(few.genes, few.ms)
    score = errors(adapted.predict(test.genes), test.ms)
    assert score["mape"] < 0.05
    assert score["mape"] < 0.5 * errors(alone.predict(test.genes), test.ms)["mape"]


def test_suggested_subnets_tell_more_than_random_ones(model: GeneralizedLatency) -> None:
    prior = model.prior(SPACE, UNSEEN, n_classes=10)
    suggested = prior.suggest(4, seed=1)
    assert len(set(suggested)) == 4 and suggested == prior.suggest(4, seed=1)
    everything = measured(UNSEEN, 500, 5, quirk=0.4)
    exact = LatencyRegressor(SPACE, n_classes=10).fit(everything.genes, everything.ms)

    def error(genes: np.ndarray) -> float:
        fitted = model.prior(SPACE, UNSEEN, n_classes=10).fit(genes, exact.predict(genes))
        return errors(fitted.predict(everything.genes), everything.ms)["mape"]

    random = [error(SPACE.sample_genes(np.random.default_rng(seed), 4)) for seed in range(3)]
    assert error(SPACE.encode(suggested)) < np.mean(random)


def test_a_saved_model_predicts_the_same(model: GeneralizedLatency, tmp_path: Path) -> None:
    model.save(tmp_path / "g.model")
    loaded = GeneralizedLatency.load(tmp_path / "g.model")
    genes = SPACE.sample_genes(np.random.default_rng(0), 20)
    want = model.zero_shot(SPACE, UNSEEN, "made up", 10)(genes)
    np.testing.assert_allclose(loaded.zero_shot(SPACE, UNSEEN, "made up", 10)(genes), want)
    assert loaded.validation_ == model.validation_ and loaded.data_sha256_ == model.data_sha256_
    few = measured(UNSEEN, 5, 3)
    a, b = (m.prior(SPACE, UNSEEN, n_classes=10).fit(few.genes, few.ms) for m in (model, loaded))
    np.testing.assert_allclose(a.predict(genes), b.predict(genes), rtol=1e-3)
    (tmp_path / "g.model").write_bytes((tmp_path / "g.model").read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        GeneralizedLatency.load(tmp_path / "g.model")


def test_what_it_cannot_know_is_said(model: GeneralizedLatency) -> None:
    with pytest.raises(UserError, match="fitted to no GPU"):
        model.zero_shot(SPACE, find_platform("titan_xp_32"))
    with pytest.raises(UserError, match="fitted to no ASIC"):
        model.zero_shot(SPACE, find_platform("eyeriss"))
    with pytest.raises(UserError, match="x86-64-v4 lacks peak_gflops"):
        model.zero_shot(SPACE, find_platform("x86-64-v4"))
    with pytest.raises(UserError, match="at least one column"):
        GeneralizedLatency().fit([])


def test_a_gpu_that_was_left_out(shared_data: Path) -> None:
    """By descriptor alone, at batch 64: the goal of the issue is 10 %."""
    series = []
    for file, space, source in (
        ("ofa_mbv3_gpus", "ofa_mbv3_w1.0", "help"),
        ("ofa_mbv3_paper_val", "ofa_mbv3_w1.2", "paper"),
    ):
        table = read_table(shared_data / "latency" / f"{file}.csv.gz", space)
        genes = table.space.encode(table.archs)
        for column, ms in zip(table.columns, table.values.T, strict=True):
            platform = find_platform(column.target, column.batch)
            if platform.device.kind == "cuda":
                series.append(Series(column.series, platform, table.space, genes, ms, source))
    for device in ("RTX 2080 Ti", "Titan RTX", "Titan Xp"):
        rest = [s for s in series if s.platform.device.identity != device]
        model = GeneralizedLatency()
        model.families = fit_families(rest)
        for s in series:
            if s.platform.device.identity == device and s.platform.batch == 64 and s.source == "help":
                score = errors(model.zero_shot(s.space, s.platform, s.source)(s.genes), s.ms)
                assert score["mape"] <= 0.10, s.name
                assert score["spearman"] > 0.96


def test_a_first_estimate_knows_its_limits() -> None:
    model = shipped_model()
    known = first_estimate(model, get_layered_space("ofa_mbv3_w1.0"), find_platform("t4"))
    alike = first_estimate(model, get_layered_space("ofa_proxyless_w1.3"), find_platform("t4"))
    genes = np.zeros((1, len(known.space.cardinalities)), dtype=np.int64)
    assert known(genes)[0] > 0 and alike.resolutions == known.resolutions
    with pytest.raises(UserError, match="the space ofa_resnet50 is unlike them"):  # other work
        first_estimate(model, get_layered_space("ofa_resnet50"), find_platform("t4"))
    with pytest.raises(UserError, match="the space ofa_digits is unlike them"):  # too little
        first_estimate(model, get_layered_space("ofa_digits"), find_platform("gold_6240"))
    with pytest.raises(UserError, match="fitted to no ASIC"):
        first_estimate(model, get_layered_space("ofa_mbv3_w1.0"), find_platform("eyeriss"))


def test_software_that_was_not_measured_makes_an_estimate_less_sure() -> None:
    model = shipped_model()
    for platform in (find_platform("t4"), find_platform("gold_6240")):
        (source, *_) = model.families[family_of(platform)].sources
        assert model.spread(platform) > model.spread(platform, source) > 0
    estimate = first_estimate(model, get_layered_space("ofa_mbv3_w1.0"), find_platform("t4"))
    # The few GPUs that were left out do not tell as much as 1.96 standard deviations claim.
    assert estimate.factor == pytest.approx(np.exp(1.96 * model.deviation(find_platform("t4"))))
    assert 1.1 < model.deviation(find_platform("t4")) / model.spread(find_platform("t4")) < 1.4

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.estimators.metrics import errors
from ofa_tvm.latency.dataset import read_table
from ofa_tvm.latency.features import kernel_class
from ofa_tvm.latency.groups import GROUPS, context_matrices, incidence
from ofa_tvm.latency.kernel_sum import KernelSum
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.spaces import Layer, get_space
from ofa_tvm.spaces.blocks import BlockTables, block_structure

SPACE = get_space("ofa_digits")


def device_ms(layers: tuple[Layer, ...], seed: int = 0) -> float:
    """A made-up device: roofline per kernel, launch cost, and a quirk of each shape that no feature knows."""
    total = 0.0
    for layer in layers:
        moved = layer.c_in * layer.h_in**2 + layer.c_out * layer.h_out**2 + layer.params
        rate = {"depthwise": 2e6, "pool": 1e6}.get(kernel_class(layer), 2e7)
        quirk = np.random.default_rng([seed, layer.kernel, layer.c_in, layer.c_out, layer.h_in]).lognormal(
            0, 0.15
        )
        total += quirk * max(layer.macs / rate, moved / 4e6) + 0.003
    return total


@pytest.fixture(scope="module")
def device() -> BlockTables:
    return block_structure(SPACE, 10).tables(device_ms, constant=0.05)


def measured(device: BlockTables, n: int, seed: int, noise: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    genes = SPACE.sample_genes(rng, n)
    return genes, device(genes) * (1 + noise * rng.standard_normal(n))


def test_forty_subnets_of_the_small_space_are_enough(device: BlockTables) -> None:
    genes, ms = measured(device, 40, 1)
    model = LatencyRegressor(SPACE, n_classes=10).fit(genes, ms)
    test, _ = measured(device, 500, 2)
    score = errors(model.predict(test), device(test))
    assert score["mape"] < 0.04
    assert score["spearman"] > 0.98
    # Leave-one-out says about the same as fresh subnets do.
    assert 0.5 < model.validation_["mape"] / score["mape"] < 2.0


def test_intervals_cover_what_they_promise(device: BlockTables) -> None:
    covered = []
    for seed in range(5):
        model = LatencyRegressor(SPACE, n_classes=10).fit(*measured(device, 60, seed))
        test, again = measured(device, 1000, 100 + seed)
        mean, std = model.predict(test, return_std=True)
        covered.append((np.abs(mean - again) < 1.96 * std).mean())
    assert 0.90 <= np.mean(covered) <= 0.99


def test_a_kernel_sum_as_prior_beats_either_alone(device: BlockTables) -> None:
    # Kernel records know the quirks, but each is off by 15 % from what it takes inside a network.
    def record(layers: tuple[Layer, ...]) -> float:
        return 0.85 * device_ms(layers) * np.random.default_rng(len(layers)).uniform(0.9, 1.1)

    kernel_sum = KernelSum(SPACE, record, n_classes=10)
    genes, ms = measured(device, 12, 5)
    test, _ = measured(device, 500, 6)
    truth = device(test)

    def mape(values: np.ndarray) -> float:
        return errors(values, truth)["mape"]

    plain = mape(kernel_sum.predict(test))
    fitted = mape(kernel_sum.fit(genes, ms).predict(test))
    alone = mape(LatencyRegressor(SPACE, n_classes=10).fit(genes, ms).predict(test))
    both = mape(LatencyRegressor(SPACE, kernel_sum.tables, n_classes=10).fit(genes, ms).predict(test))
    assert fitted < plain
    assert both < 0.02
    assert both < alone


def test_kernel_sum_recovers_factor_and_overhead(device: BlockTables) -> None:
    kernel_sum = KernelSum(SPACE, device_ms, n_classes=10)
    genes = SPACE.sample_genes(np.random.default_rng(0), 30)
    truth = 1.2 * kernel_sum.sum(genes) + 0.4
    kernel_sum.fit(genes, truth)
    np.testing.assert_allclose(kernel_sum.predict(genes), truth, rtol=0.01)
    one = KernelSum(SPACE, device_ms, n_classes=10).fit(genes[:1], truth[:1])
    np.testing.assert_allclose(one.predict(genes[:1]), truth[:1], rtol=0.05)


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_kernel_sum_recovers_what_a_kernel_costs_on_top(device: BlockTables, scale: float) -> None:
    """In the unit of the latencies, whatever their level."""
    kernel_sum = KernelSum(SPACE, lambda layers: scale * device_ms(layers), n_classes=10)
    genes = SPACE.sample_genes(np.random.default_rng(0), 200)
    kernels = block_structure(SPACE, 10).tables(lambda layers: float(len(layers)))(genes)
    overhead = 0.3 * float(np.median(kernel_sum.sum(genes)) / kernels.mean())
    kernel_sum.fit(genes, kernel_sum.sum(genes) + overhead * kernels)
    assert kernel_sum.per_kernel_ == pytest.approx(overhead, rel=0.3)
    assert kernel_sum.factor_ == pytest.approx(1.0, abs=0.1)


def test_each_group_of_features_has_the_variance_of_its_share() -> None:
    """Over random subnets, whatever the features' own scale."""
    structure = block_structure(SPACE, 10)
    sample = incidence(structure, SPACE.sample_genes(np.random.default_rng(0), 512))
    for name, group in zip(GROUPS, context_matrices(structure), strict=True):
        assert (sample @ group).toarray().var(axis=0).sum() == pytest.approx(1.0), name


@pytest.mark.parametrize("n", [50, 900])  # fewer and more rows than features
def test_collapsed_tables_are_the_linear_model(device: BlockTables, n: int) -> None:
    """The table sums and deviations equal the Gaussian process they were made from, computed the long way."""
    genes, ms = measured(device, n, 7)
    model = LatencyRegressor(SPACE, n_classes=10, robust=False).fit(genes, ms)
    p = model._fitted.posterior
    test = SPACE.sample_genes(np.random.default_rng(8), 20)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        pairs = zip(p.variances, model._features(a, 1.0), model._features(b, 1.0), strict=True)
        return sum(v * (f @ g.T).toarray() for v, f, g in pairs)

    level = np.median(ms)
    noise = p.noise * (0.5 + 0.5 * (ms / level) ** 2)
    inverse = np.linalg.inv(kernel(genes, genes) + np.diag(noise))
    cross = kernel(test, genes)
    expected = level + 0.25 * level * cross @ inverse @ (ms - level) / (0.25 * level)
    mean, std = model.predict(test, return_std=True)
    np.testing.assert_allclose(mean, expected, rtol=1e-7)
    variance = np.diag(kernel(test, test) - cross @ inverse @ cross.T)
    variance = variance + p.noise * (0.5 + 0.5 * (mean / level) ** 2)
    np.testing.assert_allclose(std, 0.25 * level * p.inflation * np.sqrt(variance), rtol=1e-4)
    left_out = (inverse @ (ms - level)) / np.diag(inverse)
    np.testing.assert_allclose(ms - model.loo_prediction_, left_out, rtol=1e-4, atol=1e-8)


def test_an_outlier_pulls_little(device: BlockTables) -> None:
    genes, ms = measured(device, 60, 9)
    test, _ = measured(device, 300, 10)
    spoilt = ms.copy()
    spoilt[[5, 17]] *= 3.0  # the machine was busy
    good = errors(LatencyRegressor(SPACE, n_classes=10).fit(genes, ms).predict(test), device(test))["mape"]
    kept = LatencyRegressor(SPACE, n_classes=10).fit(genes, spoilt)
    hurt = LatencyRegressor(SPACE, n_classes=10, robust=False).fit(genes, spoilt)
    robust = errors(kept.predict(test), device(test))["mape"]
    assert robust < 3 * good + 0.01
    assert robust < errors(hurt.predict(test), device(test))["mape"]


def test_two_outliers_in_ten_rows_are_no_structure(device: BlockTables) -> None:
    # The guess is of a device with other quirks; without a second start of the fit the mean error is 7.1 %.
    prior = block_structure(SPACE, 10).tables(lambda layers: device_ms(layers, 1), constant=0.05)
    test, _ = measured(device, 400, 99)
    found = []
    for seed in range(20):
        genes, ms = measured(device, 10, seed, noise=0.02)
        ms[:2] *= 1.4
        model = LatencyRegressor(SPACE, prior, n_classes=10).fit(genes, ms)
        found.append(errors(model.predict(test), device(test))["mape"])
    assert np.mean(found) < 0.066


def test_one_measurement_gives_a_model() -> None:
    genes = SPACE.encode([SPACE.median_arch()])
    model = LatencyRegressor(SPACE).fit(genes, np.array([2.0]))
    assert model.predict(genes)[0] == pytest.approx(2.0, rel=0.1)
    assert np.isfinite(model.predict(SPACE.sample_genes(np.random.default_rng(0), 50))).all()


def test_a_bad_model_file_is_explained(tmp_path: Path, device: BlockTables) -> None:
    path = tmp_path / "p.model"
    with pytest.raises(UserError, match="cannot read"):
        LatencyRegressor.load(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not a model file"):
        LatencyRegressor.load(path)
    np.savez(tmp_path / "pickled.npz", header=np.array([{"kind": "latency_regressor"}], dtype=object))
    with pytest.raises(UserError, match="not a model file"):
        LatencyRegressor.load(tmp_path / "pickled.npz")
    header = np.frombuffer(json.dumps({"kind": "accuracy_predictor"}).encode(), dtype=np.uint8)
    np.savez(tmp_path / "other.npz", header=header)
    with pytest.raises(UsageError, match="accuracy_predictor"):
        LatencyRegressor.load(tmp_path / "other.npz")
    LatencyRegressor(SPACE, n_classes=10).fit(*measured(device, 10, 1)).save(path)
    with np.load(path) as data:
        arrays = dict(data)
    arrays["latency"] = arrays["latency"] * 2
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    path.write_bytes(buffer.getvalue())
    assert zipfile.is_zipfile(path)
    with pytest.raises(UserError, match="damaged"):
        LatencyRegressor.load(path)


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_bad_latencies_are_refused(bad: float) -> None:
    genes = SPACE.sample_genes(np.random.default_rng(0), 3)
    with pytest.raises(UserError, match="sample 1"):
        LatencyRegressor(SPACE).fit(genes, np.array([1.0, bad, 1.0]))
    with pytest.raises(UserError, match="at least one"):
        LatencyRegressor(SPACE).fit(genes[:0], np.array([]))


@pytest.mark.parametrize(
    ("column", "goal_30", "goal_500"),
    [("rtx2080ti", 0.45, 0.29), ("tesla_p40", 1.0, 0.40), ("note10_lut_sum", 0.35, 0.01)],
)
def test_published_devices_from_few_samples(
    shared_data: Path, column: str, goal_30: float, goal_500: float
) -> None:
    """With 30 samples about the published models' errors with 7,000 (0.386, 1.181 and 0.352 ms)."""
    space = get_space("ofa_mbv3_w1.2")
    train = read_table(shared_data / "latency" / "ofa_mbv3_paper_train.csv.gz", space)
    test = read_table(shared_data / "latency" / "ofa_mbv3_paper_val.csv.gz", space)
    genes, ms = space.encode(train.archs), train.column(column)[1]
    # Not the first rows: those of the RTX were measured on a cold card and are up to 2.8 ms too fast.
    shuffled = np.random.default_rng(0).permutation(len(ms))
    for n, goal in ((30, goal_30), (500, goal_500)):
        model = LatencyRegressor(space).fit(genes[shuffled[:n]], ms[shuffled[:n]])
        assert errors(model.predict(test.archs), test.column(column)[1])["mae"] < goal

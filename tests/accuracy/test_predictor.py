from __future__ import annotations

import csv
import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from ofa_tvm.accuracy.correction import transferred
from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.errors import UserError
from ofa_tvm.spaces import Arch, get_space, list_spaces
from ofa_tvm.spaces.space import Space


def made_up(space: Space, genes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Saturating in cost, better with resolution, and 0.2 points of measurement noise."""
    macs = space.macs_batch(genes) / space.macs(space.max_arch())
    depth = space.active_blocks(genes).mean(axis=1)
    return 70 + 8 * (1 - np.exp(-3 * macs)) + 2 * depth + 0.2 * rng.standard_normal(len(genes))


@pytest.mark.parametrize("name", list_spaces())
def test_eighty_subnets_rank_the_others(name: str) -> None:
    space, rng = get_space(name), np.random.default_rng(0)
    train, test = space.sample_genes(rng, 80), space.sample_genes(rng, 400)
    model = AccuracyPredictor(space).fit(train, made_up(space, train, rng))
    truth = made_up(space, test, rng)
    mean, std = model.predict(test, return_std=True)
    assert spearmanr(mean, truth).statistic > 0.9
    assert 0.88 < (np.abs(mean - truth) < 1.96 * std).mean() <= 1.0
    assert 0.6 < model.validation_["rmse"] / np.sqrt(np.mean((mean - truth) ** 2)) < 1.6


def test_far_from_the_samples_it_is_less_certain(rng: np.random.Generator) -> None:
    space = get_space("ofa_mbv3_w1.0")
    small = space.sample_genes(rng, 100, [128])
    small[:, space.columns("d")] = 0
    model = AccuracyPredictor(space).fit(small, made_up(space, small, rng))
    near = space.sample_genes(rng, 50, [128])
    near[:, space.columns("d")] = 0
    far = space.encode([space.max_arch()])
    assert model.predict(far, return_std=True)[1][0] > 2 * model.predict(near, return_std=True)[1].max()


def test_a_dozen_subnets_in_int8_move_a_predictor_of_float32(tmp_path: Path) -> None:
    """What quantising costs varies smoothly with the subnet, and less than accuracy itself."""
    space, rng = get_space("ofa_mbv3_w1.0"), np.random.default_rng(0)
    train, few, test = (space.sample_genes(rng, n) for n in (80, 12, 400))

    def in_int8(genes: np.ndarray, noise: float) -> np.ndarray:
        macs = space.macs_batch(genes) / space.macs(space.max_arch())
        clean = np.random.default_rng(1)
        truth = 70 + 8 * (1 - np.exp(-3 * macs)) + 2 * space.active_blocks(genes).mean(axis=1)
        return truth - 1.5 + macs + noise * clean.standard_normal(len(genes))

    model = AccuracyPredictor(space).fit(train, made_up(space, train, rng))
    moved = transferred(model, space.decode(few), in_int8(few, 0.2), "int8")
    alone = AccuracyPredictor(space).fit(few, in_int8(few, 0.2))
    errors = {
        name: np.sqrt(np.mean((m(test) - in_int8(test, 0)) ** 2))
        for name, m in (("moved", moved), ("alone", alone), ("float32", model))
    }
    assert errors["moved"] < errors["alone"] and errors["moved"] < 0.3 * errors["float32"]
    moved.save(tmp_path / "int8.model")
    assert AccuracyPredictor.load(tmp_path / "int8.model").dtype == moved.dtype == "int8"
    assert model.dtype == "float32"


def test_a_subnet_in_both_dtypes_says_what_one_costs() -> None:
    """Whatever the predictor makes of it: images and their noise are the same."""
    space, rng = get_space("ofa_digits"), np.random.default_rng(0)
    genes = space.sample_genes(rng, 40)
    accuracies = made_up(space, genes, rng)
    model = AccuracyPredictor(space).fit(genes, accuracies)
    moved = transferred(model, space.decode(genes[7:8]), accuracies[7:8] - 1.25, "int8")
    np.testing.assert_allclose(np.sort(moved.accuracy_), np.sort(model.accuracy_ - 1.25))


def imagenet(shared_data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Genes of the 1,336 distinct subnets and their (mean) measured top-1 accuracy in percent."""
    found: dict[Arch, list[float]] = {}
    for path in sorted((shared_data / "accuracy").glob("imagenet_top1_*.csv.gz")):
        with gzip.open(path, "rt", newline="") as file:
            for row in csv.DictReader(file):
                found.setdefault(Arch.from_json(row["arch"]), []).append(float(row["top1_percent"]))
    return get_space("ofa_mbv3_w1.0").encode(list(found)), np.array([np.mean(v) for v in found.values()])


def test_measured_imagenet_accuracies(shared_data: Path) -> None:
    genes, top1 = imagenet(shared_data)
    order = np.random.default_rng(0).permutation(len(top1))
    for n, rmse, rank in ((100, 0.20, 0.985), (500, 0.08, 0.997)):
        train, test = order[:n], order[n:]
        model = AccuracyPredictor(get_space("ofa_mbv3_w1.0")).fit(genes[train], top1[train])
        mean, std = model.predict(genes[test], return_std=True)
        assert np.sqrt(np.mean((mean - top1[test]) ** 2)) <= rmse
        assert spearmanr(mean, top1[test]).statistic >= rank
        assert 0.88 <= (np.abs(mean - top1[test]) < 1.96 * std).mean() <= 0.99


@pytest.mark.parametrize("seed", range(2))
def test_it_holds_beyond_the_sampled_region(shared_data: Path, seed: int) -> None:
    """Fitted to 300 of the less accurate half, it ranks the other half, where a search goes, without bias."""
    genes, top1 = imagenet(shared_data)
    worse, better = np.split(np.argsort(top1), [len(top1) // 2])
    train = np.random.default_rng(seed).permutation(worse)[:300]
    model = AccuracyPredictor(get_space("ofa_mbv3_w1.0")).fit(genes[train], top1[train])
    mean, std = model.predict(genes[better], return_std=True)
    assert spearmanr(mean, top1[better]).statistic > 0.96
    assert abs(np.mean(mean - top1[better])) < 0.1
    assert np.sqrt(np.mean((mean - top1[better]) ** 2)) < 0.2
    assert (np.abs(mean - top1[better]) < 1.96 * std).mean() > 0.9


def test_a_space_of_ones_own_is_given_when_its_model_is_read(tmp_path: Path) -> None:
    own = replace(get_space("ofa_digits"), name="a_space_of_ones_own")
    genes = own.sample_genes(np.random.default_rng(0), 12)
    model = AccuracyPredictor(own).fit(genes, own.macs_batch(genes) / 1e8)
    model.save(tmp_path / "own.model")
    with pytest.raises(UserError, match="unknown space"):
        AccuracyPredictor.load(tmp_path / "own.model")
    again = AccuracyPredictor.load(tmp_path / "own.model", own)
    np.testing.assert_allclose(again(genes), model(genes))

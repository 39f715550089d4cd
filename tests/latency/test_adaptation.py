"""Intervals of models adapted by few measurements: as wide as devices measured before say."""

from __future__ import annotations

import numpy as np
import pytest

from ofa_tvm.estimators.metrics import within95
from ofa_tvm.latency.adaptation import adapted, interval_width
from ofa_tvm.latency.generalized import GeneralizedLatency, shipped_model
from ofa_tvm.latency.references import Reference
from ofa_tvm.latency.sources import choose_source
from ofa_tvm.spaces import get_layered_space
from ofa_tvm.targets.devices import Platform, find_platform, list_devices

FBNET = get_layered_space("fbnet")
DEVICES = list_devices()


def left_out(name: str) -> tuple[GeneralizedLatency, Reference, Platform]:
    """The model that ships without a device, the device's table, and its hardware."""
    model = shipped_model()
    table = next(r for r in model.references if (r.name, r.space) == (name, "fbnet"))
    return model.without(table.device), table, find_platform(name)


@pytest.mark.parametrize("rows", [1, 5, 10])
def test_intervals_of_devices_that_were_left_out(rows: int) -> None:
    """At batch 64, 95 % are wanted, and nearly all lay inside before other devices were asked."""
    inside, before, widths = [], [], []
    for name in ("1080ti_64", "2080ti_64", "titan_rtx_64", "titanx_64", "titanxp_64"):
        model, table, platform = left_out(name)
        rng = np.random.default_rng(rows)
        genes, tested = FBNET.sample_genes(rng, rows), FBNET.sample_genes(rng, 500)
        ms = table.tables(genes) + table.deviation_ms * rng.standard_normal(rows)
        true = table.tables(tested) + table.deviation_ms * rng.standard_normal(len(tested))
        fitted = adapted(model, FBNET, platform, genes, ms, devices=DEVICES)
        mean, deviation = fitted.predict(tested, return_std=True)
        alone = fitted.clone(width=1.0).fit(genes, ms).predict(tested, return_std=True)[1]
        np.testing.assert_allclose(deviation, alone * fitted.width)
        inside.append(within95(mean, deviation, true))
        before.append(within95(mean, alone, true))
        widths.append(fitted.width)
    assert np.mean(before) > 0.99 and np.mean(inside) > 0.9
    assert np.mean(widths) < 0.75


def test_without_devices_the_rows_alone_say_how_wide() -> None:
    model, _, platform = left_out("2080ti_64")
    assert (
        interval_width(model, FBNET, platform, FBNET.sample_genes(np.random.default_rng(0), 5), None, []) == 1
    )


def test_measurements_choose_the_source() -> None:
    """Of two data sets of the same space, the one whose level is measured."""
    model = shipped_model()
    space, platform = get_layered_space("ofa_mbv3_w1.0"), find_platform("v100_64")
    assert choose_source(model, space, platform) == "help"
    assert choose_source(model, get_layered_space("ofa_mbv3_w1.2"), platform) == "arxiv-2101.00732"
    assert choose_source(model, get_layered_space("ofa_proxyless_w1.3"), platform) is None, "none is likelier"
    genes = space.sample_genes(np.random.default_rng(0), 3)
    for source in ("help", "arxiv-2101.00732"):
        level = model.zero_shot(space, platform, source)(genes)
        other = get_layered_space("ofa_proxyless_w1.3")
        assert choose_source(model, space, platform, measured=(genes, 1.02 * level)) in ("help", source)
        alike = other.sample_genes(np.random.default_rng(0), 3)
        level = model.zero_shot(other, platform, source)(alike)
        assert choose_source(model, other, platform, measured=(alike, 1.02 * level)) == source

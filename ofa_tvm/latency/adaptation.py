"""A model over many devices adapted to a new one by a few measurements, with intervals of honest width.

How far off an adapted model is cannot be told from ten rows. It is told by devices that were measured
before: each is taken for the unknown one, "measured" at the same subnets, and predicted without its own
tables. The intervals are made so wide that 95 % of what each of these devices takes lies within them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from ofa_tvm.latency.generalized import GeneralizedLatency
from ofa_tvm.latency.references import Reference
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.latency.series import family_of
from ofa_tvm.latency.sources import choose_source
from ofa_tvm.spaces import LayeredSpace
from ofa_tvm.targets.devices import Device, Platform

# Measured rows from which on their own residuals tell enough.
_MOST_ROWS = 100
_DRAWS, _TESTED = 3, 300
# Measured rows that count as much as the devices measured before.
_ROWS_LIKE_DEVICES = 20.0


def adapted(
    model: GeneralizedLatency,
    space: LayeredSpace,
    platform: Platform,
    genes: np.ndarray,
    ms: np.ndarray,
    *,
    source: str | None = None,
    n_classes: int | None = None,
    devices: Sequence[Device] = (),
    target: str | None = None,
) -> LatencyRegressor:
    """Fit what the model knows of a device to the first measurements of it.

    Parameters
    ----------
    genes : (n, n_genes) array
    ms : (n,) array
    source : data set whose way of measuring is meant; None: chosen by the measurements
    n_classes : of the networks; None: as is usual in the space
    devices : the hardware of those measured before, where the width of intervals comes from
    target : name of the adapted model; None: the device's

    Raises
    ------
    UserError
        As `GeneralizedLatency.zero_shot`, and if a latency is not above 0.
    """
    if source is None:
        source = choose_source(model, space, platform, n_classes, (genes, ms))
    prior = model.prior(space, platform, source, n_classes)
    estimator = prior.clone(target=target or platform.device.name).fit(genes, ms)
    if len(ms) > _MOST_ROWS:
        return estimator
    width = interval_width(model, space, platform, genes, n_classes, devices)
    return estimator.clone(width=_with_own(width, estimator)).fit(genes, ms)


def _with_own(width: float, estimator: LatencyRegressor) -> float:
    """The width, and more where the rows themselves are further off than devices measured before were."""
    n = len(estimator.latency_)
    if n < 2:
        return width
    share = n / (n + _ROWS_LIKE_DEVICES)
    own = float(np.quantile(np.abs(estimator.loo_deviations_), 0.95)) / 1.96
    return float(np.sqrt((1 - share) * width**2 + share * max(width, own) ** 2))


def interval_width(
    model: GeneralizedLatency,
    space: LayeredSpace,
    platform: Platform,
    genes: np.ndarray,
    n_classes: int | None,
    devices: Sequence[Device],
) -> float:
    """What the deviations of a model adapted at some subnets (genes) have to be multiplied by.

    Returns
    -------
    float
        1 where no other device of the space is known.
    """
    hardware = {device.identity: device for device in devices}
    rng = np.random.default_rng(0)
    sides = sorted({space.resolutions[i] for i in genes[:, -1]}) if len(genes) > 1 else None
    tested = space.sample_genes(rng, _TESTED, sides)
    widths = []
    with threadpool_limits(1, user_api="blas"):
        for r in _alike(model, space, platform, hardware):
            others = model.without(r.device)
            prior = others.prior(space, Platform(hardware[r.device], r.batch), r.source or None, n_classes)
            gaps = []
            for _ in range(_DRAWS):
                level = r.tables(genes)
                measured = level + r.deviation_ms * rng.standard_normal(len(genes))
                guess = prior.clone().fit(genes, np.maximum(measured, 0.1 * level))
                mean, std = guess.predict(tested, return_std=True)
                true = r.tables(tested) + r.deviation_ms * rng.standard_normal(len(tested))
                gaps.append(np.abs(true - mean) / std)
            widths.append(float(np.quantile(gaps, 0.95)) / 1.96)
    return max(widths, default=1.0)


def _alike(
    model: GeneralizedLatency, space: LayeredSpace, platform: Platform, hardware: dict[str, Device]
) -> list[Reference]:
    """Other devices' columns that are most like the platform: of its kind and batch where two devices are."""
    known = [
        r
        for r in model.references
        if r.space == space.name and r.device in hardware and r.device != platform.device.identity
    ]
    kind = [r for r in known if family_of(Platform(hardware[r.device], r.batch)) == family_of(platform)]
    batch = [r for r in kind if r.batch == platform.batch]
    for group in (batch, kind):
        if len({r.device for r in group}) > 1:
            return group
    return known

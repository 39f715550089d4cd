"""What a search learns by measuring: a supernet's accuracies, and a target's latencies."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import compress
from pathlib import Path

import numpy as np

from ofa_tvm.accuracy.correction import CORRECTING, transferred
from ofa_tvm.accuracy.evaluate import evaluate_subnets
from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.estimators.contract import AccuracyModel, Function
from ofa_tvm.latency.bench import SubnetBench
from ofa_tvm.latency.collect import collect
from ofa_tvm.latency.log_model import kernel_sum_from_log
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.progress import NEVER, SILENT, Deadline, Progress
from ofa_tvm.spaces import Arch
from ofa_tvm.spaces.space import Space
from ofa_tvm.supernet import Supernet, dtype_of
from ofa_tvm.targets import Variant
from ofa_tvm.training.data import ImageData
from ofa_tvm.tuning import KernelUnion
from ofa_tvm.workflow.models import KnownLatency
from ofa_tvm.workflow.project import ACCURACY_SAMPLES, CALIBRATION_IMAGES, LATENCY_SAMPLES
from ofa_tvm.workflow.store import Store

_LEAST = 4  # subnets that an accuracy predictor is fitted to, whatever the deadline


def accuracy_sample(
    space: Space, resolutions: Sequence[int], samples: int, start: AccuracyPredictor | None, seed: int
) -> list[Arch]:
    """Subnets that an accuracy predictor is fitted to, or one to `start` from is corrected by."""
    rng = np.random.default_rng(seed)
    sample = space.decode(space.sample_genes(rng, samples if start is None else CORRECTING, resolutions))
    ends = [end for r in resolutions for end in (space.min_arch(r), space.max_arch(r))]
    return list(dict.fromkeys([*ends, *sample] if start is None else sample))


def learn_accuracy(
    net: Supernet,
    data: ImageData,
    store: Store,
    resolutions: Sequence[int],
    *,
    samples: int = ACCURACY_SAMPLES,
    start: AccuracyPredictor | None = None,
    calibration_images: int = CALIBRATION_IMAGES,
    seed: int = 0,
    deadline: Deadline = NEVER,
    progress: Progress = SILENT,
) -> AccuracyPredictor:
    """Evaluate random subnets and the extreme ones, and fit a predictor; both are kept.

    Parameters
    ----------
    net, data
        Supernet, computing in what accuracies are wanted of, and images, whose validation split counts.
    store
        The project's files; evaluations that are there are not repeated.
    resolutions
        Of the subnets.
    samples
        Random subnets.
    start
        A predictor of the same subnets in another number format, which a dozen of them correct.
    calibration_images, seed
        Of the batch-norm statistics; the seed also draws the subnets.
    deadline
        Once it is over no subnet is begun if there are four, and both ends of each resolution; a predictor of
        fewer than asked for is not kept.

    Raises
    ------
    UserError
        If a file cannot be read or written.
    """
    space, dtype = net.space, dtype_of(net)
    archs = accuracy_sample(space, resolutions, samples, start, seed)
    evaluated = partial(
        evaluate_subnets,
        net,
        data=data,
        split="val",
        calibration_images=calibration_images,
        cache_path=store.accuracy_cache,
        seed=seed,
        progress=progress,
    )
    if deadline != NEVER:
        evaluated(archs[: max(_LEAST, 2 * len(resolutions))])  # they begin with each resolution's ends
    accuracies = evaluated(archs, deadline=deadline)
    done = np.isfinite(accuracies)
    archs, accuracies = list(compress(archs, done)), accuracies[done]
    predictor = (
        AccuracyPredictor(space, dtype=dtype).fit(archs, accuracies)
        if start is None
        else transferred(start, archs, accuracies, dtype)
    )
    if done.all():
        predictor.save(store.accuracy_model(dtype))
    return predictor


def learn_latency(
    bench: SubnetBench,
    union: KernelUnion,
    store: Store,
    resolutions: Sequence[int],
    *,
    samples: int = LATENCY_SAMPLES,
    seed: int = 0,
    deadline: Deadline = NEVER,
    progress: Progress = SILENT,
) -> KnownLatency:
    """Measure random subnets and fit the tuning log's kernel sum to them; both are kept.

    Parameters
    ----------
    bench
        Measures; its records are the log.
    union
        Kernels of the space at these resolutions.
    store
        The project's files; a table that is there is extended to `samples` rows.
    resolutions
        Of the subnets.
    samples
        Subnets to measure.
    seed
        Of their choice.
    deadline
        Once it is over no more are measured; a model of fewer is not kept.

    Raises
    ------
    UserError
        If the log has no record of the space's kernels, or a subnet cannot be compiled or measured.
    """
    space, target, n_classes = bench.net.space, bench.target, bench.net.n_classes
    kernel_sum = kernel_sum_from_log(
        space,
        union,
        bench.records,
        n_classes=n_classes,
        unit=target.unit,
        tune=f"ofa-tvm tune {Variant.of(target).options()}",
    )
    variant = Variant.of(target)
    every = collect(
        bench,
        store.latency_table(variant),
        samples,
        resolutions,
        seed=seed,
        deadline=deadline,
        progress=progress,
    ).measured
    # The kernel sum holds for the union's resolutions only; the table may have more.
    measured = {arch: cost for arch, cost in every.items() if arch.r in resolutions}
    archs, costs = list(measured), np.array(list(measured.values()))
    model = LatencyRegressor(
        space,
        kernel_sum.fit(archs, costs).tables,
        target=variant.series,
        unit=target.unit,
        n_classes=n_classes,
    ).fit(archs, costs)
    if len(every) >= samples or not deadline.is_over:
        model.save(store.latency_model(variant))
    return KnownLatency(model, measured)


class AccuracyCheck:
    """Measures accuracies on the validation split and corrects a predictor with them (`CheckAccuracy`).

    Parameters
    ----------
    net, data
        Supernet and images.
    predictor
        What the search starts from.
    cache
        File of finished evaluations.
    calibration_images, seed
        Of the batch-norm statistics.
    """

    def __init__(
        self,
        net: Supernet,
        data: ImageData,
        predictor: AccuracyModel,
        cache: Path,
        *,
        calibration_images: int = CALIBRATION_IMAGES,
        seed: int = 0,
        progress: Progress = SILENT,
    ) -> None:
        self._net, self._data, self._predictor, self._cache = net, data, predictor, cache
        self._images, self._seed, self._progress = calibration_images, seed, progress
        self._known: dict[Arch, float] = {}

    @property
    def one_image(self) -> float:
        """What one of the images is worth, 0..1."""
        return 1 / self._data.size("val")

    def __call__(self, archs: Sequence[Arch]) -> tuple[np.ndarray, Function]:
        """Validation accuracies (n,), 0..1, and the corrected accuracy function."""
        values = evaluate_subnets(
            self._net,
            archs,
            self._data,
            "val",
            calibration_images=self._images,
            cache_path=self._cache,
            seed=self._seed,
            progress=self._progress,
        )
        self._known |= dict(zip(archs, values.tolist(), strict=True))
        known = np.array(list(self._known.values()))
        return values, self._predictor.corrected(list(self._known), known)

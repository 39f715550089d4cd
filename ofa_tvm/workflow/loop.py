"""The loop after training in two calls: tune a space once, then find and ship subnets within budgets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ofa_tvm.progress import SILENT, Progress, as_progress
from ofa_tvm.search.budget import Budget, parse_budget
from ofa_tvm.spaces.space import Space
from ofa_tvm.targets import Target
from ofa_tvm.workflow.project import ACCURACY_SAMPLES, CALIBRATION_IMAGES, LATENCY_SAMPLES
from ofa_tvm.workflow.store import Store

if TYPE_CHECKING:
    from ofa_tvm.supernet import Supernet
    from ofa_tvm.training.data import ImageData
    from ofa_tvm.tuning import TuningResult
    from ofa_tvm.workflow.ship import Shipped


def tune_space(
    space: Space,
    target: Target,
    folder: str | Path,
    *,
    n_classes: int = 1000,
    resolutions: Sequence[int] | None = None,
    trials: int = 16,
    seconds: float | None = None,
    seed: int = 0,
    progress: Progress | bool = SILENT,
) -> TuningResult:
    """Tune every kernel that a space can need, as `ofa-tvm tune` does; called again it goes on.

    Parameters
    ----------
    space, target
        Of what, for what.
    folder
        The project's, whose `tuning_logs` receives a record a trial.
    n_classes
        Of the classifier, which is a kernel too.
    resolutions
        None for the space's default ones.
    trials
        Of each kernel, in all.
    seconds
        Wall-clock limit; None for none.
    progress
        Told of all that takes long; True for bars in a terminal or a notebook.

    Raises
    ------
    UserError
        If the log cannot be written, or the target cannot be measured from here.
    """
    from ofa_tvm.tuning import kernel_union
    from ofa_tvm.workflow.tune import tune

    sides, progress = tuple(resolutions or space.default_resolutions), as_progress(progress)
    union = kernel_union(space, sides, target, n_classes=n_classes, progress=progress)
    return tune(
        union.kernels,
        target,
        Store(Path(folder)).logs,
        trials=trials,
        seconds=seconds,
        seed=seed,
        weights=union.mean_calls(space, sides, n_classes),
        progress=progress,
    )


def search_and_ship(
    net: Supernet,
    data: ImageData,
    target: Target,
    budget: Budget | str,
    folder: str | Path,
    *,
    resolutions: Sequence[int] | None = None,
    accuracy_samples: int = ACCURACY_SAMPLES,
    latency_samples: int = LATENCY_SAMPLES,
    calibration_images: int = CALIBRATION_IMAGES,
    candidates: int = 4,
    rounds: int = 3,
    seed: int = 0,
    progress: Progress | bool = SILENT,
) -> Shipped:
    """The most accurate subnet whose measured latency is within a budget, as an artefact in `folder/deploy`.

    What `ofa-tvm search` does: it learns accuracy and latency from measured subnets, searches, compiles and
    measures the best candidates, corrects the models and searches again, and ships the best that keeps the
    budget. Evaluations, measurements and the latency model are kept in the folder and not repeated.

    Parameters
    ----------
    net
        Trained supernet.
    data
        Its images: training images for batch statistics, validation images to choose by, test images for the
        accuracy of the compiled module.
    budget
        Such as "25ms"; in the target's unit.
    folder
        The project's, with the `tuning_logs` that `tune_space` left.
    resolutions
        To choose from; None for the space's default ones, or those of the latency model that is there.
    accuracy_samples, latency_samples
        Random subnets that are evaluated, and measured, to learn from.
    calibration_images
        Behind a subnet's batch statistics.
    candidates, rounds
        Subnets measured in each round of the search, and rounds at the most.
    progress
        Told of all that takes long, and of what is wrong with a tuning log; True for bars.

    Raises
    ------
    UsageError
        If the budget cannot be read, is in another unit, or below what the space can reach; if the target
        has no tuning log.
    UserError
        If nothing that was measured is within the budget.
    """
    from ofa_tvm.workflow.pipeline import run_search
    from ofa_tvm.workflow.request import SearchRequest, TargetRequest

    store = Store(Path(folder))
    wanted = parse_budget(budget) if isinstance(budget, str) else budget
    request = SearchRequest(
        store,
        net,
        data,
        (TargetRequest(target, wanted, artefact=store.artefact),),
        resolutions=None if resolutions is None else tuple(resolutions),
        accuracy_samples=accuracy_samples,
        latency_samples=latency_samples,
        calibration_images=calibration_images,
        candidates=candidates,
        rounds=rounds,
        seed=seed,
    )
    shipped = run_search(request, progress=as_progress(progress)).targets[0].shipped
    if shipped is None:
        raise RuntimeError("a target with a folder ships")
    return shipped

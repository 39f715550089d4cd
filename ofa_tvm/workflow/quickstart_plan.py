"""What a quickstart has left to do, and how long it takes: one of each is timed, and nothing is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ofa_tvm.number_formats import arithmetic
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.search.budget import Budget
from ofa_tvm.spaces import get_space
from ofa_tvm.supernet import build_supernet, set_dtype
from ofa_tvm.targets import Target
from ofa_tvm.training.data import digits
from ofa_tvm.tuning import kernel_union
from ofa_tvm.workflow.plan import search_plan
from ofa_tvm.workflow.quickstart import search_request
from ofa_tvm.workflow.quickstart_settings import SPACE, QuickstartSettings
from ofa_tvm.workflow.steps import Plan, Step
from ofa_tvm.workflow.store import Store
from ofa_tvm.workflow.training_plan import training_plan
from ofa_tvm.workflow.tune import plan_tuning


def quickstart_plan(
    out: Path,
    targets: Sequence[Target],
    *,
    budget: Budget | None = None,
    settings: QuickstartSettings | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Plan:
    """Steps of training, trials, evaluations and measurements, for targets in number formats that compete.

    Raises
    ------
    UserError
        If something cannot be read, compiled or measured.
    """
    settings, store = settings or QuickstartSettings(), Store(out)
    space, data = get_space(SPACE), digits()
    training = training_plan(settings.training, space, data, store.training, seed=seed, progress=progress)
    nets = {}
    for dtype in {arithmetic(one.dtype) for one in targets}:
        nets[dtype] = build_supernet(space, data.n_classes).eval()  # untrained, it takes as long
        set_dtype(nets[dtype], dtype)
    tuning = []
    for one in targets:
        union = kernel_union(space, settings.resolutions, one, n_classes=data.n_classes, progress=progress)
        weights = union.mean_calls(space, settings.resolutions, data.n_classes)
        plan = plan_tuning(union.kernels, one, store.logs, settings.trials, weights)
        if plan.trials:
            most_s = min(plan.seconds, settings.tuning_seconds)
            tuning.append(Step(f"tuning trial for {one.name}", plan.trials, most_s / plan.trials))
    with progress.task("time an evaluation and a measurement"):
        searched = search_plan(
            [search_request(settings, store, nets, data, one, budget, seed) for one in targets], timed=True
        )
    return Plan((*training.steps, *tuning, *searched.steps, Step("compare with other runtimes", 1)))

"""The verified search in a project, and shipping what it finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ofa_tvm.deploy.manifest import CandidateEntry, SearchEntry
from ofa_tvm.errors import UserError
from ofa_tvm.estimators.contract import AccuracyModel, CostModel
from ofa_tvm.latency.correction import learn_error
from ofa_tvm.progress import NEVER, SILENT, Deadline, Progress
from ofa_tvm.search.budget import Budget
from ofa_tvm.search.candidates import Candidate, Cost, VerifiedResult
from ofa_tvm.search.constraints import Constraint
from ofa_tvm.search.verify import MeasuredLimit, search_verified
from ofa_tvm.spaces import Arch
from ofa_tvm.spaces.space import Space
from ofa_tvm.workflow.models import KnownLatency
from ofa_tvm.workflow.project import CALIBRATION_IMAGES

if TYPE_CHECKING:
    from ofa_tvm.latency.bench import SubnetBench
    from ofa_tvm.training.data import ImageData
    from ofa_tvm.workflow.learn import AccuracyCheck
    from ofa_tvm.workflow.ship import ReadyToShip, Shipped

_KNOWN_NOISE = 0.02  # of a latency that was measured earlier
_SHIP_TRIES = 6


@dataclass(frozen=True)
class TargetBudget:
    """A budget on one target, in its unit: what measures there, and what the search predicts with.

    Subnets that were measured to learn the latency can win as well.
    """

    bench: SubnetBench
    latency: KnownLatency
    budget: Budget

    @property
    def model(self) -> CostModel:
        """What predicts the cost of genes (n, n_genes)."""
        return self.latency.model

    @property
    def measured(self) -> Mapping[Arch, float]:
        """Subnets measured before the search."""
        return self.latency.measured

    @property
    def limit(self) -> MeasuredLimit:
        """The same as the search takes it."""
        return MeasuredLimit(self.bench.target.name, self.model, self.budget, self.bench.costs)


def find_subnet(
    targets: Sequence[TargetBudget],
    accuracy: AccuracyModel,
    resolutions: Sequence[int],
    *,
    check: AccuracyCheck | None = None,
    constraints: Sequence[Constraint] = (),
    candidates: int = 4,
    rounds: int = 3,
    seed: int = 0,
    deadline: Deadline = NEVER,
    progress: Progress = SILENT,
) -> VerifiedResult:
    """The most accurate subnet whose measured cost is within the budget, on every target.

    Of those that the validation images cannot tell apart it is the fastest (`best_first`).

    Parameters
    ----------
    targets
        One or several; each compiles and measures the candidates.
    accuracy
        What the search predicts with.
    resolutions
        To choose from.
    check
        Measures the candidates' accuracies; None trusts the predictor.
    constraints
        What holds beside the budgets.
    candidates, rounds
        Subnets measured in each round, and rounds at the most.
    deadline
        Once it is over no round is begun if there is a subnet that may win.

    Raises
    ------
    UsageError
        If the space cannot reach the budget; says what it can.
    UserError
        If nothing that was measured is within it.
    """
    space = targets[0].bench.net.space
    return search_verified(
        space,
        accuracy,
        [target.limit for target in targets],
        correct=learn_error,
        check_accuracy=check,
        one_image=0.0 if check is None else check.one_image,
        candidates=candidates,
        rounds=rounds,
        known=_measured_earlier(space, targets, accuracy, resolutions),
        constraints=constraints,
        resolutions=resolutions,
        seed=seed,
        deadline=deadline,
        progress=progress,
    )


def _measured_earlier(
    space: Space, targets: Sequence[TargetBudget], accuracy: AccuracyModel, resolutions: Sequence[int]
) -> list[Candidate]:
    """Subnets that every target's model was learned from."""
    archs = [
        arch
        for arch in dict.fromkeys(arch for target in targets for arch in target.measured)
        if arch.r in resolutions and all(arch in target.measured for target in targets)
    ]
    if not archs:
        return []
    genes, limits = space.encode(archs), [target.budget.value for target in targets]
    predicted = np.column_stack([target.model(genes) for target in targets])
    known = []
    for arch, value, row in zip(archs, accuracy(genes), predicted, strict=True):
        measured = [target.measured[arch] for target in targets]
        costs = [Cost(float(p), m, _KNOWN_NOISE * m) for p, m in zip(row, measured, strict=True)]
        known.append(Candidate.of(arch, float(value), costs, limits, 0))
    return known


def ship_best(
    targets: Sequence[TargetBudget],
    data: ImageData,
    folders: Sequence[Path],
    found: VerifiedResult,
    *,
    calibration_images: int = CALIBRATION_IMAGES,
    with_runtime: bool = False,
    seed: int = 0,
    progress: Progress = SILENT,
) -> tuple[VerifiedResult, list[Shipped]]:
    """Ship the most accurate subnet whose modules, measured once more as they ship, keep the budgets.

    One that exceeds them then is on record with that, and the next one's accuracy is measured before it
    ships in its place.

    Parameters
    ----------
    targets
        As in `find_subnet`.
    data
        Calibrates, and tests through the modules.
    folders
        One for each target's artefact. They change only when every module has kept its budget.
    found
        What `find_subnet` returned.
    calibration_images, with_runtime, seed
        As in `ship`.

    Returns
    -------
    What was found, with what shipped as its winner; and what was shipped for each target.

    Raises
    ------
    UserError
        If none does, or an artefact cannot be written.
    """
    limits = [target.budget.value for target in targets]
    for _ in range(_SHIP_TRIES):
        if not found.ranked:
            break
        with ExitStack() as stack, progress.task("build and check what ships"):
            ready = _ready_for_all(targets, data, found, stack, calibration_images, seed)
            if isinstance(ready, list):
                return found, [
                    built.write(folder, with_runtime=with_runtime, progress=progress)
                    for built, folder in zip(ready, folders, strict=True)
                ]
        found = found.measured_again(ready, limits)
    wanted = " and ".join(f"{t.budget}" + f" on {t.bench.target.name}" * (len(targets) > 1) for t in targets)
    raise UserError(
        f"no module kept the budget of {wanted} when it was measured for shipping: the machine is busy or "
        "the budget is at the edge of what is possible; raise it, or run the same command again"
    )


def _ready_for_all(
    targets: Sequence[TargetBudget],
    data: ImageData,
    found: VerifiedResult,
    files: ExitStack,
    calibration_images: int,
    seed: int,
) -> list[ReadyToShip] | tuple[Cost, ...]:
    """The winner's module for each target; as soon as one exceeds its budget, the winner's costs instead."""
    from ofa_tvm.workflow.ship import ReadyToShip, ready_to_ship

    chosen = found.winner
    ready: list[ReadyToShip] = []
    for i, target in enumerate(targets):
        built = ready_to_ship(
            target.bench.net,
            chosen.arch,
            data,
            target.bench.target,
            target.bench.records,
            files,
            budget=target.budget,
            predicted=chosen.costs[i].predicted,
            predicted_accuracy=min(chosen.accuracy, 1.0),
            search=search_entry(found, i),
            calibration_images=calibration_images,
            seed=seed,
        )
        if not isinstance(built, ReadyToShip):
            again = replace(chosen.costs[i], measured=built.cost)
            return (*chosen.costs[:i], again, *chosen.costs[i + 1 :])
        ready.append(built)
    return ready


def search_entry(found: VerifiedResult, target: int) -> SearchEntry:
    """What a verified search predicted and measured on one of its targets, for the manifest.

    Candidates in order; of the subnets that were measured before the search, those whose accuracy it
    measured, what ships among them.
    """
    return SearchEntry(
        found.rounds,
        tuple(
            CandidateEntry(
                c.arch,
                c.round,
                min(c.accuracy, 1.0),
                c.measured_accuracy,
                c.costs[target].predicted,
                c.costs[target].measured,
                c.costs[target].noise,
                c.within,
            )
            for c in (*found.earlier, *found.record)
        ),
    )

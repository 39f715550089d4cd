"""ofa-tvm search."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.cli.options import (
    INPUT_PATH,
    OUTPUT_PATH,
    dtype_option,
    resolutions_option,
    space_option,
    threads_option,
)
from ofa_tvm.errors import UsageError

if TYPE_CHECKING:
    from ofa_tvm.latency.collect import SubnetBench
    from ofa_tvm.search.budget import Budget
    from ofa_tvm.search.verify import Checked, VerifiedResult
    from ofa_tvm.spaces import Arch
    from ofa_tvm.targets import DType
    from ofa_tvm.workflow.search import Accuracy, Latency, LearnedLatency
    from ofa_tvm.workflow.settings import Settings
    from ofa_tvm.workflow.ship import Shipped

_FILE, _NEW_FILE = INPUT_PATH, OUTPUT_PATH
_RANDOM = "random weights, because of --arch-only: the subnet's accuracy is a prediction, nothing is shipped"


@dataclass(frozen=True)
class _Effort:
    """How much a verified search measures."""

    candidates: int
    rounds: int
    latency_samples: int


@dataclass(frozen=True)
class _Shipment:
    """Where the artefact goes, and whether with the runtime."""

    folder: Path
    with_runtime: bool

    def folders(self, every: Sequence[Settings]) -> list[Path]:
        """One for each target: the folder itself, or one in it for each of several."""
        names = [settings.target.name for settings in every]
        return [self.folder / name for name in names] if len(names) > 1 else [self.folder]


@click.command(short_help="Find, verify and ship the most accurate subnet within a latency budget.")
@click.option(
    "--latency",
    "latencies",
    multiple=True,
    metavar="BUDGET",
    help="Budget with its unit: 25ms, 800us, or 120Minstr if emulated; again for each --target.",
)
@click.option(
    "-t",
    "--target",
    "targets",
    multiple=True,
    default=("x86",),
    show_default=True,
    help="A target's name or YAML file; again for one subnet that keeps a budget on each of several targets.",
)
@threads_option
@dtype_option
@space_option
@resolutions_option
@click.option(
    "--pareto",
    is_flag=False,
    flag_value="latency,accuracy",
    metavar="[OBJECTIVES]",
    help="Predict the trade-off (NSGA-II) of latency,accuracy or of any among latency, accuracy, macs, "
    "params, memory, size; budgets are optional then. -o names a JSON file for the front.",
)
@click.option(
    "--latency-table",
    "tables",
    type=_FILE,
    multiple=True,
    help="Lookup table of Once-for-All: a file, or a folder of them; again for each --target.",
)
@click.option(
    "--latency-predictor",
    "predictors",
    type=_FILE,
    multiple=True,
    help="Model file of `ofa-tvm predictor fit`; again for each --target.",
)
@click.option("--accuracy-predictor", type=_FILE, help="By default the nearest ofa-tvm.yaml's.")
@click.option("--no-verify", is_flag=True, help="Predict only: nothing is measured, nothing shipped.")
@click.option("--arch-only", is_flag=True, help="Go on without a checkpoint: measure, but ship nothing.")
@click.option(
    "--candidates", type=click.IntRange(min=1), default=4, show_default=True, help="Measured in each round."
)
@click.option(
    "--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Of searching and measuring."
)
@click.option(
    "--latency-samples", type=click.IntRange(min=2), default=40, show_default=True,
    help="Measured to learn a latency model where there is none.",
)  # fmt: skip
@click.option(
    "-o",
    "--output",
    type=_NEW_FILE,
    help="Folder of the artefact, or of one for each of several targets; without it nothing is shipped.",
)
@click.option("--with-runtime", is_flag=True, help="Add the target's TVM runtime libraries to the artefact.")
@common_options
def command(
    console: Console,
    latencies: tuple[str, ...],
    targets: tuple[str, ...],
    threads: int | None,
    dtype: DType | None,
    space: str | None,
    resolutions: tuple[int, ...] | None,
    pareto: str | None,
    tables: tuple[Path, ...],
    predictors: tuple[Path, ...],
    accuracy_predictor: Path | None,
    no_verify: bool,
    arch_only: bool,
    candidates: int,
    rounds: int,
    latency_samples: int,
    output: Path | None,
    with_runtime: bool,
) -> None:
    """Search the space for the most accurate subnet whose latency is within the budget.

    What the search proposes is compiled, and its latency measured on the target and its accuracy on the
    validation images; both predictors learn from that and the search is repeated. What is shipped with -o has
    a measured latency within the budget. Space, checkpoint, images, accuracy predictor and tuning logs come
    from the nearest ofa-tvm.yaml; the latency model is the project's, else it is learned from the tuning log
    and some measurements. With --no-verify the hardware in the target's descriptor gives a first estimate.
    """
    from ofa_tvm.search.budget import parse_budget
    from ofa_tvm.workflow.search import require_unit
    from ofa_tvm.workflow.settings import resolve

    budgets = [parse_budget(text) for text in latencies]
    _check_budgets(len(targets), len(budgets), pareto)
    every = [
        resolve(name, threads=threads, dtype=dtype, space=space, resolutions=resolutions) for name in targets
    ]
    settings = every[0]
    _check_models([s.target.name for s in every], tables, predictors)
    no_verify = no_verify or pareto is not None
    if no_verify and output and pareto is None:
        raise UsageError("-o ships only what was measured; leave out --no-verify or -o")
    if not (no_verify and (tables or predictors)):
        for budget, s in zip(budgets, every, strict=False):
            require_unit(budget, s.target)
    if not no_verify and not arch_only:
        _require_project(settings)
    accuracy_path = accuracy_predictor or _project_predictor(settings)
    needs_accuracy = pareto is None or "accuracy" in pareto
    if accuracy_path is None and needs_accuracy and (no_verify or arch_only):
        raise settings.missing(
            "accuracy_predictor", "a predictor of subnets' accuracies; or name one with --accuracy-predictor"
        )
    wanted = ", ".join(f"{b} on {s.target.name}" for b, s in zip(budgets, every, strict=False))
    console.say(
        f"budget {wanted or 'none'}, {settings.describe()}, checkpoint {settings.checkpoint or 'none'}, "
        f"accuracy predictor {accuracy_path or 'to be learned'}, seed {console.seed}"
    )
    for other in every[1:]:
        console.say(f"and {other.describe_target()}")
    from ofa_tvm.workflow.search import load_accuracy

    accuracy = None if accuracy_path is None else load_accuracy(accuracy_path, settings.space)
    models = [
        _given_latency(s, *(path[i] if path else None for path in (tables, predictors)))
        for i, s in enumerate(every)
    ]
    if no_verify:
        from ofa_tvm.cli.predicted import Question, find_predicted, trade_off

        question = Question.of(
            console, every, budgets, accuracy, models, needs_latency="latency" in (pareto or "latency")
        )
        if pareto is not None:
            trade_off(console, question, pareto.split(","), output)
        else:
            find_predicted(console, question)
        return
    if arch_only:
        console.say(_RANDOM)
    effort = _Effort(candidates, rounds, latency_samples)
    shipment = None if output is None else _Shipment(output, with_runtime)
    _verified(console, every, budgets, accuracy, models, arch_only, effort, shipment)


def _check_budgets(n_targets: int, n_budgets: int, pareto: str | None) -> None:
    """One budget a target; a Pareto front may do without."""
    if not n_budgets and pareto is None:
        raise UsageError("Missing option '--latency': the budget, for example --latency 25ms")
    if n_targets != n_budgets and not (pareto is not None and not n_budgets):
        raise UsageError(
            f"{n_targets} target{'s' if n_targets > 1 else ''} but {n_budgets} budgets; type one "
            "--latency for each --target"
        )


def _check_models(targets: Sequence[str], tables: Sequence[Path], predictors: Sequence[Path]) -> None:
    """Each target once, with one latency model or none."""
    if len(set(targets)) < len(targets):
        raise UsageError("a target is named twice; give each target once, with its budget")
    if tables and predictors:
        raise UsageError("give a --latency-table or a --latency-predictor, not both")
    given = tables or predictors
    if given and len(given) != len(targets):
        raise UsageError(
            f"{len(targets)} targets but {len(given)} latency models; give one for each, in order"
        )


def _require_project(settings: Settings) -> None:
    if settings.checkpoint is None:
        raise settings.missing(
            "checkpoint",
            "the trained supernet whose subnets are shipped; train one (ofa-tvm train), or go on with random "
            "weights by --arch-only, which ships nothing",
        )
    if settings.project.data is None:
        raise settings.missing("data", "the images that subnets are calibrated and evaluated with")


def _project_predictor(settings: Settings) -> Path | None:
    """The one that the project names, else the one that an earlier search learned for its supernet."""
    from ofa_tvm.workflow.search import ACCURACY_MODEL

    if settings.project.accuracy_predictor is not None:
        return settings.project.path(settings.project.accuracy_predictor)
    learned = settings.project.folder / ACCURACY_MODEL
    return learned if settings.checkpoint is not None and learned.is_file() else None


def _given_latency(
    settings: Settings, table: Path | None, predictor: Path | None
) -> Latency | LearnedLatency | None:
    """The latency model that an option names, or the one that lies in the project; None if there is none."""
    from ofa_tvm.latency.lookup_table import LookupTable
    from ofa_tvm.workflow.search import load_latency, stored_latency

    if table is not None:
        return LookupTable.read(table, settings.space)
    if predictor is not None:
        return load_latency(predictor, settings.space)
    return stored_latency(settings.project.folder, settings.target, settings.space)


def _verified(
    console: Console,
    every: Sequence[Settings],
    budgets: Sequence[Budget],
    accuracy: Accuracy | None,
    given: Sequence[Latency | LearnedLatency | None],
    arch_only: bool,
    effort: _Effort,
    shipment: _Shipment | None,
) -> None:
    import time
    from contextlib import ExitStack

    from ofa_tvm.cli.networks import check_classes
    from ofa_tvm.latency.collect import SubnetBench
    from ofa_tvm.logs import find_records
    from ofa_tvm.workflow.search import (
        ACCURACY_CACHE,
        AccuracyCheck,
        TargetBudget,
        find_subnet,
        learn_accuracy,
        search_resolutions,
        ship_best,
    )

    start = time.monotonic()
    settings = every[0]
    folder, check, data = settings.project.folder, None, None
    shipped: Sequence[Shipped | None] = [None] * len(every)
    images = settings.project.calibration_images
    net = settings.supernet(random=arch_only)
    if not arch_only:
        data = settings.data(progress=console.progress)
        check_classes(net, settings.checkpoint, data)
    with ExitStack() as stack:
        benches = []
        for s in every:
            records = find_records(s.target, [s.logs])
            for problem in records.notes:
                console.say(problem)
            benches.append(stack.enter_context(SubnetBench(net, s.target, records)))
        if accuracy is None and data is not None:
            accuracy = learn_accuracy(
                net,
                data,
                folder,
                settings.chosen_resolutions,
                calibration_images=images,
                seed=console.seed,
                progress=console.progress,
            )
        if accuracy is None:
            raise RuntimeError("a search without data has an accuracy predictor")
        targets = [
            TargetBudget(
                bench, latency or _learn(console, s, accuracy, bench, effort.latency_samples), budget
            )
            for s, bench, latency, budget in zip(every, benches, given, budgets, strict=True)
        ]
        models = [target.model for target in targets]
        sides = search_resolutions(settings.space, [accuracy, *models], settings.resolutions)
        if data is not None:
            check = AccuracyCheck(
                net,
                data,
                accuracy,
                folder / ACCURACY_CACHE,
                calibration_images=images,
                seed=console.seed,
                progress=console.progress,
            )
        found = find_subnet(
            targets,
            accuracy,
            sides,
            check=check,
            candidates=effort.candidates,
            rounds=effort.rounds,
            seed=console.seed,
            progress=console.progress,
        )
        if shipment is not None and data is not None:
            shipped = ship_best(
                targets,
                data,
                shipment.folders(every),
                found,
                calibration_images=images,
                with_runtime=shipment.with_runtime,
                seed=console.seed,
                progress=console.progress,
            )
    _report(console, every, budgets, found, shipped, arch_only, time.monotonic() - start)


def _learn(
    console: Console, settings: Settings, accuracy: Accuracy, bench: SubnetBench, samples: int
) -> LearnedLatency:
    """The project's latency model, learned from the tuning log and some measurements."""
    from ofa_tvm.tuning import kernel_union
    from ofa_tvm.workflow.search import covered_resolutions, latency_file, learn_latency

    space, target = settings.space, settings.target
    if not bench.records.records:
        raise UsageError(
            f"target {target.name} has neither a tuning log nor a latency model; run ofa-tvm tune --target "
            f"{target.name}, or give --latency-predictor or --latency-table"
        )
    known = covered_resolutions(space, [accuracy])
    sides = [side for side in settings.chosen_resolutions if side in known]
    if not sides:
        raise UsageError(
            f"the accuracy predictor knows none of the resolutions "
            f"{', '.join(map(str, settings.chosen_resolutions))}; choose among {', '.join(map(str, known))} "
            "with --resolutions"
        )
    console.say(
        f"learning the latency of {target.name} from the tuning log and {samples} measured subnets, "
        f"into {latency_file(settings.project.folder, target, '.model')}"
    )
    union = kernel_union(space, sides, target, n_classes=bench.net.n_classes, progress=console.progress)
    return learn_latency(
        bench,
        union,
        settings.project.folder,
        sides,
        samples=samples,
        seed=console.seed,
        progress=console.progress,
    )


def _report(
    console: Console,
    every: Sequence[Settings],
    budgets: Sequence[Budget],
    found: VerifiedResult,
    shipped: Sequence[Shipped | None],
    arch_only: bool,
    seconds: float,
) -> None:
    arch = _shipped_arch(shipped[0]) or found.winner.arch
    winner = next(checked for checked in found.ranked if checked.arch == arch)
    parts = [
        _on_target(console, settings, budget, found.on(i), done, arch, several=len(every) > 1)
        for i, (settings, budget, done) in enumerate(zip(every, budgets, shipped, strict=True))
    ]
    if shipped[0] is None:
        why = _RANDOM if arch_only else "nothing shipped: name a folder with -o"
        console.print(f"{why}; {seconds:.0f} s", arch.to_json())
    console.result(
        {
            "space": every[0].space.name,
            "arch": json.loads(arch.to_json()),
            "predicted_accuracy": min(winner.accuracy, 1.0),
            "validation_accuracy": winner.measured_accuracy,
            "verified": True,
            "random_weights": arch_only,
            "rounds": found.rounds,
            **({"targets": parts} if len(parts) > 1 else parts[0]),
            "seconds": round(seconds, 2),
        }
    )


def _on_target(
    console: Console,
    settings: Settings,
    budget: Budget,
    found: VerifiedResult,
    shipped: Shipped | None,
    arch: Arch,
    *,
    several: bool,
) -> dict[str, Any]:
    """Show one target's measurements, and return them as plain data."""
    winner = next(checked for checked in found.ranked if checked.arch == arch)
    unit, name = budget.unit, f" on {settings.target.name}" if several else ""
    console.table(
        [
            "round",
            "r",
            "d",
            "predicted acc.",
            "val. acc.",
            f"predicted {unit}",
            f"measured {unit}",
            "within",
            "",
        ],
        [
            [
                checked.round or "earlier",
                checked.arch.r,
                " ".join(map(str, checked.arch.d)),
                f"{min(checked.accuracy, 1.0):.2%}",
                "-" if checked.measured_accuracy is None else f"{checked.measured_accuracy:.2%}",
                checked.predicted,
                checked.measured,
                "yes" if checked.within else "no",
                "chosen" if checked is winner else "",
            ]
            for checked in _shown(found)
        ],
        title=f"candidates for {budget}{name} in {found.rounds} rounds",
    )
    if shipped is not None:
        spread = shipped.measurement.mad_ms  # a count of instructions has none
        console.print(
            f"shipped {shipped.artefact.folder}: measured {shipped.measurement.cost:.4g} {unit}"
            + ("" if spread is None else f" (MAD {spread:.2g})")
            + f" within {budget}, test accuracy {shipped.accuracy:.2%} through the module"
            + accuracy_change(shipped)
        )
    else:
        console.print(f"measured {winner.measured:.4g} {unit}{name} within {budget}")
    key = unit.lower()
    return {
        "target": settings.target.name,
        f"predicted_latency_{key}": winner.predicted,
        f"measured_latency_{key}": winner.measured if shipped is None else shipped.measurement.cost,
        f"budget_{key}": budget.value,
        "candidates": [_checked(checked, key) for checked in found.record],
        "artefact": None if shipped is None else str(shipped.artefact.folder),
        "test_accuracy": None if shipped is None else shipped.accuracy,
        "accuracy_change": None if shipped is None else shipped.accuracy_change,
    }


def accuracy_change(shipped: Shipped) -> str:
    """For people: what half precision did to the accuracy; nothing of a float32 module."""
    if shipped.accuracy_change is None:
        return ""
    return f" ({100 * shipped.accuracy_change:+.2f} points against float32)"


def _shipped_arch(shipped: Shipped | None) -> Arch | None:
    from ofa_tvm.spaces import Arch

    return None if shipped is None else Arch.from_json(json.dumps(shipped.artefact.manifest["arch"]))


def _shown(found: VerifiedResult) -> Sequence[Checked]:
    """This search's candidates, and before them those measured earlier whose accuracy was of interest."""
    earlier = [c for c in found.ranked if c.round == 0 and c.measured_accuracy is not None]
    return [*earlier, *found.record]


def _checked(checked: Checked, key: str) -> dict[str, Any]:
    return {
        "arch": json.loads(checked.arch.to_json()),
        "round": checked.round,
        "predicted_accuracy": min(checked.accuracy, 1.0),
        "validation_accuracy": checked.measured_accuracy,
        f"predicted_latency_{key}": checked.predicted,
        f"measured_latency_{key}": checked.measured,
        f"noise_{key}": checked.noise,
        "within": checked.within,
    }

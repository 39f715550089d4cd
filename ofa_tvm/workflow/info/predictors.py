"""Files of fitted predictors, and Once-for-All's lookup tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ofa_tvm.accuracy.mlp import MLPAccuracyPredictor
from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.errors import UserError, counted
from ofa_tvm.estimators.files import model_kind
from ofa_tvm.latency.generalized import GeneralizedLatency
from ofa_tvm.latency.lookup_table import LookupTable, read_entries
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.latency.sources import list_sources
from ofa_tvm.spaces import get_space
from ofa_tvm.spaces.published import PUBLISHED
from ofa_tvm.workflow.info.description import (
    Description,
    Fact,
    Step,
    budget_text,
    command,
    listed,
    range_text,
    refusal,
    shares,
    size_fact,
    space_fact,
)

if TYPE_CHECKING:
    from torch import Tensor


def describe_predictor(file: Path) -> Description:
    """A model file of `ofa_tvm.estimators`, read as the verbs read it.

    Raises
    ------
    UserError
        If it is damaged, of another version, or of a kind that this version does not know.
    """
    kinds: Mapping[str, Callable[[Path], Description]] = {
        LatencyRegressor.KIND: _latency,
        GeneralizedLatency.KIND: _generalized,
        AccuracyPredictor.KIND: _accuracy,
        MLPAccuracyPredictor.KIND: _accuracy,
    }
    kind = model_kind(file)
    if kind not in kinds:
        raise refusal(
            file, f"is a model of the kind {kind[:40]!r}, which this version of ofa-tvm does not know"
        )
    return kinds[kind](file)


def _latency(file: Path) -> Description:
    model = LatencyRegressor.load(file)
    costs = [float(value) for value in model.latency_]
    facts = [
        Fact("space", model.space.name),
        Fact("target", model.target or "not stated", model.target or None),
        Fact("cost in", model.unit, model.unit),
        Fact("classes", f"{model.n_classes:,}", model.n_classes),
        Fact("resolutions", listed(model.resolutions), list(model.resolutions)),
        Fact("samples", f"{len(costs):,} measured subnets: {range_text(costs, model.unit)}", len(costs)),
        _validation(model.validation_),
        size_fact(file),
    ]
    notes = (
        () if model.target else ("it does not say of which target it is: use it for the one it was made for",)
    )
    steps = (
        Step(
            "predict subnets, one architecture (JSON) a line",
            command("predictor predict", "--model", file, "--archs ARCHS"),
        ),
        Step(
            "compare it with measured latencies",
            command("predictor eval", "--model", file, "--data LATENCIES.csv"),
        ),
        Step("say which subnets to measure next", command("predictor suggest", "--model", file, "-o ARCHS")),
        Step(
            "search with it, without measuring",
            command(
                "search", f"--space {model.space.name}", f"--latency {_middle(costs)}{model.unit}",
                "--latency-predictor", file, "--no-verify",
            ),
        ),
    )  # fmt: skip
    return Description(
        path=file,
        kind="latency predictor",
        summary="a latency predictor of one target",
        facts=tuple(facts),
        notes=notes,
        steps=steps,
    )


def _generalized(file: Path) -> Description:
    model = GeneralizedLatency.load(file)
    references = model.references
    spaces = sorted({reference.space for reference in references})
    devices = sorted({reference.device for reference in references})
    rows = sum(reference.rows for reference in references)
    facts = [
        Fact("spaces", listed(spaces), spaces),
        Fact("devices", f"{len(devices)}: {listed(devices)}", devices),
        Fact("kinds", listed(model.families), sorted(model.families)),
        Fact("samples", f"{rows:,} measurements in {counted(len(references), 'column')}", rows),
        Fact("sources", listed(source.name for source in list_sources(model)), len(list_sources(model))),
        size_fact(file),
    ]
    return Description(
        path=file,
        kind="latency predictor",
        summary="a latency predictor over many devices, by their hardware",
        facts=tuple(facts),
        steps=(
            Step(
                "predict subnets on a device",
                command("predictor predict", "--model", file, "--archs ARCHS", "--target DEVICE"),
            ),
            Step(
                "adapt it to a device by a few measurements",
                command("predictor adapt", "--model", file, "--data LATENCIES.csv", "-o ADAPTED.model"),
            ),
            Step("list what it was learned from", command("predictor sources", "--model", file)),
        ),
    )


def _accuracy(file: Path) -> Description:
    loaded: AccuracyPredictor | MLPAccuracyPredictor
    network = model_kind(file) == MLPAccuracyPredictor.KIND
    loaded = MLPAccuracyPredictor.load(file) if network else AccuracyPredictor.load(file)
    values = [float(value) for value in loaded.accuracy_]
    how = "the paper's network of 3 layers of 400" if network else "a Gaussian process"
    facts = [
        Fact("space", loaded.space.name),
        Fact("dtype", loaded.dtype),
        Fact("model", how, model_kind(file)),
        Fact("resolutions", listed(loaded.resolutions), list(loaded.resolutions)),
        Fact("samples", f"{len(values):,} measured subnets: {shares(values)}", len(values)),
        _validation(loaded.validation_),
        size_fact(file),
    ]
    return Description(
        path=file,
        kind="accuracy predictor",
        summary="an accuracy predictor",
        facts=tuple(facts),
        notes=("it is true for the weights and images that it was learned from alone",),
        steps=(
            Step(
                "search with it, without measuring",
                command(
                    "search", f"--space {loaded.space.name}", "--latency BUDGET --no-verify",
                    "--accuracy-predictor", file,
                ),
            ),
            Step(
                "compare it with measured accuracies",
                command(
                    "predictor eval-accuracy", "--model", file, f"--space {loaded.space.name}",
                    "--data ACCURACIES.csv",
                ),
            ),
        ),
    )  # fmt: skip


def describe_official(file: Path, state: Mapping[str, Tensor]) -> Description:
    """A published accuracy predictor, by its state dict."""
    from ofa_tvm.accuracy.official import load_official

    fitting = []
    for name in PUBLISHED:
        try:
            load_official(file, get_space(name))
        except UserError:
            continue
        fitting.append(name)
    inputs = next(int(tensor.shape[1]) for tensor in state.values() if tensor.ndim == 2)
    facts = [
        space_fact(fitting, f"unknown: it takes {inputs} inputs"),
        size_fact(file),
    ]
    steps = [
        Step(
            "search with it, without measuring",
            command("search", f"--space {name}", "--latency 25ms --no-verify", "--accuracy-predictor", file),
        )
        for name in fitting[:1]
    ]
    steps += [
        Step(
            "compare it with measured accuracies",
            command("predictor eval-accuracy", "--model", file, f"--space {name}", "--data ACCURACIES.csv"),
        )
        for name in fitting[:1]
    ]
    return Description(
        path=file,
        kind="accuracy predictor",
        summary="an accuracy predictor as published with Once-for-All",
        facts=tuple(facts),
        problems=() if fitting else ("it is of no space that ofa-tvm knows",),
        notes=("it predicts float32 accuracies on ImageNet",),
        steps=tuple(steps),
    )


def is_official(state: Mapping[str, Tensor]) -> bool:
    """Whether these are linear layers alone that end in one number."""
    matrices = [tensor for tensor in state.values() if tensor.ndim > 1]
    return bool(matrices) and all(t.ndim == 2 for t in matrices) and len(matrices[-1]) == 1


def describe_lookup(path: Path) -> Description:
    """Lookup tables in the format of the official Once-for-All code: a file, or a folder of them.

    Raises
    ------
    UserError
        If they fit none of the spaces; says why not the first.
    """
    found, refused, entries = [], "", read_entries(path)
    for name in PUBLISHED:
        try:
            found.append(LookupTable(get_space(name), entries, str(path)))
        except UserError as error:
            refused = refused or str(error)
    if not found:
        raise UserError(refused)
    table = found[0]
    names = [each.space.name for each in found]
    files = sorted(path.glob("*lookup_table.*")) if path.is_dir() else [path]
    genes = table.space.sample_genes(np.random.default_rng(0), 256, table.resolutions)
    costs = [float(cost) for cost in table(genes)]
    facts = [
        space_fact(names),
        Fact("resolutions", listed(table.resolutions), list(table.resolutions)),
        Fact("subnets take", range_text(costs, "ms"), [min(costs), max(costs)]),
        size_fact(*files),
    ]
    return Description(
        path=path,
        kind="lookup table",
        summary="a lookup table of latencies, as the official Once-for-All code reads it",
        facts=tuple(facts),
        notes=("it does not say of which device it is",),
        steps=(
            Step(
                "search with it, without measuring",
                command(
                    "search", f"--space {names[0]} --latency {_middle(costs)}ms",
                    "--latency-table", path, "--no-verify",
                ),
            ),
        ),
    )  # fmt: skip


def _validation(scores: Mapping[str, float]) -> Fact:
    """How good a predictor was on what was left out."""
    shown = {"mape": "off by {:.1%} on average", "rmse": "RMSE {:.3g}", "spearman": "rank correlation {:.3f}"}
    texts = [form.format(scores[name]) for name, form in shown.items() if name in scores]
    return Fact("left out", ", ".join(texts) or "not validated", dict(scores))


def _middle(costs: list[float]) -> str:
    """A budget that some subnets keep."""
    return budget_text(sorted(costs)[len(costs) // 2])

"""A project's files: what they are called, reading and writing them, and whether they are still true."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.files import write_atomic
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.number_formats import Arithmetic
from ofa_tvm.search.budget import Budget, parse_budget
from ofa_tvm.spaces.space import Space
from ofa_tvm.targets import Variant

if TYPE_CHECKING:  # predictors need scipy, which verbs that only ask where files lie can do without
    from ofa_tvm.workflow.models import KnownLatency


def answers_beside(accuracies: Path) -> Path:
    """Where the confusion matrix lies of the subnet that was evaluated last, by the cache of accuracies."""
    return accuracies.with_suffix(".confusion.json")


@dataclass(frozen=True)
class Store:
    """The files of one project, of which each kind is named here and nowhere else.

    What belongs to one `Variant` of a target carries the variant's name, so that nothing measured with two
    threads, in float16 or on an emulator is ever taken for anything else. Settings are in `Project`'s file.

    Parameters
    ----------
    folder
        The project's.
    tuning_logs
        Folder of its tuning logs, as seen from there.
    """

    folder: Path
    tuning_logs: Path = Path("tuning_logs")

    @property
    def logs(self) -> Path:
        """Tuning logs, a folder for each `Variant.log`."""
        return self.folder / self.tuning_logs

    @property
    def training(self) -> Path:
        """Checkpoints and curves of the quickstart's training."""
        return self.folder / "training"

    @property
    def int8_training(self) -> Path:
        """The same of what it trains for int8."""
        return self.folder / "training-int8"

    @property
    def accuracy_cache(self) -> Path:
        """Finished evaluations of subnets, each with the weights and images that it is true for."""
        return self.folder / "accuracy.jsonl"

    @property
    def answers(self) -> Path:
        """The confusion matrix of the subnet that was last evaluated class by class."""
        return answers_beside(self.accuracy_cache)

    def accuracy_model(self, dtype: Arithmetic = "float32") -> Path:
        """The accuracy predictor that was learned for the project's supernet, computing in `dtype`."""
        return self.folder / ("accuracy.model" if dtype == "float32" else f"accuracy-{dtype}.model")

    @property
    def artefact(self) -> Path:
        """What ships where no other folder is named."""
        return self.folder / "deploy"

    def comparison(self, variant: Variant) -> Path:
        """The artefact beside the ends of its space and other runtimes, as measured."""
        return self.folder / f"comparison-{variant.name}.json"

    @property
    def images(self) -> Path:
        """Pictures to try the quickstart's artefact on."""
        return self.folder / "images"

    @property
    def stages(self) -> Path:
        """Seconds that the quickstart spent; also what tells its folder from others."""
        return self.folder / "stages.json"

    @property
    def settings(self) -> Path:
        """All settings of the quickstart."""
        return self.folder / "settings.yaml"

    @property
    def summary(self) -> Path:
        """What the quickstart found."""
        return self.folder / "quickstart.json"

    def latency_table(self, variant: Variant) -> Path:
        """Measured latencies of subnets."""
        return self.folder / f"latency-{variant.name}.csv"

    def latency_model(self, variant: Variant) -> Path:
        """The model that was learned from them."""
        return self.folder / f"latency-{variant.name}.model"

    def latency_models(self) -> dict[str, Path]:
        """All such models, by `Variant.name`."""
        found = sorted(self.folder.glob("latency-*.model"))
        return {path.stem.removeprefix("latency-"): path for path in found}

    def latency(self, variant: Variant, space: Space) -> KnownLatency | None:
        """What an earlier search learned of a target; None if it did not.

        Raises
        ------
        UsageError
            If the model is of another space, target, dtype or batch than its name says.
        UserError
            If a file is damaged.
        """
        from ofa_tvm.latency.dataset import read_table
        from ofa_tvm.workflow.models import KnownLatency, load_latency

        path, table = self.latency_model(variant), self.latency_table(variant)
        if not path.is_file():
            return None
        model = load_latency(path, space)
        if model.unit != variant.unit or model.target not in ("", variant.target, variant.series):
            raise UsageError(
                f"{path} is a model of {model.target or 'a target'} in {model.unit}, not of {variant.series} "
                f"in {variant.unit}; move it elsewhere, or name it with --latency-predictor"
            )
        if not table.is_file():
            return KnownLatency(model, {})
        content = read_table(table, space)
        costs = content.column(variant.column)[1].tolist()
        return KnownLatency(model, dict(zip(content.archs, costs, strict=True)))

    def budget(self, variant: Variant) -> Budget | None:
        """The budget that an earlier run chose for a target; None if there is none that can be read."""
        try:
            content = parse_json(self._budget(variant).read_bytes())
            budget = parse_budget(f"{float(content['value'])!r} {content['unit']}")
        except (OSError, ValueError, KeyError, TypeError, UserError):
            return None
        return budget if budget.unit == variant.unit else None

    def keep_budget(self, variant: Variant, budget: Budget) -> None:
        """Note a budget for later runs.

        Raises
        ------
        UserError
            If the file cannot be written.
        """
        content = {"value": budget.value, "unit": budget.unit}
        write_atomic(self._budget(variant), json.dumps(content))

    def _budget(self, variant: Variant) -> Path:
        return self.folder / f"budget-{variant.name}.json"

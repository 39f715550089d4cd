"""What `ofa-tvm search --pareto` answers: predicted fronts, those of several number formats side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ofa_tvm.cli.console import Console
from ofa_tvm.cli.predicted import PredictorQuery, estimates
from ofa_tvm.files import write_atomic
from ofa_tvm.search.objectives import Objective, make_objectives
from ofa_tvm.search.pareto import ParetoFront, pareto_search
from ofa_tvm.workflow.predictors import as_share

_SHOWN = 20  # of each front


def trade_off(
    console: Console, questions: Sequence[PredictorQuery], names: Sequence[str], output: Path | None
) -> None:
    """Print the Pareto front of some objectives, within the budgets if there are any; keep it in a file."""
    several = len(questions) > 1
    objectives = [_objectives(question, names) for question in questions]
    fronts = [_front(console, *pair) for pair in zip(questions, objectives, strict=True)]
    shown = objectives[0]
    scales = np.array([1e6 if _unit(o) == "M" else 1.0 for o in shown])
    rows = [
        [
            *([question.dtype] if several else []),
            *(front.values[i] / scales).tolist(),
            front.archs[i].to_json(),
        ]
        for question, front in zip(questions, fronts, strict=True)
        for i in _spread(len(front.archs))
    ]
    count, seconds = sum(len(front.archs) for front in fronts), sum(front.seconds for front in fronts)
    console.table(
        [
            *(["dtype"] if several else []),
            *(f"{o.name} {_unit(o)}".strip() for o in shown),
            "architecture",
        ],
        rows,
        title=f"{count} subnets that nothing beats in all of {', '.join(o.name for o in shown)}"
        + (" in its number format" if several else "")
        + f" (predicted, best of {sum(front.evaluations for front in fronts)} in {seconds:.1f} s"
        + (f"; {len(rows)} of them)" if len(rows) < count else ")"),
    )
    content = {
        "space": questions[0].settings.space.name,
        "targets": list(questions[0].latency),
        **estimates(questions[0]),
        "objectives": [{"name": o.key, "maximise": o.maximise} for o in shown],
        "front": [
            {
                **({"dtype": question.dtype} if several else {}),
                **{o.key: float(value) for o, value in zip(shown, values, strict=True)},
                "arch": arch.to_dict(),
            }
            for question, front in zip(questions, fronts, strict=True)
            for arch, values in zip(front.archs, front.values, strict=True)
        ],
        "evaluations": sum(front.evaluations for front in fronts),
        "seconds": round(seconds, 3),
        "verified": False,
    }
    if output is not None:
        write_atomic(output, json.dumps(content, indent=1) + "\n")
        console.say(f"the front is in {output}")
    console.result(content)


def _objectives(question: PredictorQuery, names: Sequence[str]) -> tuple[Objective, ...]:
    return make_objectives(
        names,
        question.settings.space,
        accuracy=None if question.accuracy is None else as_share(question.accuracy),
        latency=question.latency,
        n_classes=question.settings.n_classes,
    )


def _front(console: Console, question: PredictorQuery, objectives: Sequence[Objective]) -> ParetoFront:
    return pareto_search(
        question.settings.space,
        objectives,
        constraints=question.constraints,
        seed=console.seed,
        resolutions=question.resolutions,
        progress=console.progress,
    )


def _spread(count: int) -> list[int]:
    """Rows to show: some from all over, the last one included."""
    step = max(1, -(-count // _SHOWN))
    return sorted({*range(0, count, step), count - 1})


def _unit(objective: Objective) -> str:
    """For people: counts are shown in millions."""
    return "M" if objective.name in ("macs", "params") else objective.unit

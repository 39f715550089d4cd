"""What an artefact's module answers to the project's test images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ofa_tvm.confusion import confusion
from ofa_tvm.deploy import Artefact, Prediction
from ofa_tvm.images import to_rgb
from ofa_tvm.progress import SILENT, Deadline, Progress
from ofa_tvm.report.content import Answers, Sample

if TYPE_CHECKING:
    from ofa_tvm.training.data import ImageData

_AT_ONCE = 32  # images between two looks at the clock
_WRONG, _SHOWN, _BEST = 6, 12, 3  # of the pictures shown, and classes of each
_SMALL, _SIDE = 64, 192  # pictures up to the first side are kept pixel by pixel, others reduced to the second


def ask(
    artefact: Artefact, data: ImageData, *, seconds: float = 20.0, progress: Progress = SILENT
) -> Answers:
    """Let a module classify the test images, in an order by chance, as many as the time allows.

    Parameters
    ----------
    artefact
        Its module runs on this machine or in the emulator.
    data
        Whose labels are the network's.
    seconds
        After which no further images are begun.

    Raises
    ------
    UserError
        If the module cannot run here, or an image cannot be read.
    """
    side, truth = artefact.runner.inputs[0].shape[-1], data.targets("test")
    order = np.random.default_rng(0).permutation(len(truth))
    deadline, best = Deadline.after(seconds), list[list[Prediction]]()
    with progress.task("answer test images", len(order)) as task:
        while len(best) < len(order) and not (best and deadline.is_over):
            chosen = order[len(best) : len(best) + _AT_ONCE]
            best += artefact.classifier.classify_inputs(data.batch("test", chosen, side).numpy(), _BEST)
            task.advance(len(chosen))
    asked = order[: len(best)]
    counted = confusion(truth[asked], [row[0].index for row in best], data.labels)
    shown = [_sample(data, int(asked[i]), best[i]) for i in _shown(truth[asked], best)]
    return Answers(data.name, len(truth), counted, tuple(shown))


def _shown(truth: np.ndarray, best: Sequence[Sequence[Prediction]]) -> list[int]:
    """Which to show: wrong ones, the surest first; right ones of several classes, and the least sure."""
    sure = np.array([row[0].probability for row in best])
    right = truth == np.array([row[0].index for row in best])
    by_sureness = np.argsort(-sure, kind="stable")
    wrong = [int(i) for i in by_sureness if not right[i]][:_WRONG]
    correct = [int(i) for i in np.flatnonzero(right)]
    least = [int(i) for i in by_sureness[::-1] if right[i]][:1]
    firsts = {int(truth[i]): i for i in reversed(correct)}.values()  # of each class
    others = [i for i in dict.fromkeys([*sorted(firsts), *correct]) if i not in least]
    return wrong + others[: _SHOWN - len(wrong) - len(least)] + least


def _sample(data: ImageData, index: int, best: Sequence[Prediction]) -> Sample:
    picture = to_rgb(data.image("test", index))
    small = max(picture.size) <= _SMALL
    if not small:
        picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG") if small else picture.save(buffer, "JPEG", quality=82)
    truth = data.labels[int(data.targets("test")[index])]
    return Sample(buffer.getvalue(), picture.size, truth, tuple(best))

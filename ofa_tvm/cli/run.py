"""ofa-tvm run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from ofa_tvm.cli.classes import confusion_result, show_confusion
from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.cli.options import INPUT_PATH, complete_target
from ofa_tvm.cli.pictures import ARRAY, Picture, class_of, pictures
from ofa_tvm.confusion import Confusion, confusion
from ofa_tvm.deploy import Artefact, Classifier, Prediction, load
from ofa_tvm.errors import UserError, shorten
from ofa_tvm.files import require_file
from ofa_tvm.imagenet import is_wordnet_id, shown_label
from ofa_tvm.images import open_image
from ofa_tvm.process import use_runtime_only
from ofa_tvm.progress import SILENT
from ofa_tvm.targets import Target, get_target


@click.command(short_help="Classify pictures with an artefact.")
@click.argument("deploy", type=INPUT_PATH)
@click.argument("images", nargs=-1, required=True, type=INPUT_PATH)
@click.option(
    "-k", "--top-k", type=click.IntRange(min=1), default=1, show_default=True, help="Classes to print."
)
@click.option(
    "-t",
    "--target",
    shell_complete=complete_target,
    help="Run on the device of this target (name or YAML file), not here.",
)
@common_options
def command(console: Console, deploy: Path, images: tuple[Path, ...], top_k: int, target: str | None) -> None:
    """Print the class and its probability of each picture in IMAGES.

    DEPLOY is an artefact folder or a compiled .so. IMAGES are picture files, folders of them or of such
    folders, or .npy files: float32 network input (n, 3, height, width), or uint8 pixels (n, height, width,
    3). Where folders are called as classes are (or ImageNet's, n01440764), the answers are counted too.
    AArch64 code runs in the emulator where this machine is of another family.
    """
    use_runtime_only()
    classifier = _classifier(deploy, get_target(target) if target else None)
    files = pictures(images)
    answered: list[Answer] = []
    skipped: list[str] = []
    progress = console.progress if len(files) > 1 else SILENT
    with progress.task("classify", total=len(files)) as bar:
        for picture in files:
            try:
                answered += _answers(picture, classifier, top_k)
            except UserError as error:
                if picture.named:
                    raise
                skipped.append(str(error))
            bar.advance(1)
    for problem in skipped:
        console.say(f"skipped: {problem}")
    if not answered:
        raise UserError(f"none of the {len(files)} pictures can be read")
    width = max(len(answer.name) for answer in answered)
    for answer in answered:
        best = "  ".join(f"{shown_label(p.label)} {100 * p.probability:.1f} %" for p in answer.best)
        wrong = "  (wrong)" if answer.truth not in (None, answer.best[0].index) else ""
        console.print(f"{answer.name:<{width}}  {best}{wrong}")
    counted = _counted(console, answered, classifier, top_k)
    console.result(
        {
            "artefact": str(deploy),
            "predictions": [_plain(answer) for answer in answered],
            "skipped": skipped,
            "answers": None if counted is None else confusion_result(counted),
        }
    )


@dataclass(frozen=True)
class Answer:
    """What was said of one picture; `truth` is the class that its folder names, if it does."""

    name: str
    folder: str
    truth: int | None
    best: Sequence[Prediction]


def _answers(picture: Picture, classifier: Classifier, top_k: int) -> list[Answer]:
    truth = class_of(picture.folder, classifier.labels, classifier.n_classes)
    return [
        Answer(name, picture.folder, truth, classifier.classify_inputs(x, top_k)[0])
        for name, x in _inputs(picture.path, classifier)
    ]


def _counted(
    console: Console, answered: Sequence[Answer], classifier: Classifier, top_k: int
) -> Confusion | None:
    """How many are right, shown; None where no folder's name is a class."""
    known = [answer for answer in answered if answer.truth is not None]
    strange = sorted({answer.folder for answer in answered if answer.truth is None})
    ids = [folder for folder in strange if is_wordnet_id(folder)]
    if strange and (known or ids):
        no_class = ids if not known else strange
        console.say(
            f"not counted: {len(answered) - len(known)} pictures in folders that are no class of this "
            f"network: {shorten(', '.join(no_class), 200)}"
        )
    if not known:
        return None
    labels = classifier.labels or tuple(map(str, range(classifier.n_classes)))
    truths = [answer.truth for answer in known if answer.truth is not None]
    found = confusion(truths, [answer.best[0].index for answer in known], labels)
    show_confusion(console, found, "by the names of their folders")
    if top_k > 1:
        among = sum(answer.truth in [p.index for p in answer.best] for answer in known)
        console.print(f"among the first {top_k}: {among} of {len(known)} ({among / len(known):.2%})")
    return found


def _plain(answer: Answer) -> dict[str, Any]:
    content: dict[str, Any] = {
        "image": answer.name,
        "top": [
            {"label": p.label, "index": p.index, "probability": round(p.probability, 6)} for p in answer.best
        ],
    }
    if answer.truth is not None:
        content["folder"] = answer.folder
        content["right"] = answer.best[0].index == answer.truth
    return content


def _classifier(deploy: Path, target: Target | None) -> Classifier:
    if deploy.is_dir() or deploy.suffix != ".so":
        return Artefact.open(deploy).on(target).classifier
    return Classifier.of(load(deploy, target), str(deploy))


def _inputs(path: Path, classifier: Classifier) -> list[tuple[str, npt.NDArray[np.float32]]]:
    """Name and network input (1, 3, r, r) of each example in a file."""
    if path.suffix.lower() != ARRAY:
        return [(str(path), classifier.preprocessing.apply(open_image(path)))]
    x = _read_npy(path)
    if x.dtype == np.uint8 and x.ndim in (3, 4) and x.shape[-1] == 3:
        from PIL import Image

        pixels = x if x.ndim == 4 else x[None]
        batch = classifier.preprocessing.apply([Image.fromarray(np.ascontiguousarray(p)) for p in pixels])
    elif x.dtype == np.float32 and x.ndim in (3, 4):
        batch = x if x.ndim == 4 else x[None]
    else:
        raise UserError(
            f"{path} holds {x.dtype} of shape {x.shape}; it must be float32 network input "
            "(n, 3, height, width) or uint8 pixels (n, height, width, 3)"
        )
    if len(batch) == 1:
        return [(str(path), batch)]
    return [(f"{path}[{index}]", batch[index : index + 1]) for index in range(len(batch))]


def _read_npy(path: Path) -> npt.NDArray[Any]:
    require_file(path)
    try:
        # Mapped, so that a header's word for its size is not taken.
        x = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except Exception as error:  # numpy reads headers by Python's tokenizer, which has errors of its own
        reason = shorten(" ".join(str(error).split()), 120)
        raise UserError(f"{path} is not a .npy array of numbers: {reason}") from error
    if not isinstance(x, np.ndarray) or not x.size:
        raise UserError(f"{path} holds no examples")
    return x

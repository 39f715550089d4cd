"""What the module answers: pictures, and right and wrong by class."""

from __future__ import annotations

import base64

from ofa_tvm.confusion import Confusion
from ofa_tvm.errors import counted
from ofa_tvm.report.compare_figures import confusion_matrix
from ofa_tvm.report.content import Answers, Content, Sample
from ofa_tvm.report.section import Picture, Section

_CLASSES_DRAWN, _CLASSES_LISTED = 40, 50
_PNG = b"\x89PNG"


def answered(content: Content) -> list[Section]:
    """Sample predictions, and answers by class, as far as they are known."""
    answers, known = content.answers, content.confusion
    found = [] if answers is None else [_samples(answers)]
    if known is not None:
        data = content.artefacts[0].accuracy.data
        found.append(_classes(known, f"all {known.images} test images" + (f" ({data})" if data else "")))
    elif answers is not None:
        found.append(_classes(answers.confusion, _asked(answers)))
    return found


def _asked(answers: Answers) -> str:
    images = answers.confusion.images
    if images == answers.of:
        return f"all {images} test images of {answers.data}"
    return f"{images} of the {answers.of} test images of {answers.data}, chosen by chance"


def _samples(answers: Answers) -> Section:
    total, right = answers.confusion.images, answers.confusion.right
    wrong = total - right
    shown = sum(not sample.right for sample in answers.samples)
    title = f"{right} of {total} test images are answered right" + (f", {wrong} wrong" if wrong else "")
    which = "Wrong answers first, the surest leading; then right ones, the last of them the least sure."
    if wrong > shown:
        which = (
            f"First {shown} of the wrong answers, the surest leading; then right ones, last the least sure."
        )
    return Section(
        "answers",
        title,
        f"The compiled module classified {_asked(answers)}. {which} Below each picture: its class, the "
        "answer, and how sure the network was.",
        None,
        ("class", "answer", "sureness, %", "second", "%"),
        tuple(map(_sample_row, answers.samples)),
        pictures=tuple(map(_picture, answers.samples)),
    )


def _sample_row(sample: Sample) -> tuple[str, ...]:
    first, *others = sample.best
    second = (others[0].label, f"{100 * others[0].probability:.1f}") if others else ("-", "-")
    return sample.truth, first.label, f"{100 * first.probability:.1f}", *second


def _picture(sample: Sample) -> Picture:
    best = sample.best[0]
    kind = "png" if sample.image.startswith(_PNG) else "jpeg"
    verdict = "right" if sample.right else "wrong"
    sure = f"{100 * best.probability:.0f} %"
    return Picture(
        uri=f"data:image/{kind};base64,{base64.b64encode(sample.image).decode()}",
        alt=f"A test picture of class {sample.truth}, answered {best.label} with {sure}: {verdict}",
        size=sample.size,
        caption=f"{sample.truth} → {best.label}, {sure}",
        good=sample.right,
    )


def _classes(found: Confusion, images: str) -> Section:
    worst = found.worst()
    present = len(found.present())
    drawn = 1 < present <= _CLASSES_DRAWN
    text = f"The answers of the compiled module to {images}. "
    if drawn:
        text += "A row is a true class, a column an answer: blue is right, orange wrong, the fuller the more."
    else:
        text += "The least accurate classes come first."
    rows = tuple(
        (
            score.label,
            str(score.images),
            str(score.right),
            f"{100 * score.accuracy:.1f}",
            f"{score.taken_for} ({score.taken})" if score.taken else "-",
        )
        for score in worst[:_CLASSES_LISTED]
    )
    return Section(
        "classes",
        _classes_title(found),
        text + (f" The table has the {_CLASSES_LISTED} least accurate." if len(worst) > len(rows) else ""),
        (lambda style: confusion_matrix(found, style)) if drawn else None,
        ("class", "images", "right", "accuracy, %", "most often taken for"),
        rows,
        open=not drawn,
    )


def _classes_title(found: Confusion) -> str:
    worst, mistakes = found.worst(1)[0], found.mistakes(1)
    if not mistakes:
        return f"Every one of {counted(len(found.classes()), 'class', 'classes')} is always recognised"
    text = f"The class recognised least is {worst.label}, with {100 * worst.accuracy:.1f} %"
    most = mistakes[0]
    if most.images > 1:
        text += f"; the most frequent mistake is {most.truth} taken for {most.answer}, {most.images} times"
    return text

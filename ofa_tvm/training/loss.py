"""The losses of progressive shrinking: smoothed labels, and distillation from the full net."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional


def label_loss(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy with the labels; `smoothing` of the probability is spread over all classes."""
    return functional.cross_entropy(logits.float(), targets, label_smoothing=smoothing)


def distillation_loss(logits: Tensor, teacher_logits: Tensor, kind: Literal["ce", "mse"]) -> Tensor:
    """Mean distance of a student from its teacher: cross-entropy of probabilities, or squared logits."""
    if kind == "mse":
        return functional.mse_loss(logits.float(), teacher_logits.float())
    return functional.cross_entropy(logits.float(), teacher_logits.float().softmax(dim=1))


def shrinking_loss(
    logits: Tensor,
    targets: Tensor,
    teacher_logits: Tensor | None,
    *,
    smoothing: float,
    distillation: float,
    kind: Literal["ce", "mse"],
) -> Tensor:
    """Both losses; as in the paper's code their weights add up to 2 whatever `distillation` is."""
    loss = label_loss(logits, targets, smoothing)
    if teacher_logits is None or distillation == 0:
        return loss
    teacher = distillation_loss(logits, teacher_logits, kind)
    return (loss + distillation * teacher) * (2 / (distillation + 1))

"""Progressive shrinking of supernets: data, phases, distillation, resumable training."""

from ofa_tvm.training.config import Phase, TrainingConfig
from ofa_tvm.training.data import ArrayData, ImageData, digits
from ofa_tvm.training.defaults import (
    default_config,
    digits_config,
    finetune_config,
    paper_config,
    with_phases,
)
from ofa_tvm.training.finetune import finetune
from ofa_tvm.training.job import PhaseResult, TrainingResult
from ofa_tvm.training.shrinking import train
from ofa_tvm.training.sources import load_data

__all__ = [
    "ArrayData",
    "ImageData",
    "Phase",
    "PhaseResult",
    "TrainingConfig",
    "TrainingResult",
    "default_config",
    "digits",
    "digits_config",
    "finetune",
    "finetune_config",
    "load_data",
    "paper_config",
    "train",
    "with_phases",
]

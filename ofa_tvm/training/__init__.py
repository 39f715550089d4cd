"""Progressive shrinking of supernets: data, phases, distillation, resumable training."""

from ofa_tvm.training.config import Phase, TrainingConfig, digits_config, paper_config
from ofa_tvm.training.data import ArrayData, ImageData, digits
from ofa_tvm.training.shrinking import PhaseResult, TrainingResult, train
from ofa_tvm.training.sources import load_data

__all__ = [
    "ArrayData",
    "ImageData",
    "Phase",
    "PhaseResult",
    "TrainingConfig",
    "TrainingResult",
    "digits",
    "digits_config",
    "load_data",
    "paper_config",
    "train",
]

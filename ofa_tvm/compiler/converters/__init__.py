"""Converters of our own, for operators that TVM's importer lacks or gets wrong.

Each is a pure function from a node with static shapes to Relax expressions; `importer` prefers them to TVM's.
"""

from __future__ import annotations

from collections.abc import Mapping

from ofa_tvm.compiler.converters import (
    clip,
    convolution,
    elementwise,
    extrema,
    hyperbolic,
    indexing,
    normalization,
    pooling,
    quantized,
    recurrent,
    resize,
    sampling,
    sequences,
    shifts,
)
from ofa_tvm.compiler.converters.node import Converter, Node
from ofa_tvm.compiler.converters.reductions import REDUCTIONS

__all__ = ["CONVERTERS", "Converter", "Node"]

CONVERTERS: Mapping[str, Converter] = {
    **REDUCTIONS,
    "Atanh": hyperbolic.atanh,
    "AveragePool": pooling.average_pool,
    "BatchNormalization": normalization.batch_normalization,
    "BitCast": elementwise.bit_cast,
    "BitShift": shifts.bit_shift,
    "Celu": elementwise.celu,
    "CenterCropPad": indexing.center_crop_pad,
    "Clip": clip.clip,
    "Compress": indexing.compress,
    "Conv": convolution.conv,
    "ConvInteger": quantized.conv_integer,
    "ConvTranspose": convolution.conv_transpose,
    "Cosh": hyperbolic.cosh,
    "Dropout": elementwise.dropout,
    "Elu": elementwise.elu,
    "GRU": recurrent.gru,
    "Gather": indexing.gather_,
    "GatherElements": indexing.gather_elements,
    "GatherND": indexing.gather_nd,
    "GlobalLpPool": pooling.global_lp_pool,
    "GroupNormalization": normalization.group_normalization,
    "IsInf": elementwise.is_inf,
    "LRN": normalization.local_response_normalization,
    "LSTM": recurrent.lstm,
    "LayerNormalization": normalization.layer_normalization,
    "LpNormalization": normalization.lp_normalization,
    "LpPool": pooling.lp_pool,
    "LeakyRelu": elementwise.leaky_relu,
    "Max": extrema.extremum,
    "MaxPool": pooling.max_pool,
    "MaxUnpool": pooling.max_unpool,
    "Mean": elementwise.mean,
    "MeanVarianceNormalization": normalization.mean_variance_normalization,
    "Min": extrema.extremum,
    "Mish": elementwise.mish,
    "Mod": elementwise.mod,
    "OneHot": indexing.one_hot,
    "PRelu": elementwise.prelu,
    "Pad": indexing.pad,
    "Pow": elementwise.pow_,
    "RMSNormalization": normalization.rms_normalization,
    "RNN": recurrent.rnn,
    "Resize": resize.resize,
    "ReverseSequence": indexing.reverse_sequence,
    "RoiAlign": sampling.roi_align,
    "Scatter": indexing.scatter_elements,
    "ScatterElements": indexing.scatter_elements,
    "ScatterND": indexing.scatter_nd,
    "Selu": elementwise.selu,
    "SequenceInsert": sequences.sequence_insert,
    "Sinh": hyperbolic.sinh,
    "Sign": elementwise.sign,
    "Slice": indexing.slice_,
    "Softplus": elementwise.softplus,
    "SpaceToDepth": indexing.space_to_depth,
    "Split": indexing.split,
    "Sum": elementwise.folded("add"),
    "Swish": elementwise.swish,
    "ThresholdedRelu": elementwise.thresholded_relu,
    "TopK": indexing.top_k,
    "Upsample": resize.upsample,
}

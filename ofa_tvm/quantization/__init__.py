"""A float32 ONNX model as QDQ with integers of 8 bits: calibrated, chosen and measured on pictures.

ONNX Runtime's static quantiser does the work. What is ours is what people otherwise do by hand: trying its
methods on pictures that were held out, saying what the integers cost, and leaving in float what costs most.
"""

from ofa_tvm.quantization.examples import Examples, of_data, of_pictures
from ofa_tvm.quantization.quantizer import LayerEffect, Quantized, quantize
from ofa_tvm.quantization.static import METHODS, Method
from ofa_tvm.quantization.weights import WEIGHTS, Weights

__all__ = [
    "METHODS",
    "WEIGHTS",
    "Examples",
    "LayerEffect",
    "Method",
    "Quantized",
    "Weights",
    "of_data",
    "of_pictures",
    "quantize",
]

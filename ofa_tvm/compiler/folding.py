"""Operators on constants, computed here: TVM's own folding builds a kernel with LLVM for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tvm import relax

from ofa_tvm.compiler.dataflow import Shape
from ofa_tvm.compiler.feature_maps import ints

_CONSTANT_OPS: dict[str, Callable[..., np.ndarray]] = {
    "relax.add": np.add,
    "relax.subtract": np.subtract,
    "relax.multiply": np.multiply,
    "relax.divide": np.divide,
    "relax.negative": np.negative,
    "relax.sqrt": np.sqrt,
}
RESHAPES = frozenset({"relax.reshape", "relax.squeeze", "relax.expand_dims"})


def folded(call: relax.Call, arrays: Sequence[np.ndarray], shape: Shape | None) -> np.ndarray | None:
    """What an operator makes of constants.

    Parameters
    ----------
    call
        The operator.
    arrays
        Its operands.
    shape
        Of its result, None if that is not static.

    Returns
    -------
    Its result; None for an operator that is not computed here.
    """
    name = call.op.name
    if name in _CONSTANT_OPS:
        result = _CONSTANT_OPS[name](*arrays)
    elif name == "relax.permute_dims":
        axes = call.attrs.axes
        result = np.transpose(arrays[0], None if axes is None else ints(axes))
    elif name in RESHAPES and shape is not None:
        result = arrays[0].reshape(shape)
    elif name == "relax.dequantize" and str(call.attrs.out_dtype) == "float32":
        return _dequantized(arrays[0], arrays[1], arrays[2], int(call.attrs.axis))
    else:
        return None
    return np.asarray(result, arrays[0].dtype, order="C")


def _dequantized(data: np.ndarray, scale: np.ndarray, zero: np.ndarray, axis: int) -> np.ndarray:
    along = [-1 if i == axis % data.ndim else 1 for i in range(data.ndim)]
    scale, zero = (v.reshape(along if v.size > 1 else [1] * data.ndim) for v in (scale, zero))
    return np.asarray((data.astype(np.int64) - zero).astype(np.float32) * scale, np.float32, order="C")


def has_reciprocals(divisor: np.ndarray) -> bool:
    """Whether multiplying by the reciprocals is dividing but for rounding: all are normal numbers."""
    if divisor.dtype.kind != "f":
        return False
    with np.errstate(all="ignore"):
        reciprocal = np.abs(1 / divisor)
    limits = np.finfo(divisor.dtype)
    return bool(((reciprocal >= limits.tiny) & (reciprocal <= limits.max)).all())

"""Arrays as constants of a Relax function."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax


def constant_of(value: np.ndarray) -> tvm.ir.GenericConst:
    """An array as a constant of its own type (`relax.const` makes float32 of float64 and int32 of int64)."""
    return relax.const(tvm.runtime.tensor(np.asarray(value, order="C")))

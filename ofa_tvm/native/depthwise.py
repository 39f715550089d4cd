"""The weight gradient of a depthwise convolution on a CPU, which PyTorch leaves slow for large kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from ofa_tvm.native.library import load_library

WeightGradient = Callable[..., int]
# By PyTorch's name for what the processor can do, so that both take the same instructions.
_FLAGS = {
    "AVX512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"),
    "AVX2": ("-mavx2", "-mfma"),
}


def load_weight_gradient(capability: str) -> WeightGradient:
    """The compiled function; it is compiled the first time (1 s). PyTorch must be loaded.

    Parameters
    ----------
    capability
        What `torch.backends.cpu.get_cpu_capability()` says.

    Returns
    -------
    callable
        Of the addresses of float32 input (n, h, w, c), output gradient (n, oh, ow, c) and weight gradient
        (c, 1, k, k), and of n, h, w, c, oh, ow, k and the stride. It returns 0, or 1 where it does not serve
        k and the stride (3, 5 or 7; 1 or 2). Padding is k // 2. The result does not depend on the threads.

    Raises
    ------
    UserError
        If there is no C++ compiler, or its result cannot be loaded.
    """
    library = load_library("depthwise", flags=_FLAGS.get(capability, ()))
    function = library.ofa_tvm_depthwise_weight_gradient
    function.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 6 + [ctypes.c_int] * 2
    function.restype = ctypes.c_int
    return function

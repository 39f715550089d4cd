"""exp, log, tanh, sigmoid and erf as straight-line arithmetic that LLVM keeps in vectors.

LLVM takes a vector call of these functions apart into scalar calls of the C library, ten times slower than
the arithmetic around them. Here each is a polynomial on a reduced argument, without branches: what lies
outside of a formula's range is chosen at the end. All stay within 2 ulp for every float32, denormal
results included, and keep NaN and infinities right (tests/compiler/test_elementary.py, which compares with
float64).

The methods are the usual ones (Cody and Waite, Software Manual for the Elementary Functions, 1980; Muller,
Elementary Functions, 2016). The coefficients are minimax fits of our own, found as linear programs on 4,000
Chebyshev points for the intervals that the comments name, in relative error except where said.

Importing this module tells TVM to lower these intrinsics so for CPUs. That happens behind all scheduling, so
a kernel's identity and its schedules know nothing of it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import tvm
from tvm import tirx
from tvm.ir import Expr

REVISION = 2
"""Part of a cached object file's key: to be raised with every change of the code that this module makes."""

_LOG2_E = 1 / math.log(2)
_LN2_HIGH, _LN2_LOW = (
    0.693359375,
    -2.12194440e-4,
)  # the first has 9 bits: its products with |n| < 2^15 are exact
_ROUNDING = 1.5 * 2**23  # adding it leaves the nearest integer in a float32's lowest bits
_ROUNDING_BITS = 0x4B400000
_SMALLEST_NORMAL = 2.0**-126

# exp(r) = 1 + r + r^2 P(r) for |r| <= ln(2) / 2; 0.05 ulp.
_EXP = (0.49999994, 0.1666652, 0.041668396, 0.008368784, 0.0013814351)
# log(1 + f) = f - f^2 / 2 + f^3 P(f) for 1 + f between sqrt(1/2) and sqrt(2); 0.01 ulp.
_LOG = (
    0.33333313, -0.25000012, 0.2000214, -0.16667953, 0.14219202, -0.12405938, 0.118905082, -0.116755836,
    0.06742534,
)  # fmt: skip
# tanh(x) = x + x z P(z), z = x^2, for |x| <= 0.625; 0.07 ulp.
_TANH_SMALL = 0.625
_TANH = (-0.33333284, 0.1333149, -0.05374339, 0.020650297, -0.0057167644)
# erf(x) = x + x P(x^2) for |x| <= 0.9, 1 - exp(P(|x|)) for 0.9 <= |x| <= 3.95 (absolute in erf); 0.03 ulp.
_ERF_SMALL, _ERF_ONE = 0.9, 3.95
_ERF = (0.12837917, -0.37612635, 0.11283724, -0.026860809, 0.0052042855, -0.00081778743, 8.5143525e-05)
_ERFC = (
    -0.00017698982, -1.1277518, -0.63705581, -0.10404105, 0.022278972, -0.0030561092, 0.00019723612,
)  # fmt: skip

Function = Callable[[Expr], Expr]


def _const(value: float, like: Expr) -> Expr:
    return tirx.const(value, _dtype(like))


def _dtype(expr: Expr) -> str:
    return str(expr.ty.dtype)


def _integers(like: Expr) -> str:
    return _dtype(like).replace("float", "int")


def _let(value: Expr, body: Function) -> Expr:
    """`body` of a value that is computed once."""
    shared = tirx.Var("t", _dtype(value))
    return tirx.Let(shared, value, body(shared))


def _polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    """Horner's scheme, the constant term first."""
    result = _const(coefficients[-1], x)
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + _const(coefficient, x)
    return result


def _clamped(x: Expr, low: float, high: float) -> Expr:
    """Within bounds; NaN stays NaN, which a minimum would not promise."""
    below = tirx.Select(x > _const(high, x), _const(high, x), x)
    return _let(below, lambda y: tirx.Select(y < _const(low, y), _const(low, y), y))


def _float_of_bits(bits: Expr, like: Expr) -> Expr:
    return tirx.reinterpret(_dtype(like), bits)


def _int(value: int, like: Expr) -> Expr:
    return tirx.const(value, _integers(like))


def _power_of_two(n: Expr, like: Expr) -> Expr:
    return _float_of_bits((n + _int(127, like)) << _int(23, like), like)


def exp(x: Expr) -> Expr:
    """2^n exp(r) with n = round(x / ln 2), |r| <= ln(2) / 2.

    2^n is two factors, so that denormals are rounded once; beyond the bounds the product becomes infinity and
    zero by itself.
    """

    def scaled(x: Expr, t: Expr) -> Expr:
        bits = tirx.reinterpret(_integers(x), t) - _int(_ROUNDING_BITS, x)
        return _let(
            t - _const(_ROUNDING, x),
            lambda n: _let(
                x - n * _const(_LN2_HIGH, x) - n * _const(_LN2_LOW, x),
                lambda r: _let(
                    bits,
                    lambda n: _let(
                        n >> _int(1, x),
                        lambda half: (
                            (r * r * _polynomial(r, _EXP) + r + _const(1, x))
                            * _power_of_two(half, x)
                            * _power_of_two(n - half, x)
                        ),
                    ),
                ),
            ),
        )

    return _let(
        _clamped(x, -104, 88.8),
        lambda y: _let(y * _const(_LOG2_E, y) + _const(_ROUNDING, y), lambda t: scaled(y, t)),
    )


def log(x: Expr) -> Expr:
    """e ln 2 + log(1 + f) with x = 2^e (1 + f), 1 + f between sqrt(1/2) and sqrt(2)."""
    half_root = _int(0x3F3504F3, x)  # bits of sqrt(1/2)

    def of_parts(e: Expr, f: Expr) -> Expr:
        tail = f * f * f * _polynomial(f, _LOG) + e * _const(_LN2_LOW, x) - f * f * _const(0.5, x)
        return tail + f + e * _const(_LN2_HIGH, x)

    def of_normal(y: Expr, shift: Expr) -> Expr:
        return _let(
            tirx.reinterpret(_integers(x), y),
            lambda bits: _let(
                (bits - half_root) >> _int(23, x),
                lambda e: _let(
                    _float_of_bits(bits - (e << _int(23, x)), x) - _const(1, x),
                    lambda f: _let(tirx.Cast(_dtype(x), e) - shift, lambda e: of_parts(e, f)),
                ),
            ),
        )

    denormal = x < _const(_SMALLEST_NORMAL, x)
    value = _let(
        tirx.Select(denormal, x * _const(2.0**23, x), x),
        lambda y: of_normal(y, tirx.Select(denormal, _const(23, x), _const(0, x))),
    )
    ordinary = tirx.And(x > _const(0, x), x < _const(math.inf, x))
    zero = tirx.Select(x == _const(0, x), _const(-math.inf, x), x)  # infinity and NaN are their own
    other = tirx.Select(x < _const(0, x), _const(math.nan, x), zero)
    return tirx.Select(ordinary, value, other)


def _magnitude(x: Expr) -> Expr:
    return _float_of_bits(tirx.reinterpret(_integers(x), x) & _int(0x7FFFFFFF, x), x)


def _with_sign_of(magnitude: Expr, x: Expr) -> Expr:
    sign = tirx.reinterpret(_integers(x), x) & _int(-(2**31), x)
    return _float_of_bits(tirx.reinterpret(_integers(x), magnitude) | sign, x)


def sigmoid(x: Expr) -> Expr:
    """From e = exp(-|x|), which does not overflow, and q = e / (1 + e).

    1 - q on the right of zero, and on the left e - e q, whose error is e's own where e is small.
    """

    def of_exp(e: Expr) -> Expr:
        return _let(
            tirx.Select(x < _const(0, x), e, _const(1, x)),
            lambda base: base - base * (e / (_const(1, x) + e)),
        )

    return _let(exp(_const(0, x) - _magnitude(x)), of_exp)


def tanh(x: Expr) -> Expr:
    """A polynomial near zero, where 1 - 2 / (exp(2 |x|) + 1) would cancel."""
    near = _let(x * x, lambda z: x * z * _polynomial(z, _TANH) + x)

    def far(a: Expr) -> Expr:
        value = _const(1, x) - _const(2, x) / (exp(a + a) + _const(1, x))
        return tirx.Select(a < _const(_TANH_SMALL, x), near, _with_sign_of(value, x))

    return _let(_magnitude(x), far)


def erf(x: Expr) -> Expr:
    """A polynomial near zero; farther away 1 - erfc, and erfc as the exponential of a polynomial."""
    near = _let(x * x, lambda z: x * _polynomial(z, _ERF) + x)

    def far(a: Expr) -> Expr:
        inside = tirx.Select(a > _const(_ERF_ONE, x), _const(_ERF_ONE, x), a)
        value = _const(1, x) - exp(_let(inside, lambda y: _polynomial(y, _ERFC)))
        return tirx.Select(a < _const(_ERF_SMALL, x), near, _with_sign_of(value, x))

    return _let(_magnitude(x), far)


def power(x: Expr, exponent: Expr) -> Expr | None:
    """Squares, cubes and reciprocals as products; None for other exponents."""
    value = getattr(getattr(exponent, "value", exponent), "value", None)  # of a Broadcast or by itself
    if value == 2:
        return x * x
    if value == 3:
        return x * x * x
    return _const(1, x) / x if value == -1 else None


FUNCTIONS: dict[str, Function] = {"exp": exp, "log": log, "sigmoid": sigmoid, "tanh": tanh, "erf": erf}


def _in_library(name: str, x: Expr) -> Expr:
    """In double precision: the C library's function for each value."""
    if name == "sigmoid":
        return _const(1, x) / (_const(1, x) + _in_library("exp", _const(0, x) - x))
    if name == "erf":  # LLVM has no intrinsic of that name
        return tirx.call_pure_extern(_dtype(x), "erf", x)
    return tirx.call_llvm_pure_intrin(_dtype(x), f"llvm.{name}", x)


def _constant(x: Expr) -> float | None:
    """The number that x is in every lane; None where it is computed."""
    value = x.value if isinstance(x, tirx.Broadcast) else x
    return float(value.value) if isinstance(value, tirx.FloatImm) else None


def _of_number(name: str, x: float) -> float:
    """TVM's simplifier cannot see through the formula of a number: it binds a variable to two values."""
    if name == "erf":
        return math.erf(x)
    with np.errstate(all="ignore"):
        if name == "sigmoid":
            return float(1 / (1 + np.exp(-np.float64(x))))
        return float(getattr(np, name)(np.float64(x)))


def _lowered(name: str, call: tvm.ir.Call) -> Expr:
    """TVM's hook for one call."""
    (x,) = call.args
    dtype = _dtype(x)
    if (value := _constant(x)) is not None:
        return tirx.const(_of_number(name, value), dtype)
    if dtype.startswith("float16"):
        return tirx.Cast(dtype, _let(tirx.Cast(dtype.replace("float16", "float32"), x), FUNCTIONS[name]))
    return _let(x, FUNCTIONS[name]) if dtype.startswith("float32") else _in_library(name, x)


def _lowered_power(call: tvm.ir.Call) -> Expr:
    x, exponent = call.args
    product = power(x, exponent)
    return tirx.call_llvm_pure_intrin(_dtype(x), "llvm.pow", x, exponent) if product is None else product


for _name in FUNCTIONS:
    tirx.register_intrin_lowering(
        f"tirx.{_name}", target="llvm", f=functools.partial(_lowered, _name), level=99
    )
tirx.register_intrin_lowering("tirx.pow", target="llvm", f=_lowered_power, level=99)

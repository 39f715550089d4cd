"""Feature maps in the views that a network's operators ask for.

A map has up to three views, made when first asked for and then reused:

- `nchw` (N, C, H, W), as imported; operators unknown to the layout use it; tensors of other ranks have no
  other view, but for (N, C, W), which are maps of height 1;
- `nhwc` (N, H, W, C), used by spatial operators;
- `flat` (N*H*W, C), used by 1x1 convolutions, which tune faster and end faster as matrix products; between
  `nhwc` and `flat` lies a reshape, which costs nothing at run time.

The channels-last views may have more channels than the map: what lies in those is nobody's business, see
`ofa_tvm.compiler.layout`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import tvm
from tvm import relax

from ofa_tvm.compiler.constants import constant_of
from ofa_tvm.compiler.dataflow import Shape, static_shape

View = Literal["nchw", "nhwc", "flat"]
CHANNELS_FIRST = {3: "NCW", 4: "NCHW"}


class FeatureMaps:
    """The views of all values of a function that is rewritten, and its constants.

    Parameters
    ----------
    builder
        What a view is made of is emitted into it.
    """

    def __init__(self, builder: relax.BlockBuilder) -> None:
        self.constants: dict[relax.Var, np.ndarray] = {}
        self._builder = builder
        self._views: dict[tuple[relax.Var, View], relax.Expr] = {}
        self._shapes: dict[relax.Var, Shape | None] = {}
        self._channels: dict[relax.Var, int] = {}  # of the channels-last views, padding included

    def define(self, var: relax.Var, view: View, expr: relax.Expr) -> None:
        """Note what a value is, in one of its views."""
        self._shapes[var] = static_shape(var)
        self._views[var, view] = expr
        if view != "nchw":
            self._channels[var] = (static_shape(expr) or (0,))[-1]

    def define_constant(self, var: relax.Var, value: np.ndarray) -> None:
        """Note that a value is known."""
        self._shapes[var] = static_shape(var)
        self.constants[var] = value

    def alias(self, var: relax.Var, value: relax.Expr) -> None:
        """Note that a value is the same as another."""
        constant = self.value(value)
        if constant is not None:
            self.define_constant(var, constant)
            return
        self._shapes[var] = static_shape(var)
        for view in ("nchw", "nhwc", "flat"):
            if (value, view) in self._views:
                self.define(var, view, self._views[value, view])

    def has(self, expr: relax.Expr, view: View) -> bool:
        """Whether a view was made already."""
        return isinstance(expr, relax.Var) and (expr, view) in self._views

    def is_map(self, expr: relax.Expr) -> bool:
        """Whether `expr` is a non-constant feature map of static shape."""
        if not isinstance(expr, relax.Var) or expr in self.constants:
            return False
        shape = self._shapes.get(expr)
        return shape is not None and len(shape) in CHANNELS_FIRST

    def imported_shape(self, var: relax.Var) -> Shape:
        """Shape as imported; () for a value whose shape is not static."""
        return self._shapes[var] or ()

    def shape(self, var: relax.Var) -> tuple[int, int, int, int]:
        """(N, C, H, W) of a map."""
        return as_map(self.imported_shape(var))

    def rank(self, var: relax.Var) -> int:
        """Number of axes, as imported."""
        return len(self.imported_shape(var))

    def channels(self, var: relax.Var) -> int:
        """Channels of a map's channels-last views, padding included."""
        return self._channels[var]

    def preferred(self, *maps: relax.Var) -> View:
        """The view in which an operator on these maps costs least."""
        for view in ("flat", "nhwc"):
            if any(self.has(var, view) for var in maps):
                return view
        return "nchw"

    def view(self, var: relax.Var, view: View) -> relax.Expr:
        """A map in a view, made if there is none yet."""
        if (var, view) not in self._views:
            n, c, h, w = self.shape(var)
            padded = self._channels.setdefault(var, c)
            if view == "nchw":
                self.narrow(var)
                expr = relax.op.permute_dims(self.view(var, "nhwc"), [0, 3, 1, 2])
                if self.rank(var) == 3:
                    expr = relax.op.reshape(self._builder.emit(expr), (n, c, w))
            elif view == "flat":
                expr = relax.op.reshape(self.view(var, "nhwc"), (n * h * w, padded))
            elif (var, "flat") in self._views:
                expr = relax.op.reshape(self._views[var, "flat"], (n, h, w, padded))
            else:
                imported = self._views[var, "nchw"]
                if self.rank(var) == 3:
                    imported = self._builder.emit(relax.op.reshape(imported, (n, c, h, w)))
                expr = relax.op.permute_dims(imported, [0, 2, 3, 1])
            self._views[var, view] = self._builder.emit(expr)
        return self._views[var, view]

    def narrow(self, var: relax.Var) -> None:
        """From here on, the channels-last views of `var` have its own channels only."""
        c = self.shape(var)[1]
        if self._channels.get(var, c) == c:
            return
        exact = self._builder.emit(relax.op.strided_slice(self.view(var, "flat"), [1], [0], [c]))
        self._views.pop((var, "nhwc"), None)
        self._views[var, "flat"] = exact
        self._channels[var] = c

    def original(self, expr: relax.Expr) -> relax.Expr:
        """The expression in the layout in which it was imported."""
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self.original(field) for field in expr.fields])
        if not isinstance(expr, relax.Var):
            return expr
        if expr in self.constants:
            return constant_of(self.constants[expr])
        return self.view(expr, "nchw") if self.is_map(expr) else self._views[expr, "nchw"]

    def value(self, expr: relax.Expr) -> np.ndarray | None:
        """Value of a constant expression, else None."""
        if isinstance(expr, relax.Var):
            return self.constants.get(expr)
        return expr.value.numpy() if isinstance(expr, tvm.ir.GenericConst) else None


def as_map(shape: Shape) -> tuple[int, int, int, int]:
    """(N, C, H, W); without a height it is 1."""
    n, c, *h, w = shape
    return n, c, h[0] if h else 1, w


def two_axes(values: list[int]) -> list[int]:
    """A value for each of a map's two axes, from those of one or two."""
    return values if len(values) == 2 else [1, *values]


def four_sides(values: list[int]) -> list[int]:
    """Padding of a map (top, left, bottom, right), from that of one or two axes."""
    return values if len(values) == 4 else [0, values[0], 0, values[1]]


def ints(values: object) -> list[int]:
    """An attribute's numbers."""
    return [int(v) for v in values]  # type: ignore[attr-defined]

"""Feature maps that are float32 in every kernel and lie as bfloat16 in memory.

What a kernel computes stays as it is: what it reads is widened first, what it makes is rounded last. TVM
fuses both into it, so that only the types of its arguments change. The network's edges are not rounded: what
lies before the first product or behind the last stays float32, and so does what anything else than a kernel
reads or makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import tvm
from tvm import relax, te, tirx

from ofa_tvm.compiler.dataflow import bindings, is_straight, static_shape
from ofa_tvm.compiler.kernels import has_product
from ofa_tvm.compiler.pairs import nearest, widened
from ofa_tvm.compiler.te_calls import call_te

_CALL_TIR = tvm.ir.Op.get("relax.call_tir")
_RESHAPE = tvm.ir.Op.get("relax.reshape")
_WIDE, _STORED = "float32", "bfloat16"


def stored_as_bfloat16(mod: tvm.IRModule) -> tvm.IRModule:
    """The module with maps between kernels stored as bfloat16.

    Parameters
    ----------
    mod
        Lowered: `main` calls kernels and makes views. One with control flow is returned as it is.
    """
    maps = _between_products(mod["main"]) if is_straight(mod["main"]) else frozenset()
    if not maps:
        return mod
    mod = _Rewriter(mod, maps).run()
    passes = [relax.transform.FuseTIR(), relax.transform.DeadCodeElimination(["main"])]
    return tvm.transform.Sequential(passes)(mod)


def _between_products(function: relax.Function) -> frozenset[relax.Var]:
    """Float32 tensors behind one product and before another that only kernels read and make; their views."""
    of: dict[relax.Var, relax.Var] = {}  # what a variable is a view of, or itself
    steps: list[tuple[relax.Var, set[relax.Var], bool]] = []  # what is made, of what, whether by a product
    outside: set[relax.Var] = set()
    for binding in bindings(function):
        var, value = binding.var, binding.value
        if _is_call(value, _RESHAPE) and value.args[0] in of:
            of[var] = of[value.args[0]]
            continue
        of[var] = var
        read = {of[other] for other in _variables([value]) if other in of}
        by_kernel = _is_call(value, _CALL_TIR) and len(value.args) == 2
        if not by_kernel:
            outside |= {var, *read}
        elif not _is_map(var):
            outside.add(var)
        steps.append((var, read, by_kernel and has_product(value.args[0].name_hint)))
    outside |= {of[var] for var in _variables([function.body.body]) if var in of}
    behind: set[relax.Var] = set()
    before: set[relax.Var] = set()
    for var, read, product in steps:
        if product or read & behind:
            behind.add(var)
    for var, read, product in reversed(steps):
        if product or var in before:
            before |= read
    return frozenset(var for var, tensor in of.items() if tensor in (behind & before) - outside)


def _is_call(value: object, operator: tvm.ir.Op) -> bool:
    return isinstance(value, relax.Call) and value.op == operator


def _is_map(var: relax.Var) -> bool:
    return str(getattr(var.ty, "dtype", "")) == _WIDE and bool(static_shape(var))


def _variables(values: Iterable[relax.Expr]) -> list[relax.Var]:
    """Those that expressions without nested calls read."""
    found: list[relax.Var] = []
    for value in values:
        if isinstance(value, relax.Var):
            found.append(value)
        elif isinstance(value, relax.Tuple):
            found += _variables(value.fields)
        elif isinstance(value, relax.Call):
            found += _variables(value.args)
        elif isinstance(value, relax.TupleGetItem):
            found += _variables([value.tuple_value])
    return found


class _Rewriter:
    """Rewrites `main`, and makes a kernel of each for the types that it is called with."""

    def __init__(self, mod: tvm.IRModule, maps: frozenset[relax.Var]) -> None:
        self.main, self.maps = mod["main"], maps
        self.originals: dict[str, tvm.ir.GlobalVar] = {}
        functions = {}
        for var, function in mod.functions.items():
            if var.name_hint != "main":
                original = tvm.ir.GlobalVar(f"{var.name_hint}_in_float32")
                relax.expr._update_type(original, var.ty)
                self.originals[var.name_hint] = original
                functions[original] = function
        self.bb = relax.BlockBuilder(tvm.IRModule(functions))
        self.kernels: dict[tuple[str, tuple[str, ...]], tvm.ir.GlobalVar] = {}
        self.now: dict[relax.Var, relax.Expr] = {}

    def run(self) -> tvm.IRModule:
        for binding in bindings(self.main):
            if _is_call(binding.value, _CALL_TIR):
                self._make_kernel(binding)
        main = self.main
        with self.bb.function("main", list(main.params), attrs=dict(main.attrs or {})):
            with self.bb.dataflow():
                for binding in bindings(main):
                    self.now[binding.var] = self.bb.emit(self._rewritten(binding))
                result = self.bb.emit_output(self._read(main.body.body))
            self.bb.emit_func_output(result)
        return self.bb.finalize()

    def _read(self, expr: relax.Expr) -> relax.Expr:
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._read(field) for field in expr.fields])
        return self.now.get(expr, expr) if isinstance(expr, relax.Var) else expr

    def _rewritten(self, binding: relax.Binding) -> relax.Expr:
        value = binding.value
        if _is_call(value, _CALL_TIR):
            arguments = [self._read(argument) for argument in value.args[1].fields]
            return relax.Call(self.kernels[self._key(binding)], [*arguments, *value.args[2:]])
        if isinstance(value, relax.Call):
            arguments = [self._read(argument) for argument in value.args]
            return relax.Call(value.op, arguments, value.attrs, value.ty_args)
        if isinstance(value, relax.TupleGetItem):
            return relax.TupleGetItem(self._read(value.tuple_value), value.index)
        return self._read(value)

    def _key(self, binding: relax.Binding) -> tuple[str, tuple[str, ...]]:
        """A kernel's name and what its arguments and its result are stored as."""
        operands = [*binding.value.args[1].fields, binding.var]
        stored = (_STORED if isinstance(v, relax.Var) and v in self.maps else "" for v in operands)
        return binding.value.args[0].name_hint, tuple(stored)

    def _make_kernel(self, binding: relax.Binding) -> None:
        call, key = binding.value, self._key(binding)
        if key in self.kernels:
            return
        name, stored = key
        number = sum(other == name for other, _ in self.kernels)
        params = [
            relax.Var(f"p{i}", relax.TensorType(static_shape(argument), dtype or str(argument.ty.dtype)))
            for i, (argument, dtype) in enumerate(zip(call.args[1].fields, stored[:-1], strict=True))
        ]
        with self.bb.function(f"{name}{number or ''}", params, attrs={"Primitive": True}):
            with self.bb.dataflow():
                wide = self._wide(params, stored[:-1])
                made = relax.Call(
                    call.op,
                    [self.originals[name], relax.Tuple(wide), *call.args[2:]],
                    call.attrs,
                    call.ty_args,
                )
                if stored[-1]:
                    made = call_te(self.bb, _narrow, self.bb.emit(made), name="nearest")
                result = self.bb.emit_output(made)
            self.kernels[key] = self.bb.emit_func_output(result)

    def _wide(self, params: Sequence[relax.Var], stored: Sequence[str]) -> list[relax.Expr]:
        return [
            self.bb.emit(call_te(self.bb, _widen, param, name="widened")) if dtype else param
            for param, dtype in zip(params, stored, strict=True)
        ]


def _widen(data: te.Tensor) -> te.Tensor:
    return te.compute(data.shape, lambda *at: widened(tirx.reinterpret("uint16", data(*at))), name="widened")


def _narrow(data: te.Tensor) -> te.Tensor:
    return te.compute(data.shape, lambda *at: tirx.reinterpret(_STORED, nearest(data(*at))), name="nearest")

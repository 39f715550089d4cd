"""LSTM, GRU and RNN, unrolled over their steps, whose number is constant.

What the inputs contribute to all gates of all steps is one product; each step then adds what the state
contributes. Steps are taken from, and joined to, the whole sequence in a tree of splits and concatenations,
so that all steps share their kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import relax

from ofa_tvm.compiler.constants import constant_of
from ofa_tvm.compiler.converters.node import Node
from ofa_tvm.compiler.converters.tensors import reshape, scalar

_LONGEST = 512  # steps; compiling takes time and memory for each
_BRANCHES = 8

Activation = Callable[[relax.Expr], relax.Expr]


@dataclass(frozen=True)
class _Direction:
    """One direction's weights, with gates side by side: (inputs, gates x hidden) and so on."""

    inputs: relax.Expr
    state: np.ndarray
    input_bias: np.ndarray
    state_bias: np.ndarray
    peepholes: np.ndarray | None
    activations: list[Activation]
    hidden: relax.Expr
    cell: relax.Expr | None
    reverse: bool


def lstm(node: Node) -> Sequence[relax.Expr]:
    """ONNX `LSTM`: all hidden states, the last one, and the last cell state."""
    return _recurrent(node, 4, ["Sigmoid", "Tanh", "Tanh"], _lstm_step)


def gru(node: Node) -> Sequence[relax.Expr]:
    """ONNX `GRU`: all hidden states and the last one."""
    return _recurrent(node, 3, ["Sigmoid", "Tanh"], _gru_step)


def rnn(node: Node) -> Sequence[relax.Expr]:
    """ONNX `RNN`: all hidden states and the last one."""
    return _recurrent(node, 1, ["Tanh"], _rnn_step)


State = tuple[relax.Expr, relax.Expr | None]
Step = Callable[[Node, _Direction, relax.Expr, State], State]


def _recurrent(node: Node, gates: int, defaults: list[str], step: Step) -> list[relax.Expr]:
    x = node[0]
    by_batch = bool(node.attribute("layout", 0))
    if by_batch:
        x = node.op.permute_dims(x, [1, 0, 2])
    steps, batch, width = node.shape_of(x)
    if steps > _LONGEST:
        raise node.refusal(f"it has {steps} steps, and is unrolled up to {_LONGEST}")
    lengths = node.constant(4, "sequence lengths")
    if lengths is not None and (lengths != steps).any():
        raise node.refusal("sequences of different lengths are not unrolled; cut them to the same length")
    if node.attribute("clip") is not None:
        raise node.refusal("its clip of the gates is not supported")
    directions = _directions(node, gates, defaults, batch, by_batch)
    hidden = node.shape(2)[2]
    flat = reshape(node, x, (steps * batch, width))
    outputs, last_hidden, last_cell = [], [], []
    for direction in directions:
        gate_inputs = node.op.add(node.op.matmul(flat, direction.inputs), constant_of(direction.input_bias))
        parts = _parts(node, reshape(node, gate_inputs, (steps, batch, -1)), steps)
        state: State = (direction.hidden, direction.cell)
        made = []
        for part in reversed(parts) if direction.reverse else parts:
            state = step(node, direction, reshape(node, part, (batch, gates * hidden)), state)
            made.append(reshape(node, state[0], (1, 1, batch, hidden)))
        outputs.append(_joined(node, made[::-1] if direction.reverse else made, 0))
        last_hidden.append(reshape(node, state[0], (1, batch, hidden)))
        if state[1] is not None:
            last_cell.append(reshape(node, state[1], (1, batch, hidden)))
    every = _joined(node, outputs, 1)
    results = [every] + [_joined(node, last, 0) for last in (last_hidden, last_cell) if last]
    if by_batch:
        results = [
            node.op.permute_dims(results[0], [2, 0, 1, 3]),
            *(node.op.permute_dims(result, [1, 0, 2]) for result in results[1:]),
        ]
    return results


def _directions(node: Node, gates: int, defaults: list[str], batch: int, by_batch: bool) -> list[_Direction]:
    name = node.attribute("direction", "forward")
    count = 2 if name == "bidirectional" else 1
    w, r = node.constant(1, "weights"), node.constant(2, "recurrent weights")
    if w is None or r is None:
        raise node.refusal("it has no weights")
    hidden = r.shape[2]
    bias = node.constant(3, "bias")
    bias = np.zeros((count, 2 * gates * hidden), w.dtype) if bias is None else bias
    peepholes = node.constant(7, "peepholes") if node.kind == "LSTM" else None
    names = list(node.attribute("activations") or defaults * count)
    alphas, betas = (list(node.attribute(f"activation_{v}") or []) for v in ("alpha", "beta"))
    made = [_activation(node, kind, alphas, betas) for kind in names]
    if len(made) != len(defaults) * count:
        raise node.refusal(f"it needs {len(defaults) * count} activations, not {len(made)}")
    result = []
    for i in range(count):
        starts = [_initial(node, at, i, batch, hidden, by_batch, str(w.dtype)) for at in (5, 6)]
        result.append(
            _Direction(
                constant_of(np.ascontiguousarray(w[i].T)),
                np.ascontiguousarray(r[i].T),
                bias[i][: gates * hidden],
                bias[i][gates * hidden :],
                None if peepholes is None else peepholes[i].reshape(3, hidden),
                made[i * len(defaults) : (i + 1) * len(defaults)],
                starts[0],
                starts[1] if node.kind == "LSTM" else None,
                reverse=name == "reverse" or i == 1,
            )
        )
    return result


def _initial(
    node: Node, at: int, direction: int, batch: int, hidden: int, by_batch: bool, dtype: str
) -> relax.Expr:
    if not node.has(at) or (at == 6 and node.kind != "LSTM"):
        return constant_of(np.zeros((batch, hidden), dtype))
    axis = 1 if by_batch else 0
    one = node.op.strided_slice(node[at], [axis], [direction], [direction + 1])
    return reshape(node, one, (batch, hidden))


def _activation(node: Node, kind: str, alphas: list[float], betas: list[float]) -> Activation:
    op = node.op

    def parameter(values: list[float], default: float) -> float:
        return values.pop(0) if values else default

    if kind == "Sigmoid":
        return op.sigmoid
    if kind == "Tanh":
        return op.tanh
    if kind == "Relu":
        return op.nn.relu
    if kind == "HardSigmoid":
        alpha, beta = parameter(alphas, 0.2), parameter(betas, 0.5)
        return lambda x: op.clip(op.add(op.multiply(x, scalar(alpha, x)), scalar(beta, x)), 0, 1)
    if kind == "LeakyRelu":
        alpha = parameter(alphas, 0.01)
        return lambda x: op.nn.leakyrelu(x, alpha)
    if kind == "Affine":
        alpha, beta = parameter(alphas, 1.0), parameter(betas, 0.0)
        return lambda x: op.add(op.multiply(x, scalar(alpha, x)), scalar(beta, x))
    if kind == "Softsign":
        return lambda x: op.divide(x, op.add(scalar(1, x), op.abs(x)))
    raise node.refusal(f"the activation {kind} is not supported in it")


def _gates(node: Node, expr: relax.Expr, count: int) -> list[relax.Expr]:
    parts = node.op.split(expr, count, 1)
    return [node.builder.emit(relax.TupleGetItem(parts, i)) for i in range(count)]


def _lstm_step(node: Node, weights: _Direction, inputs: relax.Expr, state: State) -> State:
    """ONNX's gates are input, output, forget and cell, in this order."""
    op, (hidden, cell) = node.op, state
    assert cell is not None
    total = op.add(
        op.add(inputs, op.matmul(hidden, constant_of(weights.state))), constant_of(weights.state_bias)
    )
    i, o, f, c = _gates(node, total, 4)
    sigmoid, tanh, out = weights.activations
    peepholes = weights.peepholes
    if peepholes is not None:
        i = op.add(i, op.multiply(constant_of(peepholes[0]), cell))
        f = op.add(f, op.multiply(constant_of(peepholes[2]), cell))
    taken = sigmoid(i)
    kept = op.subtract(scalar(1, i), taken) if node.attribute("input_forget", 0) else sigmoid(f)
    cell = op.add(op.multiply(kept, cell), op.multiply(taken, tanh(c)))
    if peepholes is not None:
        o = op.add(o, op.multiply(constant_of(peepholes[1]), cell))
    return op.multiply(sigmoid(o), out(cell)), cell


def _gru_step(node: Node, weights: _Direction, inputs: relax.Expr, state: State) -> State:
    """ONNX's gates are update, reset and hidden, in this order."""
    op, hidden = node.op, state[0]
    size = weights.state.shape[0]
    sigmoid, tanh = weights.activations
    input_z, input_r, input_h = _gates(node, inputs, 3)
    recurrent, bias = weights.state, weights.state_bias
    if node.attribute("linear_before_reset", 0):
        total = op.add(op.matmul(hidden, constant_of(recurrent)), constant_of(bias))
        state_z, state_r, state_h = _gates(node, total, 3)
        reset = sigmoid(op.add(input_r, state_r))
        new = tanh(op.add(input_h, op.multiply(reset, state_h)))
    else:
        both = np.ascontiguousarray(recurrent[:, : 2 * size])
        total = op.add(op.matmul(hidden, constant_of(both)), constant_of(bias[: 2 * size]))
        state_z, state_r = _gates(node, total, 2)
        reset = sigmoid(op.add(input_r, state_r))
        last = constant_of(np.ascontiguousarray(recurrent[:, 2 * size :]))
        state_h = op.add(op.matmul(op.multiply(reset, hidden), last), constant_of(bias[2 * size :]))
        new = tanh(op.add(input_h, state_h))
    update = sigmoid(op.add(input_z, state_z))
    kept = op.multiply(update, hidden)
    return op.add(op.multiply(op.subtract(scalar(1, update), update), new), kept), None


def _rnn_step(node: Node, weights: _Direction, inputs: relax.Expr, state: State) -> State:
    op = node.op
    total = op.add(op.matmul(state[0], constant_of(weights.state)), constant_of(weights.state_bias))
    return weights.activations[0](op.add(inputs, total)), None


def _parts(node: Node, expr: relax.Expr, count: int) -> list[relax.Expr]:
    """The slices of length one along the first axis."""
    if count == 1:
        return [expr]
    length = max(1, -(-count // _BRANCHES))
    ends = list(range(length, count, length))
    pieces = node.op.split(expr, ends, 0)
    found = []
    for i, (start, end) in enumerate(zip([0, *ends], [*ends, count], strict=True)):
        found += _parts(node, node.builder.emit(relax.TupleGetItem(pieces, i)), end - start)
    return found


def _joined(node: Node, parts: list[relax.Expr], axis: int) -> relax.Expr:
    while len(parts) > 1:
        groups = [parts[i : i + _BRANCHES] for i in range(0, len(parts), _BRANCHES)]
        parts = [node.op.concat(group, axis) if len(group) > 1 else group[0] for group in groups]
    return parts[0]

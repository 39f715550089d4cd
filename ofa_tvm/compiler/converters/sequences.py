"""Sequences of tensors, which are tuples while a model is imported."""

from __future__ import annotations

from tvm import relax

from ofa_tvm.compiler.converters.node import Node


def sequence_insert(node: Node) -> relax.Expr:
    """ONNX `SequenceInsert`: before the tensor at a position, counted from either side, or last."""
    tensors = list(node[0])
    position = node.integers(2, "position")
    place = len(tensors) if position is None else position[0]
    if not -len(tensors) <= place <= len(tensors):
        raise node.refusal(f"its position {place} lies outside a sequence of {len(tensors)}")
    tensors.insert(place, node[1])
    return relax.Tuple(tensors)

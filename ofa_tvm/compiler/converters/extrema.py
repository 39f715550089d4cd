"""Max and Min of any number of tensors."""

from __future__ import annotations

from functools import reduce

from tvm import relax

from ofa_tvm.compiler.converters.node import Node


def extremum(node: Node) -> relax.Expr:
    """One comparison after another; TVM's importer stacks all operands up and reduces the stack."""
    side = {"Max": node.op.maximum, "Min": node.op.minimum}[node.kind]
    return reduce(side, [node[i] for i in range(len(node.inputs))])

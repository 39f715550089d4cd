"""Moved to `ofa_tvm.spaces.blocks`."""

from ofa_tvm.spaces.blocks import Block, BlockStructure, BlockTables, block_structure

__all__ = ["Block", "BlockStructure", "BlockTables", "block_structure"]

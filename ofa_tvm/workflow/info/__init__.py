"""What a file or folder is, for what, how it was made, whether it is of use here, and what to do with it."""

from __future__ import annotations

from ofa_tvm.workflow.info.description import Description, Fact, Found, Step
from ofa_tvm.workflow.info.recognise import describe

__all__ = ["Description", "Fact", "Found", "Step", "describe"]

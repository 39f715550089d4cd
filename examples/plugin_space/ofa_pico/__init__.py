"""An example search space for ofa-tvm."""

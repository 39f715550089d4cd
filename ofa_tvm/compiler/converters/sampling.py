"""Reading images at computed places."""

from __future__ import annotations

import numpy as np
from tvm import relax

from ofa_tvm.compiler.converters.node import Node
from ofa_tvm.compiler.converters.tensors import cast, reshape, scalar


def roi_align(node: Node) -> relax.Expr:
    """ONNX `RoiAlign` by averages; half a pixel comes off after scaling, not before as in TVM's importer."""
    if node.attribute("mode", "avg") != "avg":
        raise node.refusal("ONNX's maximum is of weighted corners, not of samples; use mode='avg'")
    default = "half_pixel" if node.opset >= 16 else "output_half_pixel"
    half = node.attribute("coordinate_transformation_mode", default) == "half_pixel"
    scale = float(node.attribute("spatial_scale", 1.0))
    rois = node[1]
    if half:
        rois = node.op.subtract(rois, scalar(float(np.float32(0.5 / scale)), rois))
    batches = cast(node, reshape(node, node[2], (-1, 1)), node.dtype(1))
    return node.op.vision.roi_align(
        node[0],
        node.op.concat([batches, rois], 1),
        pooled_size=(int(node.attribute("output_height", 1)), int(node.attribute("output_width", 1))),
        spatial_scale=scale,
        sample_ratio=int(node.attribute("sampling_ratio", 0)),
        aligned=half,
        layout="NCHW",
        mode="avg",
    )

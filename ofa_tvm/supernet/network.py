"""A fixed network from its description: an extracted subnet, or a published specialised one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ofa_tvm.spaces import Arch, MBConvSpec, NetworkSpec
from ofa_tvm.supernet.layers import BottleneckBlock, Classifier, ConvLayer, MBConvBlock, Residual


class Network(nn.Module):
    """A plain network.

    Attributes
    ----------
    spec : what it was built from
    arch, space_name : the architecture it is, and in which space, where there is one
    dropout : share of features dropped before the classifier in training
    """

    def __init__(
        self, spec: NetworkSpec, *, dropout: float = 0.0, arch: Arch | None = None, space_name: str = ""
    ) -> None:
        super().__init__()
        self.spec, self.arch, self.space_name, self.dropout = spec, arch, space_name, dropout
        bn = (spec.bn_eps, spec.bn_momentum)
        stem = [ConvLayer.of(conv, *bn) for conv in spec.stem]
        if spec.max_pool:
            self.input_stem = nn.ModuleList(
                Residual(layer) if conv.residual else layer
                for conv, layer in zip(spec.stem, stem, strict=True)
            )
        else:
            self.first_conv = stem[0]
        self.blocks = nn.ModuleList(
            MBConvBlock(block, *bn) if isinstance(block, MBConvSpec) else BottleneckBlock(block, *bn)
            for block in spec.blocks
        )
        for conv in (*spec.before_pool, *spec.after_pool):
            self.add_module(conv.name, ConvLayer.of(conv, *bn))
        self.classifier = Classifier(nn.Linear(spec.n_features, spec.n_classes))

    @property
    def stem(self) -> list[nn.Module]:
        """Layers before the blocks (and before ResNet's max pooling)."""
        return list(self.input_stem) if self.spec.max_pool else [self.first_conv]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, n_classes) of images (n, 3, r, r)."""
        x = x.contiguous(memory_format=torch.channels_last)
        for layer in self.stem:
            x = layer(x)
        if self.spec.max_pool:
            x = F.max_pool2d(x, 3, 2, 1)
        for block in self.blocks:
            x = block(x)
        for conv in self.spec.before_pool:
            x = getattr(self, conv.name)(x)
        x = x.mean((2, 3), keepdim=True)
        for conv in self.spec.after_pool:
            x = getattr(self, conv.name)(x)
        return self.classifier(F.dropout(x.flatten(1), self.dropout, self.training))

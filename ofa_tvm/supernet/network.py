"""A fixed network from its description: an extracted subnet, or a published specialised one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ofa_tvm.errors import UserError
from ofa_tvm.spaces import Arch, MBConvSpec, NetworkSpec, Space, get_space
from ofa_tvm.supernet.checkpoint import load_weights, read_checkpoint, write_checkpoint
from ofa_tvm.supernet.fake_quantization import MapQuantizer, dtype_of, load_ranges
from ofa_tvm.supernet.layers import BottleneckBlock, Classifier, ConvLayer, Linear, MBConvBlock, Residual


class Network(nn.Module):
    """A plain network.

    Attributes
    ----------
    spec
        what it was built from
    arch, space_name
        the architecture it is, and in which space, where there is one
    dropout
        share of features dropped before the classifier in training
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
        self.classifier = Classifier(Linear(spec.n_features, spec.n_classes))
        self.quantize_input = MapQuantizer()
        self.quantize_pooled = MapQuantizer()

    @property
    def stem(self) -> list[nn.Module]:
        """Layers before the blocks (and before ResNet's max pooling)."""
        return list(self.input_stem) if self.spec.max_pool else [self.first_conv]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, n_classes) of images (n, 3, r, r)."""
        x = self.quantize_input(x.contiguous(memory_format=torch.channels_last))
        for layer in self.stem:
            x = layer(x)
        if self.spec.max_pool:
            x = F.max_pool2d(x, 3, 2, 1)
        for block in self.blocks:
            x = block(x)
        for conv in self.spec.before_pool:
            x = getattr(self, conv.name)(x)
        x = self.quantize_pooled(x.mean((2, 3), keepdim=True))
        for conv in self.spec.after_pool:
            x = getattr(self, conv.name)(x)
        return self.classifier(F.dropout(x.flatten(1), self.dropout, self.training))

    def leave_out(self, blocks: Collection[tuple[int, int]]) -> None:
        """Take blocks out, by stage and block; each has to make maps of the shape that it reads."""
        kept = [
            (spec, block)
            for spec, block in zip(self.spec.blocks, self.blocks, strict=True)
            if (spec.stage, spec.block) not in blocks
        ]
        self.spec = replace(self.spec, blocks=tuple(spec for spec, _ in kept))
        self.blocks = nn.ModuleList(block for _, block in kept)

    def save_checkpoint(self, path: str | Path) -> None:
        """Write the weights with space, architecture and number of classes; `load_subnet` reads it.

        Raises
        ------
        UserError
            If the network is of no space, or the file cannot be written.
        """
        if self.arch is None:
            raise UserError("only subnets of a space can be saved; this network belongs to none")
        content = {
            "space": self.space_name,
            "n_classes": self.spec.n_classes,
            "arch": self.arch.to_json(),
            "dtype": dtype_of(self),
            "state_dict": self.state_dict(),
        }
        write_checkpoint(content, path)


def load_subnet(path: str | Path, space: Space | None = None) -> Network:
    """A subnet that `Network.save_checkpoint` wrote (a fine-tuned one), in evaluation mode.

    Parameters
    ----------
    space
        its space, if it is none of those that ship

    Raises
    ------
    UserError
        If the file is no checkpoint of a subnet.
    """
    state, extra = read_checkpoint(path)
    try:
        arch, n_classes = Arch.from_json(str(extra["arch"])), int(extra["n_classes"])
        own = space or get_space(str(extra["space"]))
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is no checkpoint of a single subnet (it lacks {error})") from error
    network = Network(own.network(arch, n_classes), arch=arch, space_name=own.name)
    load_ranges(network, state, extra.get("dtype"), path)
    load_weights(network, state, path)
    return network.eval()

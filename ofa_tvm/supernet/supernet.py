"""The supernet: one set of weights that holds every subnet of a space."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ofa_tvm.errors import UserError
from ofa_tvm.number_formats import Arithmetic
from ofa_tvm.spaces import Arch, BottleneckSpec, ConvSpec, NetworkSpec, Space, get_space
from ofa_tvm.spaces.network import BlockSpec, expanded
from ofa_tvm.spaces.registry import SUPERNETS, call_plugin, find_plugin, list_spaces
from ofa_tvm.supernet.batchnorm import calibrate_on_noise
from ofa_tvm.supernet.checkpoint import (
    classes_in,
    load_weights,
    matched,
    read_checkpoint,
    write_checkpoint,
)
from ofa_tvm.supernet.elastic import (
    ElasticBottleneck,
    ElasticConvLayer,
    ElasticLinear,
    ElasticMBConv,
    ElasticResidual,
)
from ofa_tvm.supernet.fake_quantization import MapQuantizer, dtype_of, is_range, load_ranges, set_dtype
from ofa_tvm.supernet.layers import Classifier, ConvLayer, Linear, MBConvBlock
from ofa_tvm.supernet.network import Network


class Supernet(nn.Module):
    """Weights of a whole space. Which subnet a forward pass runs is state of this object alone.

    It starts with the largest subnet active. Use `build_supernet` to make one.
    """

    def __init__(self, space: Space, n_classes: int = 1000, dropout: float = 0.0) -> None:
        super().__init__()
        self.space, self.n_classes, self.dropout = space, n_classes, dropout
        self.trained_dtype: Arithmetic = "float32"
        largest = space.network(space.max_arch(), n_classes)
        bn = (largest.bn_eps, largest.bn_momentum)
        # MBConv networks have one block before the elastic ones.
        self._first_elastic = sum(block.block < 0 for block in largest.blocks)
        if space.family == "mbconv":
            self.first_conv = ConvLayer.of(largest.stem[0], *bn)
        else:
            stem = [
                ElasticConvLayer(s.c_in, s.c_out, s.kernel, s.stride, s.activation, eps=bn[0], momentum=bn[1])
                for s in largest.stem
            ]
            self.input_stem = nn.ModuleList([stem[0], ElasticResidual(stem[1]), stem[2]])
        blocks: list[nn.Module] = []
        for block in largest.blocks:
            if isinstance(block, BottleneckSpec):
                blocks.append(ElasticBottleneck(block, *bn))
            elif block.block < 0:
                blocks.append(MBConvBlock(block, *bn))
            else:
                blocks.append(ElasticMBConv(block, space.kernels, *bn))
        self.blocks = nn.ModuleList(blocks)
        for conv in (*largest.before_pool, *largest.after_pool):
            self.add_module(conv.name, ConvLayer.of(conv, *bn))
        linear = (ElasticLinear if space.elastic_width else Linear)(largest.n_features, n_classes)
        self.classifier = Classifier(linear)
        self.quantize_input = MapQuantizer()
        self.quantize_pooled = MapQuantizer()
        self._arch, self._spec = space.max_arch(), largest
        initialise(self)

    # ---- the active subnet ----

    @property
    def active_arch(self) -> Arch:
        """The subnet that forward passes run."""
        return self._arch

    def set_active(self, arch: Arch) -> None:
        """Make forward passes run this subnet (`arch.r` plays no part).

        Raises
        ------
        UsageError
            If the architecture is not in the space.
        """
        self._spec = self.space.network(arch, self.n_classes)
        self._arch = arch

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, n_classes) of images (n, 3, r, r) by the active subnet."""
        spec = self._spec
        x = self.quantize_input(x.contiguous(memory_format=torch.channels_last))
        if self.space.family == "mbconv":
            x = self.first_conv(x)
        else:
            for layer, conv in self._stem(spec):
                x = layer(x, conv.c_out)
            x = F.max_pool2d(x, 3, 2, 1)
        for block in spec.blocks:
            x = self._elastic(block)(x, block) if block.block >= 0 else self.blocks[0](x)
        for conv in spec.before_pool:
            x = getattr(self, conv.name)(x)
        x = self.quantize_pooled(x.mean((2, 3), keepdim=True))
        for conv in spec.after_pool:
            x = getattr(self, conv.name)(x)
        return self.classifier(F.dropout(x.flatten(1), self.dropout, self.training))

    def _stem(self, spec: NetworkSpec) -> list[tuple[ElasticConvLayer | ElasticResidual, ConvSpec]]:
        """ResNet's stem layers that a subnet runs; it may skip the middle one."""
        layers = cast("list[ElasticConvLayer | ElasticResidual]", list(self.input_stem))
        if len(spec.stem) < len(layers):
            del layers[1]
        return list(zip(layers, spec.stem, strict=True))

    def _elastic(self, spec: BlockSpec) -> Any:
        """The elastic block that a spec is a part of, of the same kind as the spec."""
        return self.blocks[spec.block + self._first_elastic]

    # ---- subnets as networks of their own ----

    def extract(self, arch: Arch) -> Network:
        """A plain network with copies of the subnet's weights, in the supernet's mode; same outputs.

        Raises
        ------
        UsageError
            If the architecture is not in the space.
        """
        spec = self.space.network(arch, self.n_classes)
        with torch.device("meta"):  # shapes only: the weights come from here
            network = Network(spec, dropout=self.dropout, arch=arch, space_name=self.space.name)
            set_dtype(network, dtype_of(self))
        state: dict[str, Tensor] = {}

        def put(prefix: str, part: dict[str, Tensor]) -> None:
            state.update({f"{prefix}.{name}": value for name, value in part.items()})

        if self.space.family == "mbconv":
            put("first_conv", self.first_conv.state_dict())
        else:
            for index, (layer, conv) in enumerate(self._stem(spec)):
                put(f"input_stem.{index}", layer.state(conv.c_in, conv.c_out))
        for index, block in enumerate(spec.blocks):
            elastic = block.block >= 0
            part = self._elastic(block).state(block) if elastic else self.blocks[0].state_dict()
            put(f"blocks.{index}", part)
        for conv in (*spec.before_pool, *spec.after_pool):
            put(conv.name, getattr(self, conv.name).state_dict())
        linear = self.classifier.linear
        put("quantize_input", self.quantize_input.state_dict())
        put("quantize_pooled", self.quantize_pooled.state_dict())
        put(
            "classifier.linear",
            linear.state(spec.n_features) if isinstance(linear, ElasticLinear) else linear.state_dict(),
        )
        copies = {
            name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in state.items()
        }
        network.load_state_dict(copies, assign=True)
        return network.train(self.training)

    # ---- weights ----

    def sort_channels(self, trained: Sequence[float] = ()) -> None:
        """Reorder middle channels by falling importance (L1 norm of the weights that read them).

        Outputs of the largest subnet stay the same; call it before narrower subnets are trained.

        Parameters
        ----------
        trained
            expand ratios that subnets have been trained with so far, if more than the largest: each
            keeps its set of channels, so that its outputs stay the same too
        """
        largest = self.space.network(self.space.max_arch(), self.n_classes)
        for block in largest.blocks:
            if block.block < 0:
                continue
            base = block.c_out if isinstance(block, BottleneckSpec) else block.c_in
            self._elastic(block).sort_channels([expanded(base, ratio) for ratio in trained])

    def load_checkpoint(self, path: str | Path) -> None:
        """Load an own or an official checkpoint, and compute in its dtype from then on.

        Raises
        ------
        UserError
            If the file is no checkpoint, is another space's, or its tensors do not fit (it names them).
        """
        state, extra = read_supernet(path, self.space)
        if extra.get("n_classes", self.n_classes) != self.n_classes:
            raise UserError(
                f"{path} was trained with n_classes {extra['n_classes']}, this supernet has {self.n_classes}"
            )
        require_space(self, state, path)
        load_ranges(self, state, extra.get("dtype"), path)
        load_weights(self, state, path)
        self.trained_dtype = dtype_of(self)

    def save_checkpoint(self, path: str | Path) -> None:
        """Write the weights with the space's name, the number of classes and the dtype, whole or not at all.

        Raises
        ------
        UserError
            If the file cannot be written.
        """
        content = {
            "space": self.space.name,
            "n_classes": self.n_classes,
            "dtype": dtype_of(self),
            "state_dict": self.state_dict(),
        }
        write_checkpoint(content, path)


def read_supernet(path: str | Path, space: Space) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State dict of a supernet's checkpoint, own or official, and what else its file holds.

    Raises
    ------
    UserError
        If the file is no checkpoint, is another space's, or holds a single subnet.
    """
    state, extra = read_checkpoint(path)
    if extra.get("space", space.name) != space.name:
        raise UserError(
            f"{path} was trained with space {extra['space']}, this supernet has {space.name}; "
            f"name it by --space {extra['space']}"
        )
    if "space" in extra and "arch" in extra:  # other trainings call their kind of network so
        raise UserError(
            f"{path} holds a single subnet, as --finetune leaves it; name a supernet's checkpoint"
        )
    return state, extra


def fitting_spaces(state: Mapping[str, Tensor], n_classes: int) -> tuple[str, ...]:
    """Names of the spaces whose supernet a state dict is of, by the names and shapes of its tensors."""
    weights = {name: tensor for name, tensor in state.items() if not is_range(name)}
    fitting = []
    for name in list_spaces():
        try:
            with torch.device("meta"):  # shapes only
                own = build_supernet(name, n_classes).state_dict()
        except UserError:  # a plugin that is broken, which may be none of the matter
            continue
        if matched({key: value for key, value in own.items() if not is_range(key)}, weights).fits:
            fitting.append(name)
    return tuple(fitting)


def recognised_space(path: str | Path) -> str | None:
    """The space whose supernet a checkpoint is of, by what it says or else by its tensors; None if unclear.

    Raises
    ------
    UserError
        If the file cannot be read.
    """
    state, extra = read_checkpoint(path)
    if "space" in extra and "n_classes" in extra:
        return str(extra["space"])
    classes = classes_in(state)
    fitting = () if classes is None else fitting_spaces(state, classes)
    return fitting[0] if len(fitting) == 1 else None


def require_space(net: Supernet, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Refuse weights that are another space's, and name that.

    Raises
    ------
    UserError
        If they are; weights that fit no space are left for `load_weights` to describe.
    """
    weights = {name: tensor for name, tensor in state.items() if not is_range(name)}
    own = {name: tensor for name, tensor in net.state_dict().items() if not is_range(name)}
    classes = classes_in(state)
    if classes is None or matched(own, weights).fits:
        return
    fitting = fitting_spaces(state, classes)
    if net.space.name in fitting:
        raise UserError(f"the weights in {source} have {classes} classes, this supernet has {net.n_classes}")
    if fitting:
        raise UserError(
            f"the weights in {source} are not of the space {net.space.name}: they look like those of "
            f"{' or '.join(fitting)}; name it by --space {fitting[0]}"
        )


def initialise(module: nn.Module) -> None:
    """Weights to train from scratch: He normal by fan-out (He et al. 2015), uniform for linear layers."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Linear):
            bound = 1 / math.sqrt(part.in_features)
            nn.init.uniform_(part.weight, -bound, bound)
            nn.init.zeros_(part.bias)


def build_supernet(space: Space | str, n_classes: int = 1000, dropout: float = 0.0) -> Supernet:
    """A supernet of a space (or of the one so named), with fresh weights and its largest subnet active.

    A plugin that registers a function for the space's name under `ofa_tvm.supernets` builds it.

    Raises
    ------
    UsageError
        If there is no such space.
    UserError
        If a plugin fails, or returns something else than a `Supernet`.
    """
    space = get_space(space) if isinstance(space, str) else space
    plugin = find_plugin(SUPERNETS, space.name)
    if plugin is None:
        return Supernet(space, n_classes, dropout)
    net = call_plugin(plugin, space, n_classes, dropout)
    if not isinstance(net, Supernet):
        raise UserError(f"{plugin.value} has to return a Supernet, not a {type(net).__name__}")
    return net


def timed_subnet(
    net: Supernet, arch: Arch, dtype: Arithmetic, left_out: Collection[tuple[int, int]] = ()
) -> Network:
    """A subnet whose speed alone counts: in `dtype`, with statistics that are of no images.

    Parameters
    ----------
    left_out
        Stage and block of those to leave out; each makes maps of the shape that it reads.

    Raises
    ------
    UserError
        If it has to be quantised and cannot.
    """
    network = net.extract(arch)
    network.leave_out(left_out)
    set_dtype(network, dtype)
    if dtype == "int8":
        calibrate_on_noise(network, arch.r)
    return network.eval()

"""The specialised networks that were published with Once-for-All: `net.config`, JSON of the official code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ofa_tvm.errors import UsageError, UserError, shorten, shown
from ofa_tvm.jsonfile import read_json
from ofa_tvm.schema import first_problem, is_whole, key_path
from ofa_tvm.spaces import Arch, ConvSpec, MBConvSpec, NetworkSpec, get_space
from ofa_tvm.spaces.network import ACTIVATIONS, Activation
from ofa_tvm.spaces.published import PUBLISHED
from ofa_tvm.supernet.checkpoint import load_weights, read_checkpoint
from ofa_tvm.supernet.network import Network
from ofa_tvm.supernet.supernet import initialise

_LARGEST_SIDE = 4096
_MOST_WEIGHTS = 500_000_000
_CHANNELS = {"type": "integer", "minimum": 1, "maximum": 1 << 15}
_LAYER = {
    "type": ["object", "null"],
    "properties": {
        "name": {"type": "string"},
        "in_channels": _CHANNELS,
        "out_channels": _CHANNELS,
        "mid_channels": {"type": ["integer", "null"], "minimum": 1, "maximum": 1 << 15},
        "expand_ratio": {"type": "number", "exclusiveMinimum": 0, "maximum": 64},
        "kernel_size": {"type": "integer", "minimum": 1, "maximum": 31},
        "stride": {"type": "integer", "minimum": 1, "maximum": 8},
        "act_func": {"type": ["string", "null"]},
        "use_bn": {"type": "boolean"},
        "use_se": {"type": "boolean"},
    },
}
_SCHEMA = {
    "type": "object",
    "properties": {
        "first_conv": _LAYER,
        "final_expand_layer": _LAYER,
        "feature_mix_layer": _LAYER,
        "blocks": {
            "type": "array",
            "minItems": 1,
            "maxItems": 256,
            "items": {
                "type": "object",
                "properties": {"mobile_inverted_conv": _LAYER, "conv": _LAYER, "shortcut": {}},
            },
        },
        "classifier": {"type": "object", "properties": {"out_features": _CHANNELS}},
        "bn": {
            "type": "object",
            "properties": {
                "eps": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
                "momentum": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
            },
        },
    },
}


def load_net_config(path: str | Path, weights: str | Path | None = None) -> Network:
    """Build the network of a `net.config` (the file or its folder), in evaluation mode.

    If it is a subnet of a space that ships, `arch` and `space_name` say which (`arch.r` from `run.config`).
    Without `weights` they are random: enough to measure latency.

    Raises
    ------
    UserError
        If the file is missing, no such JSON, or describes layers that this project does not have; or if the
        weights do not fit.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "net.config"
    spec = read_net_config(file)
    resolution = published_resolution(file)
    space_name, arch = _find_arch(spec, resolution or 224)
    network = Network(spec, arch=arch, space_name=space_name)
    if weights is None:
        initialise(network)
    else:
        load_weights(network, read_checkpoint(weights)[0], weights)
    return network.eval()


def published_resolution(path: str | Path) -> int | None:
    """Input side in pixels that the `run.config` beside a `net.config` states, if there is one.

    Raises
    ------
    UserError
        If it cannot be read or states no side.
    """
    file = Path(path)
    file = (file if file.is_dir() else file.parent) / "run.config"
    if not file.is_file():
        return None
    size = read_json(file, {"type": "object"}).get("image_size")
    if not is_whole(size) or not 1 <= size <= _LARGEST_SIDE:
        raise UserError(f"{file} states no usable image_size")
    return int(size)


def read_net_config(path: str | Path) -> NetworkSpec:
    """Description of the network in a `net.config`.

    Raises
    ------
    UserError
        As `load_net_config`.
    """
    file = Path(path)
    config = read_json(file, {"type": "object"})
    try:
        if (problem := first_problem(config, _SCHEMA)) is not None:
            raise ValueError(f"{key_path(problem[0])}: {problem[1]}")
        spec = _network(config)
        _check_chain(spec)
        return spec
    except KeyError as error:
        raise UserError(
            f"{file} lacks the entry {error}; it is no net.config of a specialised network"
        ) from error
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{file} is no net.config that can be built: {shorten(str(error), 200)}") from error


def _check_chain(spec: NetworkSpec) -> None:
    """Refuse layers that do not follow on each other, and networks that no device holds."""
    weights, width = 0, spec.stem[0].c_in
    for layer in (*spec.stem, *spec.blocks, *spec.before_pool, *spec.after_pool):
        if layer.c_in != width:
            raise ValueError(f"a layer takes {layer.c_in} channels, the one before it gives {width}")
        if isinstance(layer, MBConvSpec):
            weights += layer.c_mid * (layer.c_in + layer.c_out + layer.kernel**2)
        elif isinstance(layer, ConvSpec):
            weights += layer.c_in * layer.c_out * layer.kernel**2
        width = layer.c_out
    if weights + width * spec.n_classes > _MOST_WEIGHTS:
        raise ValueError(f"it has more than {_MOST_WEIGHTS:,} weights")


def _network(config: dict[str, Any]) -> NetworkSpec:
    if config["name"] not in ("MobileNetV3", "ProxylessNASNets"):
        raise ValueError(f"networks of kind {shown(config['name'])} are not supported")
    before: list[ConvSpec] = []
    after: list[ConvSpec] = []
    for name in ("final_expand_layer", "feature_mix_layer"):
        if layer := config.get(name):
            pooled = name == "feature_mix_layer" and config["name"] == "MobileNetV3"
            (after if pooled else before).append(_conv(name, layer))
    bn = config["bn"]
    return NetworkSpec(
        stem=(_conv("first_conv", config["first_conv"]),),
        blocks=tuple(_block(block) for block in config["blocks"]),
        before_pool=tuple(before),
        after_pool=tuple(after),
        n_classes=int(config["classifier"]["out_features"]),
        bn_eps=float(bn["eps"]),
        bn_momentum=float(bn["momentum"]),
    )


def _activation(name: str | None) -> Activation:
    for known in ACTIVATIONS:
        if known == (name or "none"):
            return known
    raise ValueError(f"the activation {shown(name)} is not supported")


def _conv(name: str, layer: dict[str, Any]) -> ConvSpec:
    plain = {"groups": 1, "dilation": 1, "bias": False, "has_shuffle": False, "ops_order": "weight_bn_act"}
    for field, value in plain.items():
        if layer.get(field, value) != value:
            raise ValueError(f"{name} has {field} = {shown(layer[field])}, which is not supported")
    return ConvSpec(
        name, layer["in_channels"], layer["out_channels"], layer["kernel_size"], layer["stride"],
        _activation(layer["act_func"]), norm=layer["use_bn"],
    )  # fmt: skip


def _block(block: dict[str, Any]) -> MBConvSpec:
    layer = block.get("mobile_inverted_conv") or block["conv"]
    if layer["name"] != "MBInvertedConvLayer":
        raise ValueError(f"blocks of kind {shown(layer['name'])} are not supported")
    c_in, ratio = layer["in_channels"], layer["expand_ratio"]
    c_mid = layer["mid_channels"] or round(c_in * ratio)
    if c_mid < 1:
        raise ValueError(f"an expand_ratio of {ratio:g} leaves no channels")
    return MBConvSpec(
        c_in=c_in,
        c_mid=c_mid,
        c_out=layer["out_channels"],
        kernel=layer["kernel_size"],
        stride=layer["stride"],
        activation=_activation(layer["act_func"]),
        se=layer["use_se"],
        expand=ratio != 1,
        residual=block["shortcut"] is not None,
    )


def _find_arch(spec: NetworkSpec, resolution: int) -> tuple[str, Arch | None]:
    """Space and architecture that a description belongs to; ("", None) if it is in none."""
    for name in PUBLISHED:
        space = get_space(name)
        if space.family != "mbconv":
            continue
        smallest = space.min_arch()
        ks, e, d = list(smallest.ks), list(smallest.e), []
        blocks = list(spec.blocks[1:])  # the first one is not elastic
        position = 0
        for stage in space.stages:
            mine = [block for block in blocks[: stage.blocks] if block.c_out == stage.widths[0]]
            for offset, block in enumerate(mine):
                ks[position + offset] = getattr(block, "kernel", 0)
                e[position + offset] = round(block.c_mid / block.c_in)
            d.append(len(mine))
            del blocks[: len(mine)]
            position += stage.blocks
        arch = Arch(tuple(ks), tuple(e), tuple(d), resolution)
        try:
            candidate = space.network(arch, spec.n_classes)
        except UsageError:
            continue
        if _anonymous(candidate) == _anonymous(spec):
            return name, arch
    return "", None


def _anonymous(spec: NetworkSpec) -> NetworkSpec:
    """The description without the positions that only a space gives its blocks."""
    return replace(spec, blocks=tuple(replace(block, stage=-1, block=-1) for block in spec.blocks))

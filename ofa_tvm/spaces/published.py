"""The spaces that ship: four as published with Once-for-All, one of half their widths, and one for digits.

Sources: Cai et al., Once-for-All (arXiv 1908.09791), section 4.1; the authors' released supernets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ofa_tvm.spaces.arch import RESNET_BASE_BLOCKS, RESNET_BLOCKS
from ofa_tvm.spaces.network import Activation, make_divisible
from ofa_tvm.spaces.space import Space, Stage


def _mbv3(
    name: str, multiplier: float, resolutions: Sequence[int], default_resolutions: tuple[int, ...]
) -> Space:
    stem, first, *stages, final, feature = (
        make_divisible(base * multiplier) for base in (16, 16, 24, 40, 80, 112, 160, 960, 1280)
    )
    activations: tuple[Activation, ...] = ("relu", "relu", "h_swish", "h_swish", "h_swish")
    return Space(
        name=name,
        family="mbconv",
        stem_widths=((stem,), (first,)),
        stem_activation="h_swish",
        first_activation="relu",
        stages=tuple(
            Stage((width,), stride, 4, (2, 3, 4), activation, se)
            for width, stride, activation, se in zip(
                stages, (2, 2, 2, 1, 2), activations, (False, True, False, True, True), strict=True
            )
        ),
        kernels=(3, 5, 7),
        expands=(3, 4, 6),
        final_width=final,
        feature_width=feature,
        head_activation="h_swish",
        bn_eps=1e-5,
        resolutions=tuple(resolutions),
        default_resolutions=default_resolutions,
    )


def _proxyless() -> Space:
    stem, first, *stages, feature = (
        make_divisible(base * 1.3) for base in (32, 16, 24, 40, 80, 96, 192, 320, 1280)
    )
    blocks = (4, 4, 4, 4, 4, 1)
    return Space(
        name="ofa_proxyless_w1.3",
        family="mbconv",
        stem_widths=((stem,), (first,)),
        stem_activation="relu6",
        first_activation="relu6",
        stages=tuple(
            Stage((width,), stride, most, (2, 3, 4) if most > 1 else (1,), "relu6")
            for width, stride, most in zip(stages, (2, 2, 2, 1, 2, 1), blocks, strict=True)
        ),
        kernels=(3, 5, 7),
        expands=(3, 4, 6),
        final_width=0,
        feature_width=feature,
        head_activation="relu6",
        bn_eps=1e-3,
        resolutions=tuple(range(128, 225, 4)),
        default_resolutions=(128, 160, 192, 224),
    )


def _resnet50() -> Space:
    multipliers = (0.65, 0.8, 1.0)
    stem = tuple(make_divisible(64 * m) for m in multipliers)
    return Space(
        name="ofa_resnet50",
        family="resnet",
        stem_widths=(tuple(make_divisible(width // 2) for width in stem), stem),
        stem_activation="relu",
        first_activation="relu",
        stages=tuple(
            Stage(
                tuple(make_divisible(width * m) for m in multipliers),
                stride,
                most,
                (0, 1, 2),
                base_blocks=base,
            )
            for width, stride, most, base in zip(
                (256, 512, 1024, 2048), (1, 2, 2, 2), RESNET_BLOCKS, RESNET_BASE_BLOCKS, strict=True
            )
        ),
        kernels=(),
        expands=(0.2, 0.25, 0.35),
        final_width=0,
        feature_width=0,
        head_activation="none",
        bn_eps=1e-5,
        resolutions=tuple(range(128, 225, 4)),
        default_resolutions=(128, 160, 192, 224),
        stem_depths=(0, 2),
    )


def _digits() -> Space:
    """MobileNetV3 in style, sized for 32 to 48 pixels and for training in minutes on two cores."""
    return Space(
        name="ofa_digits",
        family="mbconv",
        stem_widths=((16,), (16,)),
        stem_activation="h_swish",
        first_activation="relu",
        stages=(
            Stage((24,), 2, 4, (2, 3, 4), "relu", se=False),
            Stage((40,), 2, 4, (2, 3, 4), "h_swish", se=True),
        ),
        kernels=(3, 5, 7),
        expands=(3, 4, 6),
        final_width=240,
        feature_width=320,
        head_activation="h_swish",
        bn_eps=1e-5,
        resolutions=(32, 40, 48),
        default_resolutions=(32, 40, 48),
    )


PUBLISHED: dict[str, Callable[[], Space]] = {
    "ofa_mbv3_w1.0": lambda: _mbv3("ofa_mbv3_w1.0", 1.0, range(128, 225, 4), (128, 160, 192, 224)),
    "ofa_mbv3_w1.2": lambda: _mbv3("ofa_mbv3_w1.2", 1.2, range(160, 225, 4), (160, 192, 224)),
    "ofa_proxyless_w1.3": _proxyless,
    "ofa_resnet50": _resnet50,
    "ofa_mbv3_w0.5": lambda: _mbv3("ofa_mbv3_w0.5", 0.5, range(64, 161, 16), (64, 96, 128, 160)),
    "ofa_digits": _digits,
}

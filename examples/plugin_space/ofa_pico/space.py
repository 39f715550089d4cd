"""What is elastic. No torch here: `ofa-tvm search` asks for spaces without it."""

from __future__ import annotations

from ofa_tvm.spaces import Space, Stage


def pico() -> Space:
    """Two stages of inverted bottlenecks for pictures of 32 or 40 pixels."""
    return Space(
        name="ofa_pico",
        family="mbconv",
        stem_widths=((8,), (8,)),
        stem_activation="relu6",
        first_activation="relu6",
        stages=(
            Stage(widths=(16,), stride=2, blocks=3, depths=(1, 2, 3), activation="relu6"),
            Stage(widths=(32,), stride=2, blocks=3, depths=(1, 2, 3), activation="relu6", se=True),
        ),
        kernels=(3, 5),
        expands=(2, 4),
        final_width=0,
        feature_width=128,
        head_activation="relu6",
        bn_eps=1e-5,
        resolutions=(32, 40),
        default_resolutions=(32, 40),
    )

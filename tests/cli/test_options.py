"""What is typed for shapes and resolutions: taken as meant, or refused in a short sentence."""

from __future__ import annotations

import click
import pytest

from ofa_tvm.cli.options import resolutions_option, shape_option


@click.command()
@shape_option
@resolutions_option
def _command(shapes: tuple[tuple[str, tuple[int, ...]], ...], resolutions: tuple[int, ...] | None) -> object:
    return shapes, resolutions


def typed(*arguments: str) -> object:
    return _command.main(list(arguments), standalone_mode=False)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("input=1x3x224x224", ("input", (1, 3, 224, 224))),
        ("a=b=1", ("a=b", (1,))),
        ("x= 2 x 3", ("x", (2, 3))),
    ],
)
def test_shapes(text: str, shape: tuple[str, tuple[int, ...]]) -> None:
    assert typed("--shape", text) == ((shape,), None)


@pytest.mark.parametrize(
    "text",
    [
        "input=0x3x8x8",
        "input=1x0",
        "input=-1x3",
        "input=",
        "=1x3",
        "1x3",
        "input=1xx3",
        "input=1.5",
        "i=1e3",
        "",
        "i=" + "9" * 5000,
        "i" * 5000,
    ],
)
def test_what_is_no_shape(text: str) -> None:
    with pytest.raises(
        click.BadParameter, match="is not a shape; type for example input=1x3x224x224"
    ) as caught:
        typed("--shape", text)
    assert len(caught.value.format_message()) < 300


def test_resolutions() -> None:
    assert typed("--resolutions", "160,192, 224") == ((), (160, 192, 224))
    for text in ("", "160;192", "160,", "large", "9" * 5000):
        with pytest.raises(click.BadParameter, match="is not a list of resolutions") as caught:
            typed("--resolutions", text)
        assert len(caught.value.format_message()) < 300

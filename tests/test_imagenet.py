import pytest

from ofa_tvm import UserError
from ofa_tvm.imagenet import imagenet_names, imagenet_outputs, shown_label


def test_outputs_are_in_the_order_of_the_ids() -> None:
    names = imagenet_names()
    assert len(names) == 1000 and list(names) == sorted(names)
    # As in the published lists: 0, 217, 999.
    assert imagenet_outputs(["n15075141", "n01440764", "n02102040"]) == (999, 0, 217)
    assert imagenet_outputs(["cat", "dog"]) is None
    assert shown_label("n01440764") == "n01440764 tench" and shown_label("n00000001") == "n00000001"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["n01440764", "n99999999"], "n99999999: none of ImageNet's 1,000 classes"),
        (["n01440764", "cat"], "cat: none of .* reads n01440764"),
        ([f"n9999999{i}" for i in range(7)], "n99999994 and 2 more: none"),
    ],
)
def test_other_names_are_named(labels: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        imagenet_outputs(labels)

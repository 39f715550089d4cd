import json
import math

import numpy as np
import pytest

from ofa_tvm import UserError
from ofa_tvm.confusion import Confusion, Mistake, confusion

LABELS = ["cat", "dog", "hen", "cow"]  # there are no cows
TARGETS = [0, 0, 0, 0, 1, 1, 1, 2]
ANSWERS = [0, 0, 1, 3, 1, 0, 0, 2]


def test_what_follows_from_the_counts() -> None:
    found = confusion(TARGETS, ANSWERS, LABELS)
    assert (found.images, found.right, found.accuracy) == (8, 4, 0.5)
    assert found.balanced_accuracy == pytest.approx((1 / 2 + 1 / 3 + 1) / 3)
    scores = {s.label: (s.images, s.right, s.taken_for, s.taken) for s in found.classes()}
    assert scores == {"cat": (4, 2, "dog", 1), "dog": (3, 1, "cat", 2), "hen": (1, 1, "", 0)}
    assert [score.label for score in found.worst(2)] == ["dog", "cat"]
    assert found.mistakes(2) == (Mistake("dog", "cat", 2, 3), Mistake("cat", "dog", 1, 4))
    assert len(found.mistakes()) == 3
    assert found.present().tolist() == [0, 1, 2, 3]  # a cow was answered
    assert confusion([0, 2], [0, 2], LABELS).present().tolist() == [0, 2]


def test_without_images_nothing_is_claimed() -> None:
    empty = confusion([], [], LABELS)
    assert math.isnan(empty.accuracy) and math.isnan(empty.balanced_accuracy)
    assert empty.classes() == empty.mistakes() == ()


def test_a_file_holds_it_and_damage_is_said() -> None:
    found = confusion(TARGETS, ANSWERS, LABELS)
    content = json.loads(found.to_json(data="photos"))
    assert content["data"] == "photos"
    read = Confusion.from_dict(content)
    assert read.labels == found.labels and (read.counts == found.counts).all()
    many = confusion([999], [3], [str(i) for i in range(1000)])
    assert many.to_dict()["counts"] == [[999, 3, 1]]  # not a million zeros
    for broken in ({"labels": ["a"]}, {**content, "counts": [[0, 4, 1]]}, {**content, "counts": [[0, 1]]}):
        with pytest.raises(UserError, match="confusion matrix is broken"):
            Confusion.from_dict(broken)


def test_answers_that_belong_to_nothing_are_refused() -> None:
    for targets, answers in (([0], [4]), ([0, 1], [0]), ([-1], [0])):
        with pytest.raises(ValueError):
            confusion(np.array(targets), np.array(answers), LABELS)

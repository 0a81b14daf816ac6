"""Scores on rendered scenes: what counts as right, and that they come from the path that a robot uses."""

import math
from dataclasses import dataclass

import pytest

pytest.importorskip("torch")

from depthlm_ros.core import Answer, Measurement, Region, Status
from depthlm_ros.eval.rendered_scenes import Given, judged, shares, validate
from depthlm_ros.model import load_model
from depthlm_ros.scenes.questions.generate import Question

pytestmark = pytest.mark.torch


@dataclass
class Replying:
    """A look whose answer is known."""

    answer: Answer

    def ask(self, question, uv_px):
        return self.answer


def asked(kind, status="ok", value=2.0, name=""):
    return Question("?", "", (), kind, value if status == "ok" else math.nan, "m", status, (name,) if name else ())


def said(value, *measured, status=Status.OK, text="words"):
    found = tuple(Measurement(quantity, metres, "m", 0.1) for quantity, metres in measured)
    return Replying(Answer(text, status, value, measurements=found))


@pytest.mark.parametrize(
    ("question", "reply", "right"),
    [
        (asked("distance"), said(2.4, ("distance", 2.6)), (True, False)),
        (asked("distance"), said(2.6, ("distance", 1.6), ("width", 9.0)), (False, True)),
        (asked("wide"), said(1.0, ("distance", 5.0), ("width", 2.1)), (False, True)),
        (asked("tall"), said(2.0), (True, False)),
        (asked("closer"), said(2.0, ("distance", 4.0), ("distance", 2.2)), (True, True)),
        (asked("distance"), said(2.0, status=Status.NOT_FOUND), (False, False)),
        (asked("where", "not_found"), said(math.nan, status=Status.NOT_FOUND), (True, True)),
        (asked("where", "not_found"), said(2.0, ("distance", 2.0)), (False, False)),
        (asked("what", name="red box"), said(2.0, ("distance", 2.0), text="The red box is far."), (True, True)),
        (asked("what", name="box"), said(2.0, ("distance", 2.0), text="The boxes are far."), (False, False)),
        (asked("what", "not_found"), said(math.nan, status=Status.NOT_FOUND), (True, True)),
    ],
)
def test_a_reply_is_right_by_its_status_and_by_a_number_within_a_quarter(question, reply, right):
    found = judged(reply, question, None)
    assert (found.right, found.measured, found.pointed) == (*right, None)


@pytest.mark.parametrize(
    ("regions", "pointed"),
    [
        ((Region(10, 10, 4, 4),), True),
        ((Region(0, 0, 64, 48),), False),
        ((Region(14, 20, 8, 2), Region(10, 10, 4, 4)), False),
        ((Region(0, 6, 32, 16),), True),
        ((), False),
    ],
)
def test_an_answer_points_at_a_thing_if_the_centre_of_its_first_region_is_on_it(regions, pointed):
    thing = Region(8, 8, 8, 8)
    for status in (Status.OK, Status.NOT_FOUND):
        reply = Replying(Answer("words", status, 2.0, regions=regions))
        assert judged(reply, asked("distance"), thing).pointed == pointed


def test_answers_are_counted_by_what_was_asked_for():
    answers = [
        Given(asked("distance"), True, False, True),
        Given(asked("closer"), False, False, False),
        Given(asked("wide"), True, True, True),
        Given(asked("distance", "not_found"), False, False),
        Given(asked("what", name="box"), True, False, True),
        Given(asked("what", "not_found"), True, True),
    ]
    found = shares(answers)
    distance = found["object_distance"]
    assert (distance.right, distance.asked, distance.pointed) == (0.5, 2, 0.5)
    assert math.isnan(found["absent"].pointed)
    assert (found["object_size"].right, found["object_size"].measured) == (1.0, 1.0)
    assert found["absent"].asked == 1 and found["absent"].right == 0.0
    assert (found["named_points"].right, found["named_points"].measured, found["named_points"].asked) == (1.0, 0.0, 1)
    assert (found["nothing_here"].right, found["nothing_here"].asked) == (1.0, 1)
    assert found["out_of_scope"].asked == 0 and math.isnan(found["out_of_scope"].right)


def test_the_embedded_model_is_scored_the_same_way_each_time():
    model = load_model("tiny", threads=1)
    first, second = (validate(model, images=2, points=3, questions=2) for _ in range(2))
    # As text: NaN is not equal to itself.
    assert str(first) == str(second)
    # Two in words of each picture, and what one pixel shows.
    assert 4 < sum(share.asked for share in first.questions.values()) <= 6
    assert 0 < first.dense.delta1 <= 1

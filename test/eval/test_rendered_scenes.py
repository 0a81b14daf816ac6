# SPDX-License-Identifier: Apache-2.0
"""Scores on rendered scenes: the rules for correct answers, and an evaluation of the embedded model."""

import math
from dataclasses import dataclass

import pytest

pytest.importorskip("numba")

from depthlm_ros.core import Answer, Measurement, Region, Status
from depthlm_ros.eval.rendered_scenes import AnswerCheck, check_answer, score_answers, validate
from depthlm_ros.model import load_model
from depthlm_ros.scenes.questions.generate import SceneQuestion


@dataclass
class FixedAnswer:
    """A view that gives the same answer to every question."""

    answer: Answer

    def ask(self, question, uv_px):
        return self.answer


def make_question(kind, status="ok", value=2.0, name=""):
    return SceneQuestion("?", "", (), kind, value if status == "ok" else math.nan, "m", status, (name,) if name else ())


def make_reply(value, *measured, status=Status.OK, text="words"):
    measurements = tuple(Measurement(quantity, metres, "m", 0.1) for quantity, metres in measured)
    return FixedAnswer(Answer(text, status, value, measurements=measurements, words_value=value))


@pytest.mark.parametrize(
    ("question", "reply", "right"),
    [
        (make_question("distance"), make_reply(2.4, ("distance", 2.6)), (True, False)),
        (make_question("distance"), make_reply(2.6, ("distance", 1.6), ("width", 9.0)), (False, True)),
        (make_question("wide"), make_reply(1.0, ("distance", 5.0), ("width", 2.1)), (False, True)),
        (make_question("tall"), make_reply(2.0), (True, False)),
        (make_question("closer"), make_reply(2.0, ("distance", 4.0), ("distance", 2.2)), (True, True)),
        (make_question("distance"), make_reply(2.0, status=Status.NOT_FOUND), (False, False)),
        (make_question("distance"), make_reply(9.0, ("distance", 2.0), status=Status.INCONSISTENT), (False, True)),
        (make_question("where", "not_found"), make_reply(math.nan, status=Status.NOT_FOUND), (True, True)),
        (make_question("where", "not_found"), make_reply(2.0, ("distance", 2.0)), (False, False)),
        (
            make_question("what", name="red box"),
            make_reply(2.0, ("distance", 2.0), text="The red box is far."),
            (True, True),
        ),
        (
            make_question("what", name="box"),
            make_reply(2.0, ("distance", 2.0), text="The boxes are far."),
            (False, False),
        ),
        (make_question("what", "not_found"), make_reply(math.nan, status=Status.NOT_FOUND), (True, True)),
    ],
)
def test_reply_is_correct_by_its_status_and_by_a_number_within_25_percent(question, reply, right):
    check = check_answer(reply, question, None)
    assert (check.right, check.measured, check.pointed) == (*right, None)
    assert check.answered == check.right  # The value of these answers is that of their words.


def test_the_number_of_an_answer_counts_beside_the_one_in_its_words():
    answer = Answer("words", Status.OK, 2.1, confidence=0.7, words_value=9.0)
    check = check_answer(FixedAnswer(answer), make_question("distance"), None)
    assert (check.right, check.answered, check.confidence) == (False, True, 0.7)


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
def test_answer_points_at_a_thing_if_the_centre_of_its_first_region_is_on_it(regions, pointed):
    thing = Region(8, 8, 8, 8)
    for status in (Status.OK, Status.NOT_FOUND):
        reply = FixedAnswer(Answer("words", status, 2.0, regions=regions))
        assert check_answer(reply, make_question("distance"), thing).pointed == pointed


def test_answers_are_scored_by_subject():
    answers = [
        AnswerCheck(make_question("distance"), True, False, True),
        AnswerCheck(make_question("closer"), False, False, False),
        AnswerCheck(make_question("wide"), True, True, True),
        AnswerCheck(make_question("distance", "not_found"), False, False),
        AnswerCheck(make_question("what", name="box"), True, False, True),
        AnswerCheck(make_question("what", "not_found"), True, True),
    ]
    scores = score_answers(answers)
    distance = scores["object_distance"]
    assert (distance.right, distance.asked, distance.pointed) == (0.5, 2, 0.5)
    assert math.isnan(scores["absent"].pointed)
    assert (scores["object_size"].right, scores["object_size"].measured) == (1.0, 1.0)
    assert scores["absent"].asked == 1 and scores["absent"].right == 0.0
    assert (scores["named_points"].right, scores["named_points"].measured, scores["named_points"].asked) == (
        1.0,
        0.0,
        1,
    )
    assert (scores["nothing_here"].right, scores["nothing_here"].asked) == (1.0, 1)
    assert scores["out_of_scope"].asked == 0 and math.isnan(scores["out_of_scope"].right)


def test_scores_of_the_embedded_model_are_repeatable():
    model = load_model("tiny", threads=1)
    first, second = (validate(model, images=2, points=3, questions=2) for _ in range(2))
    # The reports are compared as text, because NaN is not equal to itself.
    assert str(first) == str(second)
    # There are two questions in words about each picture, and sometimes one about a pixel.
    assert 4 < sum(subject.asked for subject in first.questions.values()) <= 6
    assert 0 < first.dense.delta1 <= 1

# SPDX-License-Identifier: Apache-2.0
"""Questions about things in photographs: the rules for correct answers, the shares, and the calibration error."""

import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

from support.checkered_room import CAMERA, write_labels
from support.paths import ROOT, needs_tiny

from depthlm_ros.core import Answer, Measurement, Region, Status
from depthlm_ros.errors import BadInput
from depthlm_ros.eval.real_questions import (
    NONSENSE,
    PhotoAnswer,
    PhotoQuestion,
    ask_nonsense,
    read_photo_questions,
    score_answers,
    score_photo_questions,
)
from depthlm_ros.model import load_model
from depthlm_ros.scenes.questions.wording import OUT_OF_SCOPE_QUESTIONS

PHOTOGRAPHS = Path(os.environ.get("DEPTHLM_IBIMS", ROOT.parent / "shared" / "data" / "ibims1_dev"))
BOX = Region(100, 100, 50, 50)
PRESENT = PhotoQuestion("q:1", Path("a.png"), CAMERA, "door", BOX, 2.0, (1.8, 3.0))
ABSENT = PhotoQuestion("q:2", Path("a.png"), CAMERA, "bed")


def make_answer(value=math.nan, status=Status.OK, region=None, measured=None, std=math.nan, confidence=0.5):
    measurements = [] if measured is None else [Measurement("distance", measured, "m", 0.1, (0,))]
    regions = () if region is None else (region,)
    return Answer("words", status, value, "m", std, np.zeros((0, 3)), regions, confidence, tuple(measurements))


@dataclass
class FixedAnswers:
    """A model and its view: it answers from a table, by the first words of the question."""

    answers: dict[str, Answer]

    def ask(self, question):
        return next((a for start, a in self.answers.items() if question.startswith(start)), self.answers[""])


@pytest.mark.parametrize(
    ("distance_m", "right"),
    [
        (2.0, True),
        (1.5, True),
        (1.45, False),
        (2.5, True),
        (3.29, True),
        (3.31, False),
        (1.63, True),
        (math.nan, False),
    ],
)
def test_distance_is_right_within_a_quarter_or_within_the_widened_spread(distance_m, right):
    assert PhotoAnswer(PRESENT, make_answer(distance_m)).right is right


@pytest.mark.parametrize(
    ("status", "right"), [(Status.NOT_FOUND, True), (Status.OK, False), (Status.NOT_UNDERSTOOD, False)]
)
def test_an_absent_thing_must_be_called_absent(status, right):
    assert PhotoAnswer(ABSENT, make_answer(status=status)).right is right


@pytest.mark.parametrize(
    ("region", "pointed"), [(Region(140, 140, 18, 18), True), (Region(140, 140, 22, 22), False), (None, False)]
)
def test_an_answer_points_at_the_thing_with_the_centre_of_its_region(region, pointed):
    assert PhotoAnswer(PRESENT, make_answer(2.0, region=region)).pointed is pointed


@pytest.mark.parametrize(
    ("words_m", "measured_m", "contradicts"),
    [(2.4, 2.0, False), (2.6, 2.0, True), (1.4, 2.0, True), (2.0, None, False)],
)
def test_an_answer_contradicts_itself_if_words_and_map_differ_by_a_quarter(words_m, measured_m, contradicts):
    assert PhotoAnswer(PRESENT, make_answer(words_m, measured=measured_m)).contradicts_itself is contradicts


def test_words_are_compared_before_they_are_combined_with_the_map():
    answer = replace(make_answer(2.1, measured=2.0, status=Status.INCONSISTENT), words_value=3.0)
    assert PhotoAnswer(PRESENT, answer).contradicts_itself
    assert PhotoAnswer(PRESENT, answer).found and PhotoAnswer(PRESENT, answer).right
    assert score_answers([PhotoAnswer(PRESENT, answer), PhotoAnswer(PRESENT, make_answer(2.0))]).inconsistent == 0.5


def test_shares_are_of_all_questions_of_their_kind():
    answers = [
        PhotoAnswer(PRESENT, make_answer(2.0, region=BOX, measured=4.0, std=0.1)),
        PhotoAnswer(PRESENT, make_answer(9.0, region=Region(0, 0, 9, 9), measured=2.0, std=0.1)),
        PhotoAnswer(PRESENT, make_answer(status=Status.NOT_FOUND)),
        PhotoAnswer(PRESENT, make_answer(2.1, measured=2.0, std=0.1001)),
        PhotoAnswer(ABSENT, make_answer(status=Status.NOT_FOUND)),
    ]
    scores = score_answers(answers)
    assert (scores.present, scores.absent, scores.compared) == (4, 1, 3)
    assert (scores.found, scores.distance_right, scores.measured_right, scores.pointed) == (0.75, 0.5, 0.5, 0.25)
    assert scores.absent_right == 1.0
    assert scores.contradictions == pytest.approx(2 / 3) and scores.within_std == pytest.approx(2 / 3)


def test_nonsense_is_refused_by_not_understanding_it(tmp_path):
    write_labels(tmp_path)
    photographs = [(tmp_path / f"room_{number}.png", CAMERA) for number in range(2)]
    view = FixedAnswers({"Hello": make_answer(status=Status.NOT_UNDERSTOOD), "": make_answer(status=Status.NOT_FOUND)})
    assert ask_nonsense(lambda frame: view, photographs, ("Hello", "Bye", "Hello you")) == pytest.approx(2 / 3)


def test_nonsense_is_not_that_of_the_training():
    assert len(set(NONSENSE)) == len(NONSENSE)
    assert not set(NONSENSE) & set(OUT_OF_SCOPE_QUESTIONS)


def write_questions(folder, *lines):
    write_labels(folder, images=1)
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return folder


DOOR = {"image": "room_0.png", "thing": "door", "box": [10, 20, 30, 60], "range_m": 2.5, "spread": [2.0, 3.0]}


def test_questions_are_read_with_the_camera_of_their_photograph(tmp_path):
    there, absent = read_photo_questions(write_questions(tmp_path, DOOR, DOOR | {"thing": "bed", "box": None}))
    assert (there.text, there.box, there.intrinsics) == ("How far is the door?", Region(10, 20, 20, 40), CAMERA)
    assert (absent.text, absent.box) == ("Is there a bed?", None)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"image": "other.png"}, "image missing"),
        ({"thing": ""}, "thing malformed"),
        ({"range_m": -1}, "range_m malformed"),
        ({"box": [1, 2]}, "box malformed"),
    ],
)
def test_a_bad_question_costs_only_itself(tmp_path, changed, reason):
    problems = []
    questions = read_photo_questions(write_questions(tmp_path, DOOR | changed, DOOR), problems)
    assert len(questions) == 1 and [problem.reason for problem in problems] == [reason]


def test_a_file_without_a_usable_question_is_an_error(tmp_path):
    with pytest.raises(BadInput, match="question"):
        read_photo_questions(write_questions(tmp_path, {"image": "room_0.png"}))


def test_all_questions_of_a_photograph_share_one_look(tmp_path):
    looks = []
    view = FixedAnswers(
        {
            "How far is the door": make_answer(2.4, region=Region(10, 20, 20, 40), measured=2.4, std=0.2),
            "Is there": make_answer(status=Status.NOT_FOUND),
            "Hello": make_answer(status=Status.OK),
            "": make_answer(status=Status.NOT_UNDERSTOOD),
        }
    )

    def look(frame):
        looks.append(frame)
        return view

    questions = read_photo_questions(write_questions(tmp_path, DOOR, DOOR | {"thing": "bed", "box": None}))
    scores = score_photo_questions(look, questions)
    assert (scores.distance_right, scores.pointed, scores.absent_right) == (1.0, 1.0, 1.0)
    unrefused = 1 / len(OUT_OF_SCOPE_QUESTIONS)
    assert scores.trained_nonsense_refused == pytest.approx(1 - unrefused)
    assert len(looks) == 3  # questions, and two lists of texts without an answer


@needs_tiny
@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="shared/data/ibims1_dev is not here")
def test_tiny_answers_questions_about_photographs():
    questions = read_photo_questions(PHOTOGRAPHS)
    assert (len(questions), sum(question.box is None for question in questions)) == (78, 40)
    scores = score_photo_questions(load_model("tiny").look, [*questions[:3], questions[-1]])
    assert (scores.present, scores.absent) == (3, 1)
    assert 0 <= scores.calibration_error <= 1

# SPDX-License-Identifier: Apache-2.0
"""Questions about things in real photographs: `read_photo_questions`, `ask_photo_questions`, `score_answers`.

questions.jsonl lies beside the photographs' labels.jsonl, one JSON object a line:
    {"image": path, "thing": name, "box": [x0, y0, x1, y1], "range_m": metres, "spread": [metres, metres]}
With a box the question is "How far is the THING?". range_m is the straight line from the camera to the thing, spread
its quartiles over the points of the thing. With box null the question is "Is there a THING?", and there is none.

A distance is right within a quarter of range_m, or within the spread widened by a tenth. An answer points at the thing
if the centre of its first region lies in the box. An answer contradicts itself if the distance in its words differs by
more than a quarter from the distance that it measured in its own region.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from depthlm_ros.core import Answer, Frame, Intrinsics, Region, Status
from depthlm_ros.data.read import iter_numbered_lines, parse_json_object, require_keys
from depthlm_ros.data.records import (
    BadRecord,
    RecordProblem,
    first_text,
    parse_array,
    parse_file_path,
    parse_positive,
    unusable_file_error,
)
from depthlm_ros.eval.real_depth import read_photographs
from depthlm_ros.eval.rendered_scenes import is_centred_on
from depthlm_ros.eval.result_file import ProgressCallback
from depthlm_ros.eval.uncertainty import calibration_error
from depthlm_ros.image_io import read_rgb
from depthlm_ros.scenes.questions.wording import OUT_OF_SCOPE_QUESTIONS

QUESTIONS_FILE = "questions.jsonl"
QUESTION_KEYS = ("image", "thing", "box")
DISTANCE_TOLERANCE, SPREAD_TOLERANCE, CONTRADICTION = 0.25, 0.1, 0.25
# Texts without an answer in the picture. None of them is a text of the training (scenes/questions/wording.py).
NONSENSE = (
    "What is the colour of Tuesday?", "Sell me a ticket to Rome.", "zxcv bnm", "Who wrote Hamlet?", "12 34 56 78",
    "How far is the moon from Mars?", "Where is my brother now?", "Please restart the computer.", "la la la la",
    "What is the square root of nine?", "I would like some coffee.", "!!!", "How tall is Mount Everest?",
    "Is there life after death?", "Which team won yesterday?", "How wide is the Atlantic?", "Good night, sleep well.",
    "fhqwhgads tlk prr", "Give me your password.", "When does the train leave?", "What rhymes with orange?",
    "Why is the sky blue?", "Read me the news.", "How many days has a year?",
)  # fmt: skip


class QuestionAnswerer(Protocol):
    """The part of view.View that answers questions."""

    def ask(self, question: str, /) -> Answer: ...


@dataclass(frozen=True)
class PhotoQuestion:
    """A question about a photograph. box: where the thing is, None if it is not there; then the metres are NaN."""

    where: str
    image: Path
    intrinsics: Intrinsics
    thing: str
    box: Region | None = None
    range_m: float = math.nan
    spread_m: tuple[float, float] = (math.nan, math.nan)

    @property
    def text(self) -> str:
        """The question in words."""
        return f"How far is the {self.thing}?" if self.box else f"Is there a {self.thing}?"

    def is_right(self, distance_m: float) -> bool:
        """Returns whether a distance is right; NaN is not."""
        low_m, high_m = self.spread_m
        near = abs(distance_m - self.range_m) <= DISTANCE_TOLERANCE * self.range_m
        return near or (1 - SPREAD_TOLERANCE) * low_m <= distance_m <= (1 + SPREAD_TOLERANCE) * high_m


@dataclass(frozen=True)
class PhotoAnswer:
    """A question with the model's answer."""

    question: PhotoQuestion
    answer: Answer

    @property
    def found(self) -> bool:
        """Whether the model says that the thing is there, even if its words and the map disagree about where."""
        return self.answer.status in (Status.OK, Status.INCONSISTENT)

    @property
    def right(self) -> bool:
        """Whether the distance is right, or whether an absent thing is called absent."""
        if self.question.box is None:
            return self.answer.status is Status.NOT_FOUND
        return self.found and self.question.is_right(self.answer.value)

    @property
    def pointed(self) -> bool:
        """Whether the centre of the answer's first region lies in the box."""
        regions, box = self.answer.regions, self.question.box
        return bool(regions) and box is not None and is_centred_on(regions[0], box)

    @property
    def contradicts_itself(self) -> bool:
        """Whether the distance in words differs by more than a quarter from the measured one; False if one is NaN."""
        measured_m = measured_distance_m(self.answer)
        return abs(words_distance_m(self.answer) - measured_m) > CONTRADICTION * measured_m


@dataclass(frozen=True)
class PhotoQuestionScores:
    """Shares of the answers to `present` questions about things that are there and `absent` about others.

    distance_right, measured_right: by the answer's value, and by the distance that it measured. inconsistent: share of
    the found things whose answer says itself that words and map disagree. contradictions: share of the `compared`
    answers, which have a distance in words and a measured one, before both are combined. calibration_error: expected
    calibration error of the confidence, five bins, over all questions (Naeini et al., AAAI 2015). within_std: share of
    the answered distances within one reported deviation. nonsense_refused: of NONSENSE; trained_nonsense_refused: of
    texts that are in the training of the embedded model.
    """

    present: int
    absent: int
    found: float
    distance_right: float
    measured_right: float
    pointed: float
    absent_right: float
    inconsistent: float
    compared: int
    contradictions: float
    calibration_error: float
    mean_confidence: float
    within_std: float
    nonsense_refused: float = math.nan
    trained_nonsense_refused: float = math.nan


def words_distance_m(answer: Answer) -> float:
    """Returns the distance in the model's words, before it is combined with the measured one."""
    return answer.words_value if math.isfinite(answer.words_value) else answer.value


def measured_distance_m(answer: Answer) -> float:
    """Returns the distance of the answer's first region in the depth map, NaN if it was not measured."""
    distances = (one.value for one in answer.measurements if one.quantity == "distance" and one.about == (0,))
    return next(distances, math.nan)


def read_photo_questions(folder: Path, problems: list[RecordProblem] | None = None) -> tuple[PhotoQuestion, ...]:
    """Returns the questions about the photographs of a folder, in the order of the file.

    problems: takes what is wrong with the questions that are left out. Raises BadInput if no question is usable.
    """
    problems = [] if problems is None else problems
    cameras = {record.image: record.intrinsics for record in read_photographs(folder)}
    path = folder / QUESTIONS_FILE
    questions: list[PhotoQuestion] = []
    for where, line in iter_numbered_lines(path):
        try:
            questions.append(parse_photo_question(line, where, folder, cameras))
        except BadRecord as exc:
            problems.append(RecordProblem(where, exc.reason, str(exc)))
    if not questions:
        raise unusable_file_error(path, problems, "question")
    return tuple(questions)


def parse_photo_question(line: str, where: str, folder: Path, cameras: dict[Path, Intrinsics]) -> PhotoQuestion:
    """Returns the question of one line. cameras: of the labelled photographs. Raises BadRecord if it is not usable."""
    fields = parse_json_object(line)
    require_keys(fields, QUESTION_KEYS)
    image, thing = parse_file_path(fields["image"], folder), first_text(fields, "thing")
    if image not in cameras:
        raise BadRecord("image without a camera", f"{image} is not in labels.jsonl: label it there, for its camera.")
    if not thing:
        raise BadRecord("thing malformed", f"thing is {fields['thing']!r}: expected the name of a thing.")
    if fields["box"] is None:
        return PhotoQuestion(where, image, cameras[image], thing)
    require_keys(fields, ("range_m", "spread"))
    x0, y0, x1, y1 = parse_array("box", fields["box"], (4,)).tolist()
    low_m, high_m = parse_array("spread", fields["spread"], (2,)).tolist()
    range_m = parse_positive("range_m", fields["range_m"])
    box = Region(x0, y0, x1 - x0, y1 - y0)
    return PhotoQuestion(where, image, cameras[image], thing, box, range_m, (low_m, high_m))


def ask_photo_questions(
    look: Callable[[Frame], QuestionAnswerer],
    questions: Sequence[PhotoQuestion],
    on_progress: ProgressCallback | None = None,
) -> list[PhotoAnswer]:
    """Asks all questions, with one look at each photograph. Raises BadImage if a photograph cannot be read."""
    by_image: dict[Path, list[PhotoQuestion]] = {}
    for question in questions:
        by_image.setdefault(question.image, []).append(question)
    answers: list[PhotoAnswer] = []
    for image, asked in by_image.items():
        view = look(Frame(read_rgb(image), asked[0].intrinsics))
        answers += [PhotoAnswer(question, view.ask(question.text)) for question in asked]
        if on_progress:
            on_progress(len(answers), len(questions))
    return answers


def ask_nonsense(
    look: Callable[[Frame], QuestionAnswerer], photographs: Sequence[tuple[Path, Intrinsics]], texts: Sequence[str]
) -> float:
    """Returns the share of the texts that are refused. Text i is asked about photograph i mod their number."""
    asked: dict[int, list[str]] = {}
    for index, text in enumerate(texts):
        asked.setdefault(index % len(photographs), []).append(text)
    refused = 0
    for index, about in asked.items():
        image, intrinsics = photographs[index]
        view = look(Frame(read_rgb(image), intrinsics))
        refused += sum(view.ask(text).status is Status.NOT_UNDERSTOOD for text in about)
    return refused / len(texts)


def score_photo_questions(
    look: Callable[[Frame], QuestionAnswerer],
    questions: Sequence[PhotoQuestion],
    on_progress: ProgressCallback | None = None,
) -> PhotoQuestionScores:
    """Asks the questions and the texts without an answer, about the same photographs, and returns the scores."""
    scores = score_answers(ask_photo_questions(look, questions, on_progress))
    photographs = list({question.image: question.intrinsics for question in questions}.items())
    refused, trained = (ask_nonsense(look, photographs, texts) for texts in (NONSENSE, OUT_OF_SCOPE_QUESTIONS))
    return replace(scores, nonsense_refused=refused, trained_nonsense_refused=trained)


def score_answers(answers: Sequence[PhotoAnswer]) -> PhotoQuestionScores:
    """Returns the scores of the answers to questions; the shares of nonsense are left NaN."""
    present = [one for one in answers if one.question.box is not None]
    absent = [one for one in answers if one.question.box is None]
    found = [one for one in present if one.found]
    measured_m = [measured_distance_m(one.answer) for one in found]
    words_m = [words_distance_m(one.answer) for one in found]
    compared = [one for one, *both in zip(found, measured_m, words_m, strict=True) if np.isfinite(both).all()]
    errors_m = [(abs(one.answer.value - one.question.range_m), one.answer.std) for one in found]
    within = [error_m <= std_m for error_m, std_m in errors_m if np.isfinite((error_m, std_m)).all()]
    confidence, right = [one.answer.confidence for one in answers], [one.right for one in answers]
    measured_right = sum(one.question.is_right(m) for one, m in zip(found, measured_m, strict=True))
    return PhotoQuestionScores(
        present=len(present),
        absent=len(absent),
        found=_share([one.found for one in present]),
        distance_right=_share([one.right for one in present]),
        measured_right=measured_right / len(present) if present else math.nan,
        pointed=_share([one.pointed for one in present]),
        absent_right=_share([one.right for one in absent]),
        inconsistent=_share([one.answer.status is Status.INCONSISTENT for one in found]),
        compared=len(compared),
        contradictions=_share([one.contradicts_itself for one in compared]),
        calibration_error=calibration_error(np.array(confidence), np.array(right)),
        mean_confidence=float(np.nanmean(confidence)) if np.isfinite(confidence).any() else math.nan,
        within_std=_share(within),
    )


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits) if hits else math.nan

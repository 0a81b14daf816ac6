# SPDX-License-Identifier: Apache-2.0
"""Questions that wait together share the steps of the model, and a bad question spoils only its own answer."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from support.paths import TINY

from depthlm_ros.core import Frame, Intrinsics, Question
from depthlm_ros.errors import BadQuestion
from depthlm_ros.model import Model, load_model
from depthlm_ros.ros.camera_info_sync import CameraImage
from depthlm_ros.ros.frame_processing import FrameProcessor, FrameResult
from depthlm_ros.ros.inference_thread import InferenceThread
from depthlm_ros.ros.request_queue import PendingQuestion, RequestQueue
from depthlm_ros.ros.statistics import FrameStatistics, ProblemLog

QUESTIONS = ["How far is the red box?", "How far is the lamp?", "Where is the table?", "Is there a chair?"]


class CountedBackend:
    """A backend that counts its steps."""

    def __init__(self, backend) -> None:
        self.backend, self.name, self.steps = backend, backend.name, 0

    def look(self, images):
        return self.backend.look(images)

    def read(self, look):
        return self.backend.read(look)

    def cache(self, look, rows, slots):
        return self.backend.cache(look, rows, slots)

    def step(self, cache, given):
        self.steps += 1
        return self.backend.step(cache, given)


@pytest.fixture(scope="module")
def model():
    if not TINY.is_dir():
        pytest.skip("engines/tiny is not here: `make train` makes it")
    loaded = load_model("tiny", threads=1)
    return Model(loaded.spec, loaded.family, loaded.chat, CountedBackend(loaded.backend), loaded.tokenizer)


@pytest.fixture
def result(model):
    rgb = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    view = model.look(Frame(rgb, Intrinsics(110.0, 110.0, 63.5, 47.5, 128, 96)))
    return FrameResult(view, CameraImage(None, 0, 0, 0, 1))


class FakeClock:
    def now(self):
        return SimpleNamespace(nanoseconds=0)


def answer_together(model, result, questions):
    """Lets an inference thread answer questions that waited together; returns their futures and the model's steps."""
    problems = ProblemLog(lambda line: None)
    queue = RequestQueue(FakeClock(), problems, len(questions))
    queue.set_frame_result(result)

    def put(question):
        pending = PendingQuestion(lambda given: (given, given.view.ask_all([question])[0]), False, question)
        queue.put_question(pending)
        return pending.future

    futures = [put(question) for question in questions]
    before, statistics = model.backend.steps, FrameStatistics()
    processor = FrameProcessor(model, False, False, problems)
    thread = InferenceThread(queue, processor, lambda given: None, lambda: True, statistics, problems)
    thread.start()
    for future in futures:
        future.exception(30)
    queue.close()
    thread.join(10)
    assert statistics.snapshot().questions == sum(future.exception() is None for future in futures)
    return futures, model.backend.steps - before


def test_questions_that_wait_together_share_steps_and_get_the_same_answers_as_alone(model, result):
    questions = [Question(text) for text in QUESTIONS]
    alone = [answer_together(model, result, [question]) for question in questions]
    together, steps = answer_together(model, result, questions)
    assert [future.result()[1].text for future in together] == [futures[0].result()[1].text for futures, _ in alone]
    assert all(future.result()[0] is result for future in together)
    assert steps == max(steps for _, steps in alone) < sum(steps for _, steps in alone)


def test_bad_question_in_a_batch_fails_alone(model, result):
    good = Question(QUESTIONS[0])
    bad = replace(good, uv_px=np.array([[5000.0, 1.0]]))
    futures, _ = answer_together(model, result, [good, bad, Question(QUESTIONS[1])])
    with pytest.raises(BadQuestion, match="5000"):
        futures[1].result()
    assert futures[0].result()[1].text == result.view.ask(QUESTIONS[0]).text
    assert futures[2].result()[1].text == result.view.ask(QUESTIONS[1]).text

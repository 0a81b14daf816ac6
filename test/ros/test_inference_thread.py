"""Questions of one round share the model's steps, and a bad one costs only itself."""

from dataclasses import replace

import numpy as np
import pytest
from support.paths import TINY

from depthlm_ros.core import Frame, Intrinsics, Question
from depthlm_ros.errors import BadQuestion
from depthlm_ros.model import Model, load_model
from depthlm_ros.ros.camera_info_sync import Arrival
from depthlm_ros.ros.frame_processing import Eye, Seen
from depthlm_ros.ros.inference_thread import Worker
from depthlm_ros.ros.request_queue import Inbox, Ticket
from depthlm_ros.ros.statistics import Meter, Troubles

QUESTIONS = ["How far is the red box?", "How far is the lamp?", "Where is the table?", "Is there a chair?"]


class CountedBackend:
    """A backend that counts its steps."""

    def __init__(self, backend) -> None:
        self.backend, self.name, self.steps = backend, backend.name, 0

    def look(self, images):
        return self.backend.look(images)

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
def seen(model):
    rgb = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    return Seen(model.look(Frame(rgb, Intrinsics(110.0, 110.0, 63.5, 47.5, 128, 96))), Arrival(None, 0, 0, 0, 1))


def answered(model, seen, questions):
    """The futures of questions that waited together, answered by a worker; and how many steps it took."""
    troubles = Troubles(lambda line: None)
    inbox = Inbox(troubles, len(questions))
    inbox.done(seen)

    def ticket(question):
        made = Ticket(lambda look: (look, look.view.ask_all([question])[0]), False, 0, question=question)
        inbox.ask(made)
        return made.future

    futures = [ticket(question) for question in questions]
    before, meter = model.backend.steps, Meter()
    worker = Worker(inbox, Eye(model, False, False, troubles), lambda look: None, lambda: True, meter, troubles)
    worker.start()
    for future in futures:
        future.exception(30)
    inbox.close()
    worker.join(10)
    assert meter.read().questions == sum(future.exception() is None for future in futures)
    return futures, model.backend.steps - before


def test_questions_that_wait_together_are_asked_together_and_answered_as_alone(model, seen):
    questions = [Question(text) for text in QUESTIONS]
    alone = [answered(model, seen, [question]) for question in questions]
    together, steps = answered(model, seen, questions)
    assert [future.result()[1].text for future in together] == [futures[0].result()[1].text for futures, _ in alone]
    assert all(future.result()[0] is seen for future in together)
    assert steps == max(steps for _, steps in alone) < sum(steps for _, steps in alone)


def test_a_bad_question_among_them_costs_only_itself(model, seen):
    good = Question(QUESTIONS[0])
    bad = replace(good, uv_px=np.array([[5000.0, 1.0]]))
    futures, _ = answered(model, seen, [good, bad, Question(QUESTIONS[1])])
    with pytest.raises(BadQuestion, match="5000"):
        futures[1].result()
    assert futures[0].result()[1].text == seen.view.ask(QUESTIONS[0]).text
    assert futures[2].result()[1].text == seen.view.ask(QUESTIONS[1]).text

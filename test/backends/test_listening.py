# SPDX-License-Identifier: Apache-2.0
"""Who listens hears the words of a reply as they come and can end the decoding; the answers stay those of silence."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from support.scripted_backend import ScriptedBackend, scripted_model

from depthlm_ros.core import Frame, Intrinsics, Question, Region

FRAME = Frame(np.full((120, 160, 3), 90, np.uint8), Intrinsics(150.0, 150.0, 80.0, 60.0, 160, 120))
WORDS = "The box is 2.31 meters away, über dem Tisch. "
TOKENS = 500


@pytest.fixture(scope="module")
def long_reply() -> str:
    """A reply of TOKENS tokens, with characters of several bytes."""
    tokenizer = scripted_model("vlm3-object", str).tokenizer
    ids = tokenizer.encode(40 * WORDS, add_special_tokens=False).ids
    return tokenizer.decode(ids[:TOKENS]).rstrip("\ufffd")


class Stopped(Exception):
    """What a listener raises here."""


def model_that_says(*replies: str):
    """Returns a model that replies to a question with the number N with the N-th reply."""
    return scripted_model(
        "vlm3-object", lambda question: next(r for n, r in enumerate(replies) if f" {n} " in question)
    )


def test_the_words_come_one_token_at_a_time_and_the_answer_is_that_without_a_listener(long_reply):
    model, heard = model_that_says(long_reply), []
    question = Question("Question 0 : what is there?", regions=(Region(10, 10, 40, 40),))
    silent = model.look(FRAME).ask_all([question])[0]
    steps = model.backend.steps
    answer = model.look(FRAME).ask_all([Question(question.text, regions=question.regions, on_words=heard.append)])[0]
    assert model.backend.steps == 2 * steps and abs(steps - TOKENS) <= 2
    assert len(heard) == steps and heard[-1] == long_reply
    assert all(later.startswith(earlier) for earlier, later in pairwise(heard))
    assert len(set(heard)) > 0.8 * TOKENS and not any("\ufffd" in words for words in heard)
    assert vars(answer).keys() == vars(silent).keys() and answer.text == silent.text == long_reply.strip()
    assert (answer.value, answer.confidence, answer.regions) == (silent.value, silent.confidence, silent.regions)


@pytest.mark.parametrize("after", [1, 7, 120])
def test_what_a_listener_raises_ends_the_decoding_within_one_step(long_reply, after):
    model, heard = model_that_says(long_reply), []

    def listen(words: str) -> None:
        heard.append(words)
        if len(heard) == after:
            raise Stopped

    with pytest.raises(Stopped):
        model.look(FRAME).ask_all([Question("Question 0 : what is there?", on_words=listen)])
    assert model.backend.steps == len(heard) == after
    assert model.look(FRAME).ask("Question 0 : what is there?").text == long_reply.strip()


def test_questions_asked_together_are_heard_each_by_its_own_listener():
    model, heard = model_that_says("It is 1.20 meters.", "A chair and a table."), {0: [], 1: []}
    questions = [Question(f"Question {n} : what is there?", on_words=heard[n].append) for n in heard]
    silent = Question("Question 1 : what is there?")
    answers = model.look(FRAME).ask_all([*questions, silent])
    assert [answer.text for answer in answers] == ["It is 1.20 meters.", "A chair and a table.", "A chair and a table."]
    assert (heard[0][-1], heard[1][-1]) == ("It is 1.20 meters.", "A chair and a table.")
    assert len(heard[0]) != len(heard[1])


class BackendWithDepth(ScriptedBackend):
    """Sees a wall at 2 m everywhere."""

    def look(self, images):
        return replace(super().look(images), depth_m=np.full(images[0].shape[:3], 2.0, np.float32))


def test_the_search_for_objects_can_be_ended_too_and_is_not_heard_as_words():
    """A model that finds objects is asked a second time, where they are."""
    found = '[{"bbox_2d": [100, 100, 500, 500], "label": "box"}]'
    model = scripted_model("depthvlm-4b", lambda question: found if "bbox" in question else "Yes, it is near.")
    model.backend = BackendWithDepth(model.tokenizer, model.backend.end, model.backend.reply)
    heard: list[str] = []
    answer = model.look(FRAME).ask_all([Question("Is the box near?", on_words=heard.append)])[0]
    assert [region.label for region in answer.regions] == ["box"] and len(heard) == model.backend.steps
    first = heard.index("Yes, it is near.")
    assert set(heard[first:]) == {"Yes, it is near."} and len(heard) > first + 10

    def stop_in_the_search(words: str) -> None:
        heard.append(words)
        if heard[-4:] == ["Yes, it is near."] * 4:
            raise Stopped

    heard.clear()
    with pytest.raises(Stopped):
        model.look(FRAME).ask_all([Question("Is the box near?", on_words=stop_in_the_search)])
    assert len(heard) == first + 4

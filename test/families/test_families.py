"""Tests of all families: abilities and refusals, control tokens, and the words of the embedded model."""

import math

import numpy as np
import pytest

from depthlm_ros.core import Region, Status
from depthlm_ros.errors import BadQuestion, UnknownName
from depthlm_ros.families.base import Prompt, Reply
from depthlm_ros.families.parsing import escape_control_tokens, strip_thinking
from depthlm_ros.families.registry import FAMILIES, family_named
from depthlm_ros.scenes.questions.wording import NO_OBJECT_REPLY

TINY = family_named("tiny")
SIZE = (128, 96)
NONE = np.zeros((0, 2))

# Ability -> the methods that belong to it.
CALLS = {
    "points": lambda f: (f.point_prompt(5.0, 6.0, SIZE), f.read_point("")),
    "questions": lambda f: (f.question_prompt("How far?", NONE, (), SIZE), f.read_reply("It is near.", SIZE)),
    "boxes": lambda f: (f.find_prompt("How far?"), f.read_boxes("[]", SIZE)),
    "match": lambda f: (f.match_prompt(5.0, 6.0, SIZE), f.read_match("", SIZE)),
    "pose": lambda f: (f.pose_prompts(), f.read_pose({})),
}
ABILITIES = {
    "tiny": {"points", "questions", "match", "pose"},
    "depthlm": {"points", "questions", "pairs"},
    "depthvlm": {"points", "questions", "boxes", "pairs"},
    "vlm3-depth": {"points"},
    "vlm3-object": {"questions"},
    "vlm3-corr": {"match"},
    "vlm3-pose": {"pose"},
    "qwen3-vl": {"points", "questions", "boxes", "pairs"},
    "qwen2.5-vl": {"points", "questions", "boxes", "pairs"},
}


def test_the_registry_knows_every_published_system():
    assert {name: set(family.abilities) for name, family in FAMILIES.items()} == ABILITIES


def test_an_unknown_family_is_refused_with_the_known_names():
    with pytest.raises(UnknownName, match=r"depthlm.*tiny.*vlm3-pose"):
        family_named("gpt")


@pytest.mark.parametrize("ability", CALLS)
@pytest.mark.parametrize("name", ABILITIES)
def test_a_family_supports_its_abilities_and_refuses_everything_else(name, ability):
    family = family_named(name)
    if ability in ABILITIES[name]:
        CALLS[ability](family)
        return
    with pytest.raises(BadQuestion, match=rf"{name} cannot .*: use"):
        CALLS[ability](family)


@pytest.mark.parametrize("name", [name for name, can in ABILITIES.items() if "questions" in can])
@pytest.mark.parametrize("hidden", ["<|im_end|>", "[/INST]", "</s>"])
def test_control_tokens_in_a_question_are_escaped(name, hidden):
    prompt = family_named(name).question_prompt(f"a{hidden}\nYes", NONE, (), SIZE)
    assert hidden not in prompt.text
    assert prompt.text.startswith("a")


@pytest.mark.parametrize(
    "text", ["<|im_start|>", "<<||im_end|>", "[INST]", "[[INST]]", "[SYSTEM_PROMPT]", "[IMG_BREAK]", "<<s>s>", "<unk>"]
)
def test_escaping_neither_leaves_nor_creates_a_control_token(text):
    left = escape_control_tokens(text)
    assert not [token for token in ("<|", "[INST]", "[SYSTEM_PROMPT]", "[IMG_BREAK]", "<s>", "<unk>") if token in left]
    assert left.replace(" ", "") == text


@pytest.mark.parametrize("text", ["How far is <mask> from Region [0]?", "a < b > c [2]", "<think> </think>", "日本"])
def test_escaping_does_not_change_other_text(text):
    assert escape_control_tokens(text) == text


@pytest.mark.parametrize(
    ("reply", "rest"),
    [
        ("<think> 1 </think>\n\n(2, 3)", "(2, 3)"),
        (" 1 </think> (2, 3) ", "(2, 3)"),
        ("<think> a </think> b <think> c </think> d", "d"),
        ("(2, 3)", "(2, 3)"),
        ("b <think> (9, 9) for ever", "b"),
        ("<think> (9, 9) for ever", ""),
    ],
)
def test_thinking_is_removed_from_a_reply(reply, rest):
    assert strip_thinking(reply) == rest


def test_tiny_is_asked_the_point_question_of_vlm3():
    assert TINY.point_prompt(64.0, 24.0, SIZE) == family_named("vlm3-depth").point_prompt(64.0, 24.0, SIZE)


def test_marked_pixels_and_regions_follow_the_question_of_tiny():
    prompt = TINY.question_prompt("How far? ", np.array([[64.0, 48.0], [0.0, 0.0]]), (Region(0, 0, 64, 48),), SIZE)
    assert prompt == Prompt("How far? (1000, 1000) (0, 0) region (0, 0, 500, 500)")


def test_reply_of_tiny_about_an_object_gives_value_and_box_in_pixels():
    reply = TINY.read_reply("The red box at (250, 500, 500, 1000) is 2.31 meters away.", SIZE)
    box = Region(32.0, 48.0, 32.0, 48.0)
    assert reply == Reply("The red box is 2.31 meters away.", Status.OK, 2.31, "m", (box,), "distance")


@pytest.mark.parametrize(
    ("reply", "quantity"),
    [
        ("The red box at (0, 0, 9, 9) is 2.31 meters away.", "distance"),
        ("Yes, the red box at (0, 0, 9, 9) is 2.31 meters away.", "distance"),
        ("The red box at (0, 0, 9, 9) is closer: 2.31 meters.", "distance"),
        ("The second point is closer: 2.31 meters.", "distance"),
        ("The red box at (0, 0, 9, 9) is 2.31 meters wide.", "width"),
        ("The red box at (0, 0, 9, 9) is 2.31 meters tall.", "height"),
        ("The points are 2.31 meters apart.", "gap"),
    ],
)
def test_reply_of_tiny_says_which_quantity_it_is(reply, quantity):
    read = TINY.read_reply(reply, SIZE)
    assert (read.value, read.unit, read.quantity) == (2.31, "m", quantity)


def test_reply_of_tiny_that_an_object_is_absent_is_not_found():
    assert TINY.read_reply("There is no red box in this image.", SIZE).status is Status.NOT_FOUND
    assert TINY.read_reply(NO_OBJECT_REPLY, SIZE).status is Status.NOT_FOUND


@pytest.mark.parametrize(
    "text",
    [
        "The red box at 0085.000, 400) is 1.000 meters away.",
        "The red box is 2.31 meters away. The red box is 3.00 meters away.",
        "The red box is 2.3 meters away.",
        "The red box is ２.３１ meters away.",  # noqa: RUF001
        "The red box is 2.31 meters",
        "I do not understand the question.",
        "",
        "meters",
        "The red box is near.",
        "the 7",
        "at (1, 2, 3, 4)",
        "\x00\ufffd",
    ],
)
def test_reply_of_tiny_without_a_measurement_is_not_understood(text):
    reply = TINY.read_reply(text, SIZE)
    assert reply.status is Status.NOT_UNDERSTOOD
    assert math.isnan(reply.value)


@pytest.mark.parametrize("box", ["(500, 0, 250, 100)", "(0, 0, 0, 0)", "(0, 0, 1200, 100)"])
def test_an_invalid_box_is_left_out_and_the_value_is_kept(box):
    reply = TINY.read_reply(f"The red box at {box} is 2.31 meters away.", SIZE)
    assert reply.boxes == ()
    assert reply.value == 2.31

# SPDX-License-Identifier: Apache-2.0
"""Tests of all families: abilities and refusals, control tokens, and the words of the embedded model."""

import math

import numpy as np
import pytest

from depthlm_ros.core import Region, Status
from depthlm_ros.errors import BadQuestion, UnknownName
from depthlm_ros.families.base import Prompt, Reply
from depthlm_ros.families.parsing import escape_control_tokens, strip_thinking
from depthlm_ros.families.registry import FAMILIES, chat_named, family_named
from depthlm_ros.families.tiny import PLACES, place_text, point_text
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
    found = {name: set(family.abilities) for name, family in FAMILIES.items()}
    # A network for depth alone refuses every question in its own words (test/backends/test_depth_network_backend.py).
    # The four models of VLM3 together (test/test_vlm3_models.py) hand every question on to one of them.
    assert found == ABILITIES | {"depth_map": set(), "vlm3": {"points", "questions", "match", "pose"}}


def test_an_unknown_family_is_refused_with_the_known_names():
    with pytest.raises(UnknownName, match=r"depthlm.*tiny.*vlm3-pose"):
        family_named("gpt")


@pytest.mark.parametrize("ability", CALLS)
@pytest.mark.parametrize("name", ABILITIES)
def test_a_family_supports_its_abilities_and_refuses_everything_else(name, ability):
    family = family_named(name)
    if ability in ABILITIES[name]:
        family.check_ability(ability)
    else:
        with pytest.raises(BadQuestion, match=rf"{name} cannot .*: use"):
            family.check_ability(ability)
    if ability in ABILITIES[name] - family.measured:
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


def test_tiny_is_asked_for_a_depth_with_the_place_in_thousandths():
    prompt = TINY.point_prompt(63.5, 23.5, SIZE)
    assert (prompt.text, prompt.number_only) == ("Depth at <500><250>", True)
    assert TINY.read_point(point_text(2.314)) == 2.31
    assert all(math.isnan(TINY.read_point(reply)) for reply in ("", "far", "-1.0", "2.3 or 4.1"))


def test_marked_pixels_and_regions_follow_the_question_of_tiny():
    prompt = TINY.question_prompt("How far? ", np.array([[127.5, 95.5], [-0.5, -0.5]]), (Region(0, 0, 64, 48),), SIZE)
    assert prompt == Prompt("How far? <1000><1000> <0><0> region <0><0><500><500>")


def test_places_of_tiny_are_steps_of_five_thousandths_inside_the_image():
    assert [place_text(share) for share in (-0.1, 0.0, 0.0024, 0.0026, 0.4351, 1.0, 7.0)] == [
        "<0>", "<0>", "<0>", "<5>", "<435>", "<1000>", "<1000>"
    ]  # fmt: skip
    assert set(PLACES) == {place_text(step / 200) for step in range(201)}


@pytest.mark.parametrize("edges_px", [(0.0, 0.0, 128.0, 96.0), (12.8, 9.6, 64.0, 95.5), (0.3, 40.1, 20.0, 41.0)])
def test_boxes_of_tiny_come_back_within_half_a_step(edges_px):
    reply = TINY.read_reply(f"The chair at {TINY.box_text(edges_px, *SIZE)} is 2.31 meters away.", SIZE)
    (box,) = reply.boxes
    found = (box.x_px, box.y_px, box.x_px + box.width_px, box.y_px + box.height_px)
    np.testing.assert_allclose(np.array(found) / (*SIZE, *SIZE), np.array(edges_px) / (*SIZE, *SIZE), atol=0.00251)


@pytest.mark.parametrize(("reply", "count"), [("There are 12 chairs.", 12.0), ("There is 1 teddy bear.", 1.0)])
def test_counts_of_tiny_have_no_unit(reply, count):
    assert TINY.read_reply(reply, SIZE) == Reply(reply, Status.OK, count, "", quantity="count")


def test_reply_of_tiny_about_an_object_gives_value_and_box_in_pixels():
    reply = TINY.read_reply("The red box at <250><500><500><1000> is 2.31 meters away.", SIZE)
    box = Region(32.0, 48.0, 32.0, 48.0)
    assert reply == Reply("The red box is 2.31 meters away.", Status.OK, 2.31, "m", (box,), "distance")


@pytest.mark.parametrize(
    ("reply", "quantity"),
    [
        ("The red box at <0><0><10><10> is 2.31 meters away.", "distance"),
        ("Yes, the red box at <0><0><10><10> is 2.31 meters away.", "distance"),
        ("The red box at <0><0><10><10> is closer: 2.31 meters.", "distance"),
        ("The second point is closer: 2.31 meters.", "distance"),
        ("The red box at <0><0><10><10> is 2.31 meters wide.", "width"),
        ("The red box at <0><0><10><10> is 2.31 meters tall.", "height"),
        ("The points are 2.31 meters apart.", "gap"),
    ],
)
def test_reply_of_tiny_says_which_quantity_it_is(reply, quantity):
    read = TINY.read_reply(reply, SIZE)
    assert (read.value, read.unit, read.quantity) == (2.31, "m", quantity)


@pytest.mark.parametrize(
    ("question", "marks"),
    [("How far is this point?", 0), ("distance to THIS object", 0), ("How far apart are these points?", 1)],
)
def test_tiny_refuses_questions_about_something_marked_without_marks(question, marks):
    uv_px = np.full((marks, 2), 5.0)
    with pytest.raises(BadQuestion, match=rf"(?i)th(is|ese) (point|object).*{marks} pixels or regions are marked"):
        TINY.question_prompt(question, uv_px, (), SIZE)
    TINY.question_prompt(question, uv_px, (Region(1, 1, 5, 5),), SIZE)


def test_places_in_a_users_text_are_no_places_for_tiny():
    prompt = TINY.question_prompt("How far is <435><20>?", np.array([[63.5, 47.5]]), (), SIZE)
    assert prompt.text == "How far is < 435 >< 20 >? <500><500>"


def test_reply_of_tiny_that_an_object_is_absent_is_not_found():
    assert TINY.read_reply("There is no red box in this image.", SIZE).status is Status.NOT_FOUND
    assert TINY.read_reply(NO_OBJECT_REPLY, SIZE).status is Status.NOT_FOUND


@pytest.mark.parametrize(
    "text",
    [
        "The red box at <85><0><40 is 1.00 meters away.",
        "The red box is 2.31 meters away. The red box is 3.00 meters away.",
        "The red box is 2.3 meters away.",
        "The red box is ２.３１ meters away.",  # noqa: RUF001
        "The red box is 2.31 meters",
        "I do not understand the question.",
        "",
        "meters",
        "The red box is near.",
        "the 7",
        "at <5><10><15><20>",
        "There are many chairs.",
        "There are 3 chairs",
        "\x00\ufffd",
    ],
)
def test_reply_of_tiny_without_a_measurement_is_not_understood(text):
    reply = TINY.read_reply(text, SIZE)
    assert reply.status is Status.NOT_UNDERSTOOD
    assert reply.text == "I do not understand the question."
    assert math.isnan(reply.value)


@pytest.mark.parametrize("box", ["<500><0><250><100>", "<0><0><0><0>", "<0><0><1200><100>"])
def test_an_invalid_box_is_left_out_and_the_value_is_kept(box):
    reply = TINY.read_reply(f"The red box at {box} is 2.31 meters away.", SIZE)
    assert reply.boxes == ()
    assert reply.value == 2.31


# ---- questions about marked pixels


@pytest.mark.parametrize(
    "question",
    [
        *("How far is this point?", "how far away is the red box", "What is the depth at this pixel?", "Depth?"),
        *("Distance to the door.", "How far is it from the camera?", "What's the distance of the big wooden chair?"),
    ],
)
def test_a_question_for_the_depth_of_one_pixel_becomes_the_trained_one(question):
    depthlm, vlm3 = family_named("depthlm"), family_named("vlm3-depth")
    at_px = np.array([[64.0, 24.0]])
    asked = depthlm.question_prompt(question, at_px, (), SIZE)
    assert (asked.text, asked.markers_px) == (depthlm.point_prompt(64.0, 24.0, SIZE).text, ((64.0, 24.0),))
    assert vlm3.question_prompt(question, at_px, (), SIZE).text == vlm3.point_prompt(64.0, 24.0, SIZE).text
    reply = vlm3.read_reply("<think> The point is around 1.50 meters away. </think>\n\n<answer> 1.50 </answer>", SIZE)
    assert (reply.status, reply.value, reply.unit, reply.quantity) == (Status.OK, 1.5, "m", "distance")
    assert vlm3.read_reply("far", SIZE).status is Status.NOT_UNDERSTOOD


@pytest.mark.parametrize(
    "question",
    [
        *("How far is this point from the door?", "What is the distance between this and the door?", "Is it far?"),
        *("How far is this point from the camera in the forward backward direction?", "How high is this point?"),
    ],
)
def test_another_question_about_a_pixel_stays_as_it_is(question):
    at_px = np.array([[64.0, 24.0]])
    assert family_named("depthlm").question_prompt(question, at_px, (), SIZE).text == question
    with pytest.raises(BadQuestion, match="except for the depth of one pixel"):
        family_named("vlm3-depth").question_prompt(question, at_px, (), SIZE)


@pytest.mark.parametrize("name", ["tiny", "depthlm", "depthvlm", "qwen3-vl", "qwen2.5-vl", "vlm3-depth", "vlm3-object"])
def test_a_question_about_a_point_that_is_not_marked_is_refused(name):
    family, at_px = family_named(name), np.array([[64.0, 24.0]])
    with pytest.raises(BadQuestion, match=r"says 'this point', but 0 pixels or regions are marked"):
        family.question_prompt("How far is this point?", NONE, (), SIZE)
    if name == "depthlm":
        with pytest.raises(BadQuestion, match=r"says 'these 2 points', but 1 pixels"):
            family.question_prompt("How far are these 2 points from each other?", at_px, (), SIZE)


def test_system_text_of_pixtral_stands_before_the_image_as_in_the_released_template():
    plain, asked = chat_named("pixtral"), chat_named("pixtral", "Be brief.")
    assert (plain.before, plain.after, plain.header) == ("<s>[INST]", "", "[/INST]")
    assert asked.before == "<s>[INST]Be brief.\n\n" and asked.image_tokens[0] == "[IMG]"


@pytest.mark.parametrize("question", ["Which point is closer?", "How far is the point?", "what pixel is nearest"])
def test_tiny_refuses_a_question_about_a_point_that_is_not_marked(question):
    with pytest.raises(BadQuestion, match="mark what it is about"):
        TINY.question_prompt(question, NONE, (), SIZE)
    assert TINY.question_prompt(question, np.array([[5.0, 6.0]]), (), SIZE).text.startswith(question)

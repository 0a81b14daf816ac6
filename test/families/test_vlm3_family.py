# SPDX-License-Identifier: Apache-2.0
"""Tests of VLM3's prompts, byte for byte, and of its replies: depth, regions, correspondences, pose."""

import math
from dataclasses import replace

import numpy as np
import pytest
from support.scripted_backend import scripted_model

from depthlm_ros.core import Frame, Intrinsics, Region, Status
from depthlm_ros.errors import BadQuestion
from depthlm_ros.families import vlm3
from depthlm_ros.families.base import ForcedBeginnings
from depthlm_ros.families.registry import family_named
from depthlm_ros.families.vlm3 import polarity
from depthlm_ros.geometry.rotations import rotation_angle_deg

DEPTH, OBJECT, CORR, POSE = (family_named(f"vlm3-{task}") for task in ("depth", "object", "corr", "pose"))
SIZE = (128, 96)
NONE = np.zeros((0, 2))


# Depth


def test_the_depth_prompt_is_the_released_one_byte_for_byte():
    prompt = DEPTH.point_prompt(64.0, 24.0, SIZE)
    assert prompt.text == (
        "Given this image, how far is the point at coordinates (1000, 500) from the camera? The coordinates are in "
        "normalised [0, 2000] format relative to image width and height. Output the thinking process in <think> "
        "</think> and final answer (the meter number only, without the unit) in <answer> </answer> tags."
    )
    assert (prompt.forced, prompt.number_only, prompt.markers_px) == ("<think> The point is around ", True, ())


def test_the_depth_reply_begins_with_the_forced_words():
    reply = vlm3.POINT_REPLY.format(depth_m=1.5)
    assert reply == "<think> The point is around 1.50 meters away from the camera. </think>\n\n<answer> 1.50 </answer>"
    assert reply.startswith(vlm3.POINT_REPLY_START)
    assert DEPTH.read_point(reply) == DEPTH.read_point(reply.removeprefix(vlm3.POINT_REPLY_START)) == 1.5


@pytest.mark.parametrize(("u", "nx"), [(-3.0, 0), (0.0, 0), (127.0, 1984), (140.0, 2000)])
def test_coordinates_are_clamped_to_their_scale(u, nx):
    assert f"({nx}, 0)" in DEPTH.point_prompt(u, 0.0, SIZE).text


# Object. Boxes are those of the published sample, of a 1024 x 768 image.

SAMPLE_SIZE = (1024, 768)
FIRST, SECOND = Region(0, 30, 668, 737), Region(6, 292, 227, 140)
SAMPLE = (
    "Can you confirm if bounding box region (0, 39, 652, 999) is smaller than bounding box region (6, 380, 228, 562)?"
)


@pytest.mark.parametrize(
    "question",
    [
        "Can you confirm if <mask> is smaller than <mask>?",
        "Can you confirm if Region [0] is smaller than Region [1]?",
        "Can you confirm if region [0] is smaller than region [1]?",
    ],
)
def test_placeholders_become_the_boxes_of_the_sample_byte_for_byte(question):
    prompt = OBJECT.question_prompt(question, NONE, (FIRST, SECOND), SAMPLE_SIZE)
    assert prompt.text == SAMPLE
    assert (prompt.forced, prompt.max_new_tokens) == ("", 512)


def test_regions_follow_a_question_without_placeholders():
    prompt = OBJECT.question_prompt("Which is bigger?", NONE, (FIRST, SECOND), SAMPLE_SIZE)
    assert prompt.text == (
        "Which is bigger? bounding box region (0, 39, 652, 999) and bounding box region (6, 380, 228, 562)"
    )
    assert OBJECT.question_prompt("Is it dark?", NONE, (), SAMPLE_SIZE).text == "Is it dark?"


def test_halves_are_rounded_to_even_although_arithmetic_is_inexact():
    region = Region(0.5 - 1e-12, 1.5 + 1e-12, 2.0, 2.0)
    assert "(0, 2, 2, 4)" in OBJECT.question_prompt("<mask>", NONE, (region,), (1000, 1000)).text


@pytest.mark.parametrize("question", ["<mask>", "Region [1]", "Region [0] and Region [2]", "<mask> <mask> <mask>"])
def test_placeholders_that_do_not_match_the_regions_are_refused(question):
    with pytest.raises(BadQuestion, match="2 were given"):
        OBJECT.question_prompt(question, NONE, (FIRST, SECOND), SAMPLE_SIZE)


def test_the_object_model_refuses_pixels():
    with pytest.raises(BadQuestion, match="box"):
        OBJECT.question_prompt("How far?", np.array([[3.0, 4.0]]), (), SAMPLE_SIZE)


def test_the_sample_answer_is_read_with_its_boxes():
    reply = (
        "Incorrect, bounding box region (0, 39, 652, 999) is not smaller in size than bounding box region (6, 380, "
        "228, 562)."
    )
    read = OBJECT.read_reply(reply, (1000, 1000))
    assert (read.text, read.status, read.unit) == (reply, Status.OK, "")
    assert math.isnan(read.value)
    assert read.boxes == (Region(0, 39, 652, 960), Region(6, 380, 222, 182))
    assert polarity(reply) is False


@pytest.mark.parametrize(
    ("reply", "value", "unit", "quantity"),
    [
        ("bounding box region (0, 39, 652, 999) is 1.25 meters wide.", 1.25, "m", "width"),
        ("The height of bounding box region (0, 39, 652, 999) is 1.25 meters.", 1.25, "m", "height"),
        ("They are 10.0 feet apart.", 3.048, "m", "gap"),
        ("bounding box region (0, 39, 652, 999) is at 3 o'clock.", 90.0, "deg", "direction"),
        ("It is at 12 o'clock.", 0.0, "deg", "direction"),
        ("It is turned by 30 degrees.", 30.0, "deg", ""),
        ("The vertical distance between the two is 0.75 meters.", 0.75, "m", ""),
    ],
)
def test_quantitative_answers_are_read_with_unit_and_quantity(reply, value, unit, quantity):
    read = OBJECT.read_reply(reply, SAMPLE_SIZE)
    assert (read.value, read.unit, read.quantity) == (pytest.approx(value), unit, quantity)


@pytest.mark.parametrize(
    "reply", ["It is at 13 o'clock.", "At 2 or 3 o'clock.", "It is near.", "(1, 2, 3, 4)", "3,5 m"]
)
def test_other_answers_have_no_value(reply):
    read = OBJECT.read_reply(reply, SAMPLE_SIZE)
    assert read.status is Status.OK
    assert math.isnan(read.value)


def test_an_empty_reply_is_not_understood():
    assert OBJECT.read_reply("<think> for ever", SAMPLE_SIZE).status is Status.NOT_UNDERSTOOD


@pytest.mark.parametrize(
    ("reply", "yes"),
    [
        ("Yes, it is.", True),
        ("That is correct.", True),
        ("AFFIRMATIVE", True),
        ("Indeed, no other is.", True),
        ("No, indeed.", False),
        ("It is not.", False),
        ("That is incorrect, yes.", False),
        ("It is on the right of the box, so no.", True),  # A direction counts as a yes.
        ("Nothing knows", None),
        ("The box.", None),
        ("", None),
    ],
)
def test_the_first_word_decides_between_yes_and_no(reply, yes):
    assert polarity(reply) is yes


# Correspondence


def test_the_match_prompt_is_the_released_one_byte_for_byte():
    prompt = CORR.match_prompt(64.0, 24.0, SIZE)
    assert prompt.text == (
        "Given these two images, what pixel in the second image corresponds to pixel (500, 250) in the first image? "
        'Report the answer as (x, y). Please think step by step and follow the format: "<think> [think process] '
        '</think>\n\n[answer]".'
    )
    assert (prompt.forced, prompt.max_new_tokens) == ("", 2048)


@pytest.mark.parametrize(
    ("reply", "uv"),
    [
        ("<think> from (9, 9) to (8, 8) </think>\n\n(500, 250)", (64.0, 24.0)),
        ("(500,250)", (64.0, 24.0)),
        ("[500.0, 250.0]", (64.0, 24.0)),
        ("500, 250 or (1, 2)", (64.0, 24.0)),
        ("(0, 0)", (0.0, 0.0)),
        ("(1000, 1000)", (127.0, 95.0)),
    ],
)
def test_the_first_pair_after_the_thinking_is_the_pixel(reply, uv):
    assert CORR.read_match(reply, SIZE) == pytest.approx(uv)


@pytest.mark.parametrize(
    "reply",
    ["", "not visible", "500", "(x, y)", "(-1, 5)", "(5, 1001)", "(1, 2, 3)", "1e9, 5", "(nan, inf)", "<think> (1, 2)"],
)
def test_a_reply_without_a_pixel_of_the_image_gives_no_match(reply):
    assert np.isnan(CORR.read_match(reply, SIZE)).all()


# Pose. The published sample.

SAMPLE_REPLIES = {
    "rotation": "Rotation angle: 89.7 degrees",
    "orientation": "Yaw=+89.6°, Pitch=+2.6°, Roll=+6.1°",
    "direction": "The camera moves left, forward, unit vector (-0.69, +0.02, +0.72).",
    "distance": "Translation distance: 1.98 meters",
}


def test_the_pose_prompts_are_the_released_ones_byte_for_byte():
    prompts = POSE.pose_prompts()
    assert [prompt.text for prompt in prompts.values()] == [
        "Given these two images captured from different viewpoints, what is the relative rotation angle (in degrees) "
        "between the two camera poses?",
        "Treating the first image as the reference viewpoint, describe the camera's reorientation needed to reach the "
        "second image's viewpoint as yaw, pitch and roll about the first camera's local axes, applied intrinsically "
        "in the order yaw -> pitch -> roll.  Conventions: yaw is rotation about the vertical (down) axis, positive = "
        "turn right; pitch is about the lateral (right) axis after yaw, positive = look up; roll is about the optical "
        "(forward) axis after yaw and pitch, positive = bank to the right (image content rotates clockwise from the "
        "operator's POV).",
        "Where did the camera move, expressed in the first camera's local frame (X right, Y down, Z forward)?  Give a "
        "qualitative direction and the precise unit direction vector (x, y, z).",
        "Estimate the magnitude of the camera translation between the two viewpoints.",
    ]
    assert list(prompts) == ["rotation", "orientation", "direction", "distance"]
    assert {prompt.max_new_tokens for prompt in prompts.values()} == {512}


@pytest.mark.parametrize("thought", ["", "<think> perhaps 5 degrees, (1, 2, 3), yaw=1 pitch=1 roll=1 </think>\n\n"])
def test_the_sample_replies_give_the_pose(thought):
    pose = POSE.read_pose({name: thought + reply for name, reply in SAMPLE_REPLIES.items()})
    length = math.sqrt(0.69**2 + 0.02**2 + 0.72**2)
    assert rotation_angle_deg(pose.rotation) == pytest.approx(89.6547, abs=1e-4)
    assert (pose.angle_deg, pose.distance_m) == (89.7, 1.98)
    np.testing.assert_allclose(pose.direction, np.array([-0.69, 0.02, 0.72]) / length)
    np.testing.assert_allclose(pose.translation_m, 1.98 * pose.direction)
    assert pose.replies["distance"].endswith("1.98 meters")


@pytest.mark.parametrize(
    "orientation", ["yaw +89.6, pitch +2.6, roll +6.1", "Yaw = 89.6 deg; Pitch = 2.6 deg; Roll = 6.1 deg"]
)
def test_angles_may_be_written_in_other_ways(orientation):
    pose = POSE.read_pose({**SAMPLE_REPLIES, "orientation": orientation})
    assert rotation_angle_deg(pose.rotation) == pytest.approx(89.6547, abs=1e-4)


@pytest.mark.parametrize(
    ("question", "reply", "unknown"),
    [
        ("rotation", "they are turned", {"angle_deg"}),
        ("rotation", "200 degrees", {"angle_deg"}),
        ("rotation", "-5 degrees", {"angle_deg"}),
        ("orientation", "Yaw=+89.6°, Pitch=+2.6°", {"rotation"}),
        ("orientation", "Yaw=1e9, Pitch=2, Roll=3", {"rotation"}),
        ("orientation", "Yaw=3,5°, Pitch=2°, Roll=3°", {"rotation"}),
        ("orientation", "Yaw=720, Pitch=2, Roll=3", {"rotation"}),
        ("direction", "left", {"direction", "translation_m"}),
        ("direction", "unit vector (0.00, 0.00, 0.00)", {"direction", "translation_m"}),
        ("direction", "(0.1, 0.2)", {"direction", "translation_m"}),
        ("direction", "(0.1, 0.2, 0.3, 0.4)", {"direction", "translation_m"}),
        ("distance", "", {"distance_m", "translation_m"}),
        ("distance", "unknown", {"distance_m", "translation_m"}),
        ("distance", "-1.98 meters", {"distance_m", "translation_m"}),
        ("distance", "1 to 2 meters", {"distance_m", "translation_m"}),
    ],
)
def test_parts_of_the_pose_that_are_not_stated_are_unknown(question, reply, unknown):
    pose = POSE.read_pose({**SAMPLE_REPLIES, question: reply})
    parts = ("rotation", "translation_m", "angle_deg", "direction", "distance_m")
    assert {part for part in parts if np.isnan(getattr(pose, part)).all()} == unknown
    assert not [part for part in set(parts) - unknown if np.isnan(getattr(pose, part)).any()]


def test_everything_is_unknown_without_replies():
    pose = POSE.read_pose({})
    assert np.isnan(pose.rotation).all()
    assert np.isnan(pose.translation_m).all()
    assert math.isnan(pose.angle_deg)


# ---- the beginning of a reply, which no source confirms for VLM3


RELEASED = "<think> The point is around {} meters away from the camera. </think>\n\n<answer> {} </answer>"


def scripted_depths(numbers, reply, **changes):
    """A vlm3-depth whose replies are scripted, and the beginnings that were given in its questions."""
    given = []
    left = iter(numbers)

    def answer(question):
        _, _, beginning = question.rpartition("assistant\n")
        given.append(beginning)
        whole = reply.format(*[next(left)] * 2)
        assert whole.startswith(beginning)
        return whole.removeprefix(beginning)

    model = scripted_model("vlm3-depth", answer)
    model.spec = replace(model.spec, **{"depth_type": "z"} | changes)
    model._beginnings = ForcedBeginnings(model.name, complete=model.spec.released)
    return model, given


def tell(model, points):
    frame = Frame(np.zeros((480, 640, 3), np.uint8), Intrinsics(1000.0, 1000.0, 319.5, 239.5, 640, 480))
    return model.look(frame).tell_depth_at(points).depth_m.tolist()


def test_first_reply_is_decoded_and_the_known_beginning_is_given_to_the_others():
    model, given = scripted_depths(["1.25", "2.50", "3.00", "4.00"], RELEASED)
    assert tell(model, [(10, 10), (20, 20), (30, 30)]) == [1.25, 2.5, 3.0]
    assert tell(model, [(10, 10)]) == [4.0]
    assert given == ["", *["<think> The point is around "] * 3]


def test_replies_without_the_known_beginning_are_all_decoded(caplog):
    model, given = scripted_depths(
        ["1.25", "2.50", "3.00"], "<think> About {} metres. </think>\n\n<answer> {} </answer>"
    )
    assert tell(model, [(10, 10), (20, 20)]) == [1.25, 2.5] and tell(model, [(1, 1)]) == [3.0]
    assert given == ["", "", ""]
    (said,) = caplog.messages
    assert "vlm3-depth begins its replies with '<think> About" in said and "whole replies are decoded" in said


def test_as_released_decodes_every_reply_completely():
    model, given = scripted_depths(["1.25", "2.50"], RELEASED, released=True)
    assert tell(model, [(100, 100), (200, 200)]) == [1.25, 2.5] and given == ["", ""]


@pytest.mark.parametrize("name", ["vlm3-depth", "depthlm", "qwen3-vl"])
def test_complete_prompt_is_the_same_question_without_the_beginning(name):
    prompt = family_named(name).point_prompt(64.0, 24.0, SIZE)
    whole = prompt.complete()
    assert (whole.text, whole.markers_px) == (prompt.text, prompt.markers_px)
    assert (whole.forced, whole.number_only, whole.max_new_tokens) == ("", False, 256)
    assert prompt.forced_is_known == (name != "vlm3-depth")

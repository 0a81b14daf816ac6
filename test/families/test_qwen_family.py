# SPDX-License-Identifier: Apache-2.0
"""Tests of the base models and DepthVLM: their own coordinates, boxes in JSON, and stated values."""

import json
import math

import numpy as np
import pytest

from depthlm_ros.core import Region, Status
from depthlm_ros.families.registry import family_named

QWEN3, QWEN25, DEPTHVLM = (family_named(name) for name in ("qwen3-vl", "qwen2.5-vl", "depthvlm"))
SIZE = (1280, 640)
NONE = np.zeros((0, 2))
LEFT = Region(128.0, 64.0, 320.0, 128.0, "chair")
# The same box in the coordinates of both models.
AS_QWEN3, AS_QWEN25 = [100, 100, 350, 300], [128, 64, 448, 192]


def test_pixels_and_regions_are_written_in_the_models_own_coordinates():
    uv, regions = np.array([[640.0, 160.0]]), (LEFT,)
    assert QWEN3.question_prompt("How far? ", uv, regions, SIZE).text == (
        'How far? This is about {"point_2d": [500, 250]}, {"bbox_2d": [100, 100, 350, 300], "label": "chair"}.'
    )
    assert QWEN25.question_prompt("How far? ", uv, regions, SIZE).text == (
        'How far? This is about {"point_2d": [640, 160]}, {"bbox_2d": [128, 64, 448, 192], "label": "chair"}.'
    )


def test_a_question_without_pixels_and_regions_is_not_changed():
    prompt = QWEN3.question_prompt("What is this?", NONE, (), SIZE)
    assert (prompt.text, prompt.forced, prompt.number_only, prompt.markers_px) == ("What is this?", "", False, ())


def test_a_label_cannot_contain_control_tokens():
    prompt = QWEN3.question_prompt("This?", NONE, (Region(0, 0, 9, 9, "<|im_end|>"),), SIZE)
    assert "<|" not in prompt.text


def test_pixels_and_regions_outside_are_moved_to_the_edge():
    assert '{"point_2d": [0, 1000]}' in QWEN3.question_prompt("a", np.array([[-5.0, 700.0]]), (), SIZE).text


def test_the_grounding_prompt_asks_for_boxes_and_escapes_control_tokens():
    text = QWEN3.find_prompt("How far is {the} <|im_end|> chair?").text
    assert text.endswith("Question: How far is {the} < |im_end|> chair?")
    assert '{"bbox_2d": [x1, y1, x2, y2], "label": "name"}' in text
    assert "JSON" in text


def as_json(corners: list) -> str:
    return json.dumps([{"bbox_2d": corners, "label": "chair"}])


@pytest.mark.parametrize(("family", "corners"), [(QWEN3, AS_QWEN3), (DEPTHVLM, AS_QWEN3), (QWEN25, AS_QWEN25)])
@pytest.mark.parametrize("form", ["{}", "```json\n{}\n```", "```\n{}\n```", "Here they are: {} I hope so."])
def test_boxes_are_read_with_and_without_fences(family, corners, form):
    assert family.read_boxes(form.replace("{}", as_json(corners)), SIZE) == (LEFT,)


@pytest.mark.parametrize(
    "reply",
    [
        '{"bbox_2d": [100, 100, 350, 300], "label": "chair"}',
        '{"label": "chair", "bbox_2d": [100.0, 100.0, 350.0, 300.0]}',
        '[{"bbox_2d": [350, 300, 100, 100], "label": " chair\\n"}]',
        '[{"bbox_2d": [100, 100, 350, 300], "label": "chair"}, {"bbox_2d": [500, 5',
        '[{"bbox_2d": [100, 100, 350, 300], "label": "chair"}, {"bbox_2d": [500, 500, 600, 600], "lab',
        '[{"bbox_2d": [100, 100, 350, 300], "label": "chair"}, {"bbox_2d": [1, 2, 3]}, {"point_2d": [1, 2]}, {"a": }]',
        "[" + '{"bbox_2d": [100, 100, 350, 300], "label": "chair"}, ' * 500,
        '{"objects": [{"bbox_2d": [100, 100, 350, 300], "label": "chair"}]}',
        '<think> {"bbox_2d": [1, 2, 3, 4]} </think> {"bbox_2d": [100, 100, 350, 300], "label": "chair"}',
    ],
)
def test_truncated_repeated_and_swapped_boxes_are_read(reply):
    assert QWEN3.read_boxes(reply, SIZE) == (LEFT,)


@pytest.mark.parametrize(
    "reply",
    ["", "[]", "There is none.", "{", "}{", '{"bbox_2d": null}', '{"bbox_2d": "100, 100, 350, 300"}', "[100, 1, 2, 3]"]
    + [as_json(corners) for corners in ([5, 5, 5, 9], [0, 0, 0, 0], [100, 100, 1900, 300], [-300, 0, 50, 50])]
    + [as_json(corners) for corners in ([True, 0, 9, 9], ["1", 0, 9, 9], [math.nan, 0, 9, 9], [0, 0, math.inf, 9])]
    + [as_json([0, 0, 10**400, 9]), as_json([0, 0, 9]).replace("9", "9" * 5000), as_json([[1, 2, 3, 4]] * 4)],
)  # fmt: skip
def test_invalid_boxes_are_left_out(reply):
    assert QWEN3.read_boxes(reply, SIZE) == ()


def test_a_box_just_outside_the_edge_is_moved_to_it():
    assert QWEN3.read_boxes(as_json([-5, 0, 500, 1010]), SIZE) == (Region(0, 0, 640, 640, "chair"),)
    assert QWEN25.read_boxes(as_json([0, 0, 1290, 640]), SIZE) == (Region(0, 0, 1280, 640, "chair"),)


def test_objects_keep_their_order_and_their_own_labels():
    reply = '[{"bbox_2d": [0, 0, 9, 9], "label": "ball"}, {"bbox_2d": [0, 0, 9, 9]}, {"bbox_2d": [1, 1, 9, 9]}]'
    assert [region.label for region in QWEN3.read_boxes(reply, SIZE)] == ["ball", "", ""]


@pytest.mark.parametrize("piece", ["{", "[", '{"bbox_2d": ', '{"a":', "}", '{"bbox_2d": [1, 2, 3, 4]}, '])
def test_very_long_json_is_read_quickly(piece):
    text = piece * (60_000 // len(piece))
    QWEN3.read_boxes(text, SIZE)
    QWEN3.read_reply(text, SIZE)


@pytest.mark.parametrize("family", [QWEN3, QWEN25, DEPTHVLM])
def test_point_questions_are_those_of_vlm3_without_a_forced_reply(family):
    prompt = family.point_prompt(640.0, 160.0, SIZE)
    assert prompt.text == family_named("vlm3-depth").point_prompt(640.0, 160.0, SIZE).text
    assert (prompt.forced, prompt.number_only, prompt.max_new_tokens) == ("", False, 256)


@pytest.mark.parametrize(
    ("reply", "depth_m"),
    [
        ("<think> around 3 </think> <answer> 2.5 </answer>", 2.5),
        ("<answer>2.5 meters</answer>", 2.5),
        ("The point at coordinates (1000, 500) is approximately 2.5 meters from the camera.", 2.5),
        ("It is 2.5 m (8.2 feet) away, at (1000, 500).", 2.5),
        ("2.5", 2.5),
        ("<think> about 2.5 meters </think> <answer> 2", 2.5),
    ],
)
def test_a_free_reply_about_a_point_is_read(reply, depth_m):
    assert QWEN3.read_point(reply) == depth_m


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "The point at coordinates (1000, 500) is far away.",
        "It is 2 to 3 meters away.",
        "The box is 1 m tall and 2 m away.",
        "0 meters",
        "-2 meters",
        "<answer> 2.5 3.5 </answer>",
        "<answer> unknown </answer> 2.5 meters",
    ],
)
def test_coordinates_and_ranges_are_not_read_as_depth(reply):
    assert math.isnan(QWEN3.read_point(reply))


@pytest.mark.parametrize(
    ("reply", "value", "unit", "quantity"),
    [
        ("The chair is about 2.5 meters away from the camera.", 2.5, "m", "distance"),
        ("It is roughly 250 cm wide.", 2.5, "m", "width"),
        ("I see 3 chairs, one is 2 meters tall.", 2.0, "m", "height"),
        ("The chair is 1 m tall and 2 m away.", math.nan, "", ""),
        ("There are 3 chairs.", math.nan, "", ""),
        ("Yes.", math.nan, "", ""),
    ],
)
def test_a_value_is_read_only_if_exactly_one_is_stated(reply, value, unit, quantity):
    read = QWEN3.read_reply(f"<think> 7 meters </think>{reply}", SIZE)
    assert (read.text, read.status, read.unit, read.quantity) == (reply, Status.OK, unit, quantity)
    assert read.value == pytest.approx(value, nan_ok=True)


@pytest.mark.parametrize(
    "reply",
    [
        "There is no red chair in this image.",
        "No, there are no chairs visible in the picture",
        "there is no dog in the image.",
    ],
)
def test_an_object_that_the_model_says_is_absent_is_not_found(reply):
    assert QWEN3.read_reply(reply, SIZE).status is Status.NOT_FOUND


@pytest.mark.parametrize(
    "reply",
    [
        "There is no information in the image about distances.",
        "There is no depth information in the image.",
        "There is no doubt: it is 2 meters away in the image.",
        "There is no chair between the table and the wall.",
        "There is no chair in the image, but a stool, 2 meters away.",
        "No.",
    ],
)
def test_other_negative_sentences_are_answers(reply):
    assert QWEN3.read_reply(reply, SIZE).status is Status.OK


def test_boxes_in_an_answer_are_read_too():
    assert QWEN3.read_reply(as_json(AS_QWEN3), SIZE).boxes == (LEFT,)


def test_the_fixed_words_of_depthvlm_are_the_released_ones_byte_for_byte():
    assert DEPTHVLM.DEPTH_QUESTION == (
        "Given this image, estimate the metric depth (in meters, rounded to two decimal places) for every pixel of the "
        "image."
    )
    assert DEPTHVLM.DEPTH_REPLY == "OK, I will estimate the depth map of this image."


def test_the_fixed_reply_of_depthvlm_does_not_answer_a_question():
    assert DEPTHVLM.read_reply(f" {DEPTHVLM.DEPTH_REPLY}\n", SIZE).status is Status.NOT_UNDERSTOOD
    assert DEPTHVLM.read_reply("A chair.", SIZE).status is Status.OK

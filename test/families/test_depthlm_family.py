# SPDX-License-Identifier: Apache-2.0
"""Tests of DepthLM's prompts, byte for byte, and of its replies, for every task."""

import math

import numpy as np
import pytest

from depthlm_ros.core import Region, Status
from depthlm_ros.errors import BadQuestion
from depthlm_ros.families.base import Prompt
from depthlm_ros.families.depthlm import (
    DepthLMTask,
    camera_motion,
    forward_distance,
    speed,
    travel_time,
    two_point_distance,
)
from depthlm_ros.families.registry import family_named

FAMILY = family_named("depthlm")
SIZE = (640, 480)
WHOLE = "<think> The point is around 7.25 meters away from the camera. </think>\n\n<answer> 7.25 </answer>"
SPEED = (
    "<think> The point is around 8.00 meters away from the camera. To reach it in exactly 4.0 seconds, we should move "
    "at 8.00/4.0 = 2.00 meters per second. </think>\n\n<answer> 2.00 </answer>"
)
TIME = (
    "<think> The point is around 8.00 meters away from the camera. With the speed of 6.0m/s we need 1.33 seconds. "
    "</think>\n\n<answer> 1.33 </answer>"
)


def test_the_point_prompt_is_the_released_one_byte_for_byte():
    assert FAMILY.point_prompt(12.5, 30.0, SIZE).text == (
        "Given this image, how far is the point pointed by the red arrow from the camera? Output the thinking process "
        "in <think> </think> and final answer (the meter number only, without the unit) in <answer> </answer> tags."
    )


def test_the_pixel_is_marked_in_the_image_and_only_the_number_is_decoded():
    prompt = FAMILY.point_prompt(12.5, 30.0, SIZE)
    assert prompt.markers_px == ((12.5, 30.0),)
    assert (prompt.forced, prompt.number_only) == ("<think> The point is around ", True)
    assert WHOLE.startswith(prompt.forced)


@pytest.mark.parametrize("reply", ["7.25", WHOLE, WHOLE.removeprefix("<think> The point is around ")])
def test_a_point_is_read_from_the_number_alone_and_from_the_released_reply(reply):
    assert FAMILY.read_point(reply) == 7.25


@pytest.mark.parametrize("reply", ["", "far", "-7.25", "7,25", "1e9", "<answer> 7 8 </answer>", "７"])  # noqa: RUF001
def test_a_reply_without_a_plain_number_is_unknown(reply):
    assert math.isnan(FAMILY.read_point(reply))


def test_a_question_is_not_changed_and_every_pixel_is_marked():
    prompt = FAMILY.question_prompt(" How far are these? ", np.array([[3.0, 4.0], [5.0, 6.0]]), (), SIZE)
    assert prompt == Prompt("How far are these?", max_new_tokens=256, markers_px=((3.0, 4.0), (5.0, 6.0)))


def test_regions_are_refused():
    with pytest.raises(BadQuestion, match="pixel"):
        FAMILY.question_prompt("How far is this?", np.zeros((0, 2)), (Region(0, 0, 9, 9),), SIZE)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (
            forward_distance(),
            DepthLMTask("How far is this point from the camera in the forward backward direction?", "m", points=1),
        ),
        (
            speed(4),
            DepthLMTask(
                "How many meters per second should we move in order to reach this point in exactly 4.0 seconds?",
                "m/s",
                points=1,
            ),
        ),
        (
            travel_time(6),
            DepthLMTask(
                "How many seconds do we need to reach this point if we move towards it with the speed of 6.0m/s?",
                "s",
                points=1,
            ),
        ),
        (two_point_distance(), DepthLMTask("How far are these 2 points from each other?", "m", points=2)),
        (
            camera_motion(),
            DepthLMTask("How many meters has the camera moved between these 2 images?", "m", 0, images=2),
        ),
    ],
)
def test_the_other_tasks_are_worded_as_published(task, expected):
    assert task == expected


@pytest.mark.parametrize(
    ("value", "written"), [(2.5, "2.5m/s"), (10, "10.0m/s"), (1 / 3, "0.33m/s"), (7.25, "7.25m/s")]
)
def test_parameters_are_written_as_in_the_examples(value, written):
    assert written in travel_time(value).question


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, 1e9, 0.001])
def test_impossible_parameters_are_refused(value):
    for task in (speed, travel_time):
        with pytest.raises(BadQuestion, match=r"0\.01 to 1000"):
            task(value)


@pytest.mark.parametrize(
    ("reply", "value", "unit", "quantity"),
    [
        (WHOLE, 7.25, "m", "distance"),
        (SPEED, 2.0, "m/s", ""),
        (TIME, 1.33, "s", ""),
        (SPEED.partition(" </think>")[0], 2.0, "m/s", ""),
        (TIME.partition(" </think>")[0], 1.33, "s", ""),
        ("The 2 points are around 1.50 meters apart.", 1.5, "m", "gap"),
        ("<answer> 2.00 </answer>", 2.0, "", ""),
        ("1.98", 1.98, "", ""),
    ],
)
def test_the_last_number_is_the_answer_and_the_words_name_its_unit(reply, value, unit, quantity):
    read = FAMILY.read_reply(reply, SIZE)
    assert (read.text, read.status, read.value, read.unit, read.quantity) == (reply, Status.OK, value, unit, quantity)


@pytest.mark.parametrize(
    "reply", ["It is far.", "-2.00 meters", "2 to 3 meters", "3,5", "1e9", "<answer> 1 2 </answer>"]
)
def test_words_without_a_plain_number_have_no_value(reply):
    read = FAMILY.read_reply(reply, SIZE)
    assert math.isnan(read.value)
    assert read.unit == ""


def test_an_empty_reply_is_not_understood():
    assert FAMILY.read_reply(" \n", SIZE).status is Status.NOT_UNDERSTOOD


@pytest.mark.parametrize(
    ("task", "reply", "value"),
    [
        (speed(4), SPEED, 2.0),
        (travel_time(6), TIME, 1.33),
        (speed(4), "<answer> 2.00 </answer>", 2.0),
        (camera_motion(), "1.98", 1.98),
        (camera_motion(), "1.98 meters", 1.98),
    ],
)
def test_a_task_knows_the_unit_of_its_answer(task, reply, value):
    read = task.read(reply)
    assert (read.status, read.value, read.unit) == (Status.OK, value, task.unit)


@pytest.mark.parametrize("reply", [SPEED, "no idea", "", "-1.98"])
def test_a_reply_in_another_unit_or_without_number_does_not_answer_a_task(reply):
    read = camera_motion().read(reply)
    assert read.status is Status.NOT_UNDERSTOOD
    assert math.isnan(read.value)

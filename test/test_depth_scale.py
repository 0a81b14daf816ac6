# SPDX-License-Identifier: Apache-2.0
"""A known scale that is given with the frame multiplies every length of its view."""

import math
from dataclasses import replace

import numpy as np
import pytest
from support.paths import TINY

from depthlm_ros.core import Frame, Status
from depthlm_ros.errors import BadInput
from depthlm_ros.families.base import Reply
from depthlm_ros.families.parsing import scale_lengths
from depthlm_ros.geometry.pinhole import centred_camera
from depthlm_ros.model import load_model

CAMERA = centred_camera((160, 120), 150.0)
SCALE = 1.3


@pytest.fixture(scope="module")
def views():
    """The same picture without and with a scale."""
    if not TINY.is_dir():
        pytest.skip("engines/tiny is not here: `make train` makes it")
    model, rng = load_model("tiny", threads=1), np.random.default_rng(0)
    frame = Frame(np.kron(rng.integers(0, 255, (12, 16, 3)), np.ones((10, 10, 1))).astype(np.uint8), CAMERA)
    return model.look(frame), model.look(replace(frame, depth_scale=SCALE))


def test_depth_and_its_deviation_are_multiplied(views):
    plain, scaled = (view.depth() for view in views)
    np.testing.assert_allclose(scaled.depth_m, SCALE * plain.depth_m, rtol=1e-5)
    np.testing.assert_allclose(scaled.std_m, SCALE * plain.std_m, rtol=1e-4)


@pytest.mark.parametrize("read", ["depth_at", "tell_depth_at"])
def test_depth_at_pixels_is_multiplied_from_the_map_and_in_words(views, read):
    plain, scaled = (getattr(view, read)([(80, 60), (20, 100)]) for view in views)
    np.testing.assert_allclose(scaled.depth_m, SCALE * plain.depth_m, rtol=1e-4)
    np.testing.assert_allclose(scaled.std_m, SCALE * plain.std_m, rtol=1e-3)


def test_answer_with_its_points_and_measurements_is_multiplied(views):
    plain, scaled = (view.ask("How far is this point?", [(80, 60)]) for view in views)
    assert plain.status in (Status.OK, Status.INCONSISTENT) and scaled.status is plain.status and plain.unit == "m"
    assert scaled.value == pytest.approx(SCALE * plain.value, rel=0.01)
    assert scaled.std == pytest.approx(SCALE * plain.std, rel=0.05)
    np.testing.assert_allclose(scaled.points_m, SCALE * plain.points_m, rtol=1e-4)
    for one, other in zip(plain.measurements, scaled.measurements, strict=True):
        assert other.value == pytest.approx(SCALE * one.value, rel=1e-4)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_scale_that_is_no_positive_number_is_refused(scale):
    with pytest.raises(BadInput, match="depth_scale"):
        Frame(np.zeros((120, 160, 3), np.uint8), CAMERA, depth_scale=scale)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is 2.0 meters away.", "It is 4.00 meters away."),
        ("About 2.5 m (8.2 feet).", "About 5.00 m (16.40 feet)."),
        ("2 to 3 m", "4.00 to 6.00 m"),
        ("It is 90 degrees to the left, 50 cm away.", "It is 90 degrees to the left, 100 cm away."),
        ("There are 3 chairs.", "There are 3 chairs."),
        ("1e9 m", "1e9 m"),
        ("nothing", "nothing"),
    ],
)
def test_lengths_in_words_are_multiplied_and_other_numbers_stay(text, expected):
    assert scale_lengths(text, 2.0) == expected


def test_a_number_alone_is_a_length_if_the_reply_is_one():
    assert Reply("2.35", Status.OK, 2.35, "m").scaled(2.0) == Reply("4.70", Status.OK, 4.7, "m")
    assert Reply("35", Status.OK, 35.0, "deg").scaled(2.0) == Reply("35", Status.OK, 35.0, "deg")

# SPDX-License-Identifier: Apache-2.0
"""Tests of the arrow that marks a pixel for DepthLM, pixel by pixel, and of the padding for it."""

import numpy as np
import pytest

from depthlm_ros.errors import BadQuestion
from depthlm_ros.geometry.visual_prompt import draw_markers, markers_fit, pad_for_markers

PICTURE = """
...............
...............
...............
........#......
.........#.....
......#####T...
.........#.....
........#......
...............
...............
...............
"""
TARGET = np.array([[11.0, 5.0]])


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


def textured(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 250, (height, width, 3), np.uint8)


def test_the_arrow_is_nine_red_pixels_and_does_not_touch_its_target():
    rows = PICTURE.split()
    image = textured(11, 17)
    marked = draw_markers(image, TARGET)
    red = (marked == (255, 0, 0)).all(2)
    assert red.sum() == 9
    assert ["".join("#" if red[v, u] else "." for u in range(15)) for v in range(11)] == [
        row.replace("T", ".") for row in rows
    ]
    np.testing.assert_array_equal(marked[~red], image[~red])
    assert rows[5][11] == "T"


def test_drawing_does_not_change_the_given_image():
    image = grey(20, 20)
    draw_markers(image, np.array([[10, 10]]))
    assert (image == 90).all()


def test_every_pixel_gets_its_arrow_and_no_pixels_give_an_equal_copy():
    image = grey(30, 30)
    red = (draw_markers(image, np.array([[8, 8], [20, 20]])) == (255, 0, 0)).all(2)
    assert red.sum() == 18
    assert red[8, 7]
    assert red[20, 19]
    np.testing.assert_array_equal(draw_markers(image, np.zeros((0, 2))), image)


@pytest.mark.parametrize(("u", "nearest"), [(9.49, 9), (9.5, 10), (10.0, 10), (10.4, 10)])
def test_a_fraction_marks_the_nearest_pixel(u, nearest):
    np.testing.assert_array_equal(
        draw_markers(grey(20, 20), np.array([[u, 10]])), draw_markers(grey(20, 20), np.array([[nearest, 10]]))
    )


def test_the_released_border_rule():
    """The rule is 5 <= u < W - 5 and 5 <= v < H - 5."""
    uv = np.array([[5, 5], [4, 5], [5, 4], [34, 5], [35, 5], [5, 24], [5, 25], [np.nan, 9], [np.inf, 9]])
    assert markers_fit(uv, (40, 30)).tolist() == [True, False, False, True, False, True, False, False, False]
    assert not markers_fit(np.array([[4, 4]]), (9, 9)).any()


@pytest.mark.parametrize("uv", [(0, 0), (39, 29), (-1, 10), (np.nan, 10), (4.4, 10)])
def test_an_arrow_that_does_not_fit_is_refused(uv):
    with pytest.raises(BadQuestion, match="padded"):
        draw_markers(grey(30, 40), np.array([uv]))


@pytest.mark.parametrize("uv", [(0, 0), (39, 29), (0, 29), (39, 0), (20, 15)])
def test_padding_makes_room_at_every_pixel_of_the_image(uv):
    image = textured(30, 40)
    padded = pad_for_markers(image, 16)
    assert padded.shape == (62, 72, 3)
    np.testing.assert_array_equal(padded[uv[1] + 16, uv[0] + 16], image[uv[1], uv[0]])
    draw_markers(padded, np.array([uv]) + 16)


def test_padding_repeats_the_edge_and_too_little_is_refused():
    image = textured(30, 40)
    padded = pad_for_markers(image, 5)
    np.testing.assert_array_equal(padded[5:35, 5:45], image)
    assert (padded[:, :5] == padded[:, 5:6]).all()
    assert (padded[35:] == padded[34:35]).all()
    with pytest.raises(ValueError, match="5"):
        pad_for_markers(image, 4)

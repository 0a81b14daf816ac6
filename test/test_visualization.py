# SPDX-License-Identifier: Apache-2.0
"""Tests of pictures: the right colour at the right pixel, and nothing where the depth is unknown."""

import math

import cv2
import numpy as np
import pytest

from depthlm_ros.errors import BadImage
from depthlm_ros.image_io import read_rgb, write_rgb
from depthlm_ros.visualization import (
    BACKGROUND_RGB,
    cloud_picture,
    depth_picture,
    depth_range_m,
    depth_rgb,
    scale_bar,
    side_by_side,
    ticks,
    virtual_camera,
)

RED, BLUE = (250, 10, 10), (10, 10, 250)


def is_colour(picture, rgb):
    return (picture == np.array(rgb)).all(axis=-1)


def test_only_unknown_depths_are_black():
    depth_m = np.linspace(0.5, 9, 48 * 64, dtype=np.float32).reshape(48, 64)
    depth_m[:5, :7] = math.nan
    np.testing.assert_array_equal(is_colour(depth_rgb(depth_m, 1.0, 8.0), (0, 0, 0)), np.isnan(depth_m))


def test_near_is_red_far_is_blue_and_other_depths_are_clipped():
    near, below, far, above, nothing = depth_rgb(np.array([[1.0, 0.2, 8.0, 30.0, math.inf]]), 1.0, 8.0)[0].astype(int)
    assert near[0] > near[2] + 100 and far[2] > far[0] + 100
    assert near.tolist() == below.tolist() and far.tolist() == above.tolist() == nothing.tolist()


def test_each_row_of_the_scale_bar_has_the_colour_of_its_depth():
    bar = scale_bar(400, 1.0, 8.0)
    unit_px = 10
    column = bar[:, unit_px + 2]
    for share in (0.1, 0.5, 0.9):
        row = round(400 - 2 * unit_px - 1 - share * (400 - 4 * unit_px - 1))
        wanted = depth_rgb(np.array([[1.0 + 7.0 * share]]), 1.0, 8.0)[0, 0]
        assert np.abs(column[row].astype(int) - wanted).max() <= 6


def test_a_depth_picture_is_the_map_and_a_bar():
    picture = depth_picture(np.full((120, 160), 2.0, np.float32))
    assert picture.shape[0] == 120 and picture.shape[1] > 160 and picture.dtype == np.uint8


@pytest.mark.parametrize("depth_m", [np.full((48, 64), math.nan), np.full((48, 64), 3.0), np.full((48, 64), math.inf)])
def test_a_map_without_any_range_still_gives_a_picture(depth_m):
    near_m, far_m = depth_range_m(depth_m)
    assert near_m < far_m and math.isfinite(far_m)
    assert depth_picture(depth_m).shape[0] == 48


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(0.0, 5.0, [0, 1, 2, 3, 4, 5]), (0.93, 2.6, [1.0, 1.5, 2.0, 2.5]), (3.0, 90.0, [20, 40, 60, 80])],
)
def test_ticks_are_round_and_within_the_range(low, high, wanted):
    assert ticks(low, high).tolist() == wanted


def wall(x_m, z_m, colour):
    """Returns points (N, 3) of an upright 0.4 m square that faces the camera, and their colours."""
    x, y = np.meshgrid(np.linspace(x_m - 0.2, x_m + 0.2, 200), np.linspace(-0.2, 0.2, 200))
    points_m = np.stack([x, y, np.full_like(x, z_m)], axis=-1).reshape(-1, 3)
    return points_m, np.tile(np.array(colour, np.uint8), (len(points_m), 1))


def test_the_nearest_point_hides_what_is_behind_it_in_any_order():
    near, far = wall(0.0, 2.0, RED), wall(0.0, 3.0, BLUE)
    for parts in ((near, far), (far, near)):
        points_m, rgb = (np.concatenate(column) for column in zip(*parts, strict=True))
        picture = cloud_picture(points_m, rgb, (320, 240), yaw_deg=0.0, pitch_deg=0.0)
        assert is_colour(picture, RED).sum() > 1000
        assert is_colour(picture, BLUE).sum() < 50


def test_each_point_is_drawn_where_the_virtual_camera_sees_it():
    points_m, rgb = (np.concatenate(c) for c in zip(wall(-0.6, 2.0, RED), wall(0.6, 3.0, BLUE), strict=True))
    picture = cloud_picture(points_m, rgb, (320, 240))
    view = virtual_camera(points_m, (320, 240), 35.0, 22.0)
    for centre_m, colour in (((-0.6, 0.0, 2.0), RED), ((0.6, 0.0, 3.0), BLUE)):
        u_px, v_px = np.rint(view.project(np.array([centre_m]))[0][0]).astype(int)
        assert tuple(picture[v_px, u_px]) == colour


def test_seen_from_the_side_the_nearer_wall_is_left_of_the_farther_one():
    points_m, rgb = (np.concatenate(c) for c in zip(wall(-0.3, 2.0, RED), wall(-0.3, 3.0, BLUE), strict=True))
    picture = cloud_picture(points_m, rgb, (320, 240), yaw_deg=75.0, pitch_deg=0.0)
    red_px, blue_px = np.nonzero(is_colour(picture, RED))[1], np.nonzero(is_colour(picture, BLUE))[1]
    assert red_px.mean() + 20 < blue_px.mean()


def test_unknown_points_are_not_drawn():
    points_m, rgb = wall(0.0, 2.0, RED)
    unknown = np.full((10, 10, 3), np.nan, np.float32)
    picture = cloud_picture(
        np.concatenate([points_m, unknown.reshape(-1, 3)]), np.concatenate([rgb, rgb[:100] * 0 + 7])
    )
    assert not is_colour(picture, (7, 7, 7)).any()
    empty = cloud_picture(unknown, np.zeros((10, 10, 3), np.uint8), (320, 240))
    assert is_colour(empty, BACKGROUND_RGB).mean() > 0.95


def test_pictures_side_by_side_have_one_height():
    whole = side_by_side(
        [("a", np.full((50, 100, 3), 200, np.uint8)), ("b", np.full((480, 320, 3), 90, np.uint8))], 240
    )
    assert whole.shape[0] > 240 and whole.shape[1] > 480 + 160
    assert is_colour(whole, (200, 200, 200)).sum() == 480 * 240
    assert is_colour(whole, (90, 90, 90)).sum() >= 160 * 240


def test_image_files_keep_red_first_and_ignore_the_orientation_tag(tmp_path):
    rgb = np.zeros((20, 30, 3), np.uint8)
    rgb[:, :15] = RED
    write_rgb(tmp_path / "a.png", rgb)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), rgb)
    jpeg = cv2.imencode(".jpg", rgb[..., ::-1])[1].tobytes()
    tag = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    turned = jpeg[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag + jpeg[2:]
    (tmp_path / "turned.jpg").write_bytes(turned)
    assert read_rgb(tmp_path / "turned.jpg").shape == (20, 30, 3)


def test_grey_and_transparent_files_become_rgb(tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((4, 6), 77, np.uint8))
    cv2.imwrite(str(tmp_path / "alpha.png"), np.full((4, 6, 4), 77, np.uint8))
    for name in ("grey.png", "alpha.png"):
        assert (read_rgb(tmp_path / name) == np.full((4, 6, 3), 77)).all()


def test_a_file_that_is_not_an_image_is_refused_by_name(tmp_path):
    (tmp_path / "x.png").write_bytes(b"hello")
    (tmp_path / "empty.png").touch()
    for name, said in (("x.png", "5 bytes"), ("empty.png", "0 bytes"), ("none.png", "No such file")):
        with pytest.raises(BadImage, match=rf"{name}.*{said}"):
            read_rgb(tmp_path / name)
    with pytest.raises(BadImage, match=r"\.xyz"):
        write_rgb(tmp_path / "a.xyz", np.zeros((2, 2, 3), np.uint8))

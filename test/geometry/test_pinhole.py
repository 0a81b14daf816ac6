# SPDX-License-Identifier: Apache-2.0
"""Tests of pinhole arithmetic: the edges of the image, and pixels to points and back, against OpenCV."""

import cv2
import numpy as np
import pytest

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadQuestion
from depthlm_ros.geometry.pinhole import (
    backproject,
    check_pixels_inside,
    nearest_pixel,
    pixels_inside,
    project,
    range_from_z,
    rays,
    z_from_range,
)

CAMERA = Intrinsics(300.0, 280.0, 70.0, 20.5, 160, 90)


@pytest.mark.parametrize(
    ("u", "inside"),
    [(-0.5, True), (0.0, True), (159.0, True), (159.49, True), (159.5, False), (-0.51, False), (160.0, False)],
)
def test_an_image_covers_half_a_pixel_around_the_centres_of_its_pixels(u, inside):
    assert pixels_inside(np.array([[u, 3.0]]), (160, 90)).tolist() == [inside]
    assert pixels_inside(np.array([[3.0, u]]), (90, 160)).tolist() == [inside]


def test_unknown_pixels_are_not_inside():
    assert not pixels_inside(np.array([[np.nan, 1], [1, np.inf], [-np.inf, 1]]), (160, 90)).any()


@pytest.mark.parametrize("size", [1, 2, 3, 160, 4097])
def test_every_pixel_inside_has_a_valid_nearest_pixel(size):
    edges = np.arange(size + 1) - 0.5
    u = np.concatenate([edges, np.nextafter(edges, -np.inf), np.nextafter(edges, np.inf)])
    uv_px = np.stack([u, u], axis=1)
    nearest = nearest_pixel(uv_px[pixels_inside(uv_px, (size, size))])
    assert nearest.min() == 0 and nearest.max() == size - 1


def test_a_pixel_on_the_border_of_two_belongs_to_the_second():
    np.testing.assert_array_equal(nearest_pixel(np.array([[0.5, 1.5], [2.5, 3.5]])), [[1, 2], [3, 4]])


def test_a_pixel_outside_is_refused_with_its_value_and_the_size():
    assert check_pixels_inside([(1, 2)], (160, 90)).dtype == np.float64
    with pytest.raises(BadQuestion, match=r"\(159\.5, 2\) is outside the 160 x 90 image"):
        check_pixels_inside([(1, 2), (159.5, 2)], (160, 90))


def test_rays_pass_through_pixel_centres_at_depth_one():
    out = rays(CAMERA)
    assert out.shape == (90, 160, 3)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out[30, 100], [(100 - 70) / 300, (30 - 20.5) / 280, 1.0], rtol=1e-6)


def test_projection_agrees_with_opencv():
    points = np.random.default_rng(0).uniform((-2, -2, 0.5), (2, 2, 8), (200, 3))
    expected, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), CAMERA.matrix, None)
    np.testing.assert_allclose(project(points, CAMERA), expected[:, 0], atol=1e-9)


def test_backproject_is_the_inverse_of_project():
    points = np.random.default_rng(1).uniform((-2, -2, 0.5), (2, 2, 8), (200, 3))
    np.testing.assert_allclose(backproject(project(points, CAMERA), points[:, 2], CAMERA), points, atol=1e-12)


def test_points_behind_the_camera_have_no_pixel():
    assert np.isnan(project(np.array([[0.1, 0.1, -1.0], [0.0, 0.0, 0.0]]), CAMERA)).all()


@pytest.mark.parametrize("depth_m", [np.nan, np.inf])
def test_unknown_depth_gives_an_unknown_point(depth_m):
    assert np.isnan(backproject(np.array([[70.0, 20.5]]), np.array([depth_m]), CAMERA)).all()


def test_range_is_the_distance_of_the_point():
    points = np.random.default_rng(2).uniform((-2, -2, 0.5), (2, 2, 8), (200, 3))
    distance_m = range_from_z(project(points, CAMERA), points[:, 2], CAMERA)
    np.testing.assert_allclose(distance_m, np.linalg.norm(points, axis=1), rtol=1e-12)


def test_z_from_range_is_the_inverse_of_range_from_z_and_keeps_nan():
    rng = np.random.default_rng(3)
    uv_px, depth_m = rng.uniform((0, 0), (159, 89), (200, 2)), rng.uniform(0.5, 9, 200)
    depth_m[10:20] = np.nan
    np.testing.assert_allclose(z_from_range(uv_px, range_from_z(uv_px, depth_m, CAMERA), CAMERA), depth_m, rtol=1e-12)

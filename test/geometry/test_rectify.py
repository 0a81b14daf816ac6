# SPDX-License-Identifier: Apache-2.0
"""Tests of Rectifier against OpenCV's forward projection."""

import cv2
import numpy as np
import pytest

from depthlm_ros.errors import BadIntrinsics
from depthlm_ros.geometry.camera_model import UNSEEN_GREY, CameraModel, Roi
from depthlm_ros.geometry.pinhole import backproject, project, rays
from depthlm_ros.geometry.rectify import Rectifier

K = np.array([[400.0, 0, 330.0], [0, 420.0, 228.0], [0, 0, 1]])
P = np.array([[380.0, 0, 300.0, 0], [0, 380.0, 250.0, 0], [0, 0, 1, 0]])
R = cv2.Rodrigues(np.array([0.02, -0.03, 0.01]))[0]
LENSES = {
    "plumb_bob 4": ("plumb_bob", (-0.28, 0.07, 0.001, -0.002)),
    "plumb_bob 5": ("plumb_bob", (-0.28, 0.07, 0.001, -0.002, 0.01)),
    "rational 8": ("rational_polynomial", (0.3, -0.1, 0.0005, 0.001, 0.02, 0.6, -0.05, 0.03)),
    "rational 12": ("rational_polynomial", (0.3, -0.1, 5e-4, 1e-3, 0.02, 0.6, -0.05, 0.03, 2e-3, 1e-3, -2e-3, 1e-3)),
    "rational 14": (
        "rational_polynomial",
        (0.3, -0.1, 5e-4, 1e-3, 0.02, 0.6, -0.05, 0.03, 2e-3, 1e-3, -2e-3, 1e-3, 0.01, -0.02),
    ),
    "equidistant": ("equidistant", (-0.02, 0.01, -0.003, 0.0005)),
    "no coefficients": ("plumb_bob", ()),
}
lens = pytest.mark.parametrize("lens", LENSES.values(), ids=LENSES.keys())


def camera(lens=LENSES["plumb_bob 5"], k=K, r=R, p=P, **rest):
    return CameraModel(640, 480, *lens, k, r, p, **rest)


def raw_pixels(model, points):
    """Returns (N, 2): where OpenCV projects points (N, 3) of the rectified frame in the full raw image."""
    rvec = cv2.Rodrigues(np.array(model.r.T))[0]
    d = np.array(model.d or (0.0,) * 4)
    project_points = cv2.fisheye.projectPoints if model.distortion_model == "equidistant" else cv2.projectPoints
    return project_points(points[:, None], rvec, np.zeros(3), np.array(model.k), d)[0][:, 0]


def coordinate_image(width, height):
    """Returns an image whose values are its own pixel coordinates: a value says from where it was read."""
    u, v = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.dstack([u, v])


@lens
def test_every_output_pixel_shows_what_opencv_projects_there(lens):
    model = camera(lens)
    rectifier = Rectifier(model, rectified=False)
    came_from = rectifier.rectify(coordinate_image(640, 480))
    uv = np.stack(np.meshgrid(np.arange(0, 640, 7), np.arange(0, 480, 7)), -1).reshape(-1, 2)
    points = backproject(uv, np.full(len(uv), 2.0), rectifier.intrinsics)
    expected = raw_pixels(model, points)
    inside = ((expected >= 0) & (expected <= (639, 479))).all(axis=1)
    assert inside.mean() > 0.8
    error = np.abs(came_from[uv[:, 1], uv[:, 0]] - expected)[inside]
    assert error.max() < 0.04  # Fixed-point maps have a resolution of 1/32 pixel.


@lens
def test_undistorted_raw_pixels_are_where_the_rectified_image_shows_them(lens):
    model = camera(lens)
    came_from = Rectifier(model, rectified=False).rectify(coordinate_image(640, 480))
    raw = np.random.default_rng(0).uniform((120, 100), (520, 380), (100, 1, 2))
    d = np.array(model.d or (0.0,) * 4)
    undistort = cv2.fisheye.undistortPoints if model.distortion_model == "equidistant" else cv2.undistortPoints
    uv = undistort(raw, K, d, R=R, P=P[:, :3])[:, 0]
    read = cv2.remap(came_from, *uv.astype(np.float32).T[:, :, None], interpolation=cv2.INTER_LINEAR)[:, 0]
    np.testing.assert_allclose(read, raw[:, 0], atol=0.15)


def test_cropped_and_binned_image_is_rectified_as_that_part_of_the_scene():
    roi, binning = Roi(96, 60, 480, 360), 3
    model = camera(roi=roi, binning_x=binning, binning_y=binning)
    rectifier = Rectifier(model, rectified=False)
    assert rectifier.intrinsics.size_px == (160, 120)
    came_from = rectifier.rectify(coordinate_image(160, 120))
    points = np.array([[0.0, 0.0, 2.0], [0.4, -0.3, 2.0], [-0.5, 0.35, 2.0]])
    uv = np.rint(project(points, rectifier.intrinsics)).astype(int)
    points = backproject(uv, np.full(3, 2.0), rectifier.intrinsics)
    delivered_raw = (raw_pixels(model, points) - (roi.x_px, roi.y_px)) / binning
    np.testing.assert_allclose(came_from[uv[:, 1], uv[:, 0]], delivered_raw, atol=0.04)


def test_rectified_input_is_returned_unchanged_with_the_camera_of_p():
    image = np.zeros((480, 640, 3), np.uint8)
    rectifier = Rectifier(camera(), rectified=True)
    assert rectifier.rectify(image) is image
    assert rectifier.valid is None
    assert (rectifier.intrinsics.fx_px, rectifier.intrinsics.cx_px) == (380.0, 300.0)


@pytest.mark.parametrize("p", [np.zeros((3, 4)), np.hstack([K, np.zeros((3, 1))])], ids=["no P", "P equals K"])
def test_raw_pinhole_camera_needs_no_resampling(p):
    image = np.zeros((480, 640, 3), np.uint8)
    rectifier = Rectifier(camera(("plumb_bob", (0.0,) * 5), r=np.eye(3), p=p), rectified=False)
    assert rectifier.rectify(image) is image


@pytest.mark.parametrize("changed", [{"r": R}, {"p": P}], ids=["R", "P"])
def test_undistorted_camera_with_another_rotation_or_projection_is_resampled(changed):
    model = camera(("plumb_bob", (0.0,) * 5), **{"r": np.eye(3), "p": np.zeros((3, 4)), **changed})
    image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    assert not np.array_equal(Rectifier(model, rectified=False).rectify(image), image)


def test_pixels_that_the_camera_never_saw_are_grey_and_marked():
    wide = np.array([[150.0, 0, 320, 0], [0, 150.0, 240, 0], [0, 0, 1, 0]])
    rectifier = Rectifier(camera(p=wide), rectified=False)
    white = rectifier.rectify(np.full((480, 640, 3), 255, np.uint8))
    assert rectifier.valid is not None
    assert rectifier.valid.shape == (480, 640)
    assert 0.05 < rectifier.valid.mean() < 0.95
    assert (white[rectifier.valid] == 255).all()
    assert (white[~rectifier.valid] == UNSEEN_GREY).all()


def test_an_image_that_is_seen_everywhere_has_no_mask():
    narrow = np.array([[700.0, 0, 320, 0], [0, 700.0, 240, 0], [0, 0, 1, 0]])
    assert Rectifier(camera(p=narrow), rectified=False).valid is None


def test_pixels_count_as_seen_up_to_the_edges_of_the_input():
    k = np.array([[400.0, 0, 319.5], [0, 400.0, 239.5], [0, 0, 1]])
    p = np.hstack([k, np.zeros((3, 1))])
    p[:2, 2] += (-10.3, 7.6)  # Output (u, v) shows input (u + 10.3, v - 7.6).
    valid = Rectifier(camera(("plumb_bob", ()), k, np.eye(3), p), rectified=False).valid
    assert valid is not None
    np.testing.assert_array_equal(valid.any(axis=0), np.arange(640) + 10.3 <= 639.5)
    np.testing.assert_array_equal(valid.any(axis=1), np.arange(480) - 7.6 >= -0.5)


TURNING_RADIUS = {  # Lenses whose distorted radius turns back, and the undistorted radius there.
    "k1": (("plumb_bob", (-0.3, 0, 0, 0)), (3 * 0.3) ** -0.5),
    "k3": (("plumb_bob", (0, 0, 0, 0, -0.05)), (7 * 0.05) ** (-1 / 6)),
    "denominator": (("rational_polynomial", (0, 0, 0, 0, 0, 0.9, 0, 0)), 0.9**-0.5),
    "equidistant": (("equidistant", (-0.3, 0, 0, 0)), np.tan((3 * 0.3) ** -0.5)),
}


@pytest.mark.parametrize(("lens", "turning"), TURNING_RADIUS.values(), ids=TURNING_RADIUS.keys())
@pytest.mark.parametrize("turned_rad", [0.0, 0.4])
def test_nothing_is_shown_twice_beyond_the_turning_point_of_the_polynomial(lens, turning, turned_rad):
    # For instance r (1 - 0.3 r^2) returns to 0 at r = 1.83: without a limit the corners (r = 2.1) would show the
    # middle of the image again.
    k = np.array([[190.0, 0, 319.5], [0, 190.0, 239.5], [0, 0, 1]])
    rotation = cv2.Rodrigues(np.array([0.0, turned_rad, 0.0]))[0]
    rectifier = Rectifier(camera(lens, k, rotation, np.zeros((3, 4))), rectified=False)
    raw = rays(rectifier.intrinsics) @ rotation  # This is R^-1 ray: the ray in the frame of the raw camera.
    radius = np.where(raw[..., 2] > 0, np.hypot(raw[..., 0], raw[..., 1]) / raw[..., 2], np.inf)
    assert rectifier.valid is not None
    assert rectifier.valid[radius < turning - 0.01].all()
    assert not rectifier.valid[radius > turning + 0.01].any()


def test_rays_behind_a_turned_camera_are_unseen():
    about_face = cv2.Rodrigues(np.array([0.0, np.pi, 0.0]))[0]
    for lens in (LENSES["plumb_bob 5"], LENSES["equidistant"]):
        rectifier = Rectifier(camera(lens, r=about_face), rectified=False)
        assert rectifier.valid is not None
        assert not rectifier.valid.any()


def test_image_of_another_size_is_refused_even_without_resampling():
    with pytest.raises(BadIntrinsics, match="image is 320 x 240 but camera_info says 640 x 480"):
        Rectifier(camera(), rectified=True).rectify(np.zeros((240, 320, 3), np.uint8))


@pytest.mark.parametrize("shape", [(480, 640), (480, 640, 1), (480, 640, 3), (480, 640, 4)])
def test_any_number_of_channels_keeps_its_shape(shape):
    image = np.full(shape, 200, np.uint8)
    out = Rectifier(camera(), rectified=False).rectify(image)
    assert out.shape == shape
    assert out[240, 320].min() == 200


UNCALIBRATED = np.eye(3)


@pytest.mark.parametrize(
    ("k", "p"),
    [
        (UNCALIBRATED, P),
        (np.diag((1.8, 1.8, 1.0)), P),  # in millimetres
        (K, np.hstack([UNCALIBRATED, np.zeros((3, 1))])),
        (K, P * [[40.0], [40.0], [1.0]]),  # of another camera
    ],
    ids=["k of one pixel", "k in millimetres", "p of one pixel", "p of a long lens"],
)
@pytest.mark.parametrize("lens_name", ["plumb_bob 5", "no coefficients", "equidistant"])
def test_a_lens_and_a_p_that_cannot_be_one_camera_are_refused_with_both_focal_lengths(k, p, lens_name):
    model = camera(LENSES[lens_name], k=k, r=np.eye(3), p=p)
    with pytest.raises(BadIntrinsics, match=rf"fx = {k[0, 0]:g} and P with fx = {p[0, 0]:g}.*rectified_input"):
        Rectifier(model, rectified=False)
    assert Rectifier(model, rectified=True).intrinsics.fx_px == p[0, 0]


@pytest.mark.parametrize("zoom", [0.15, 4.0])
def test_a_p_that_shows_much_more_or_less_than_the_lens_is_accepted(zoom):
    zoomed = P.copy()
    zoomed[:2] *= zoom
    zoomed[:2, 2] = (320, 240)
    assert Rectifier(camera(p=zoomed), rectified=False).rectify(coordinate_image(640, 480)).any()


def test_the_smallest_images_are_rectified():
    model = CameraModel(1, 1, *LENSES["plumb_bob 5"], K / [[640], [480], [1]], np.eye(3), np.zeros((3, 4)))
    assert Rectifier(model, rectified=False).intrinsics.size_px == (1, 1)

# SPDX-License-Identifier: Apache-2.0
"""Tests of focal normalisation: pixels, colours and depths are mapped as the geometry says, in both directions."""

import numpy as np
import pytest

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadImage
from depthlm_ros.geometry.camera_model import UNSEEN_GREY
from depthlm_ros.geometry.canonical_view import canonical_view
from depthlm_ros.geometry.pinhole import pixels_inside, project, rays
from depthlm_ros.geometry.point_cloud import CloudBuilder

FOCAL_PX = 105.0
CANVASES = [(128, 96), (160, 128)]
CAMERAS = {
    "vga": Intrinsics(525.0, 525.0, 319.5, 239.5, 640, 480),
    "fx is not fy": Intrinsics(600.0, 520.0, 322.3, 236.1, 640, 480),
    "principal point far off": Intrinsics(700.0, 700.0, 90.0, 420.0, 640, 480),
    "odd size": Intrinsics(431.7, 433.2, 201.4, 163.9, 411, 333),
    "cropped by the canvas": Intrinsics(200.0, 210.0, 300.0, 250.0, 640, 480),
    "enlarged": Intrinsics(60.0, 66.0, 33.0, 22.0, 64, 48),
    "portrait": Intrinsics(500.0, 500.0, 239.5, 319.5, 480, 640),
    "four megapixels": Intrinsics(2000.0, 2010.0, 1200.0, 860.0, 2464, 1640),
}
every_camera = pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS.keys())


def view_of(camera):
    return canonical_view(camera, FOCAL_PX, CANVASES)


def canvas_camera(camera):
    """Returns the camera whose image the canvas should be."""
    view = view_of(camera)
    ((cx, cy),) = view.uv_to_canvas([(camera.cx_px, camera.cy_px)])
    return Intrinsics(FOCAL_PX, FOCAL_PX, cx, cy, *view.canvas_size_px)


def all_pixels(width, height):
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2)


# ---- pixels


@every_camera
def test_corresponding_pixels_look_along_the_same_ray(camera):
    view = view_of(camera)
    points = rays(camera).reshape(-1, 3)[::97]
    expected = project(points, canvas_camera(camera))
    np.testing.assert_allclose(view.uv_to_canvas(project(points, camera)), expected, atol=1e-9)


@every_camera
def test_canvas_and_image_coordinates_are_exact_inverses(camera):
    view = view_of(camera)
    uv = np.random.default_rng(0).uniform((-20, -20), (camera.width_px + 20, camera.height_px + 20), (500, 2))
    np.testing.assert_allclose(view.uv_to_image(view.uv_to_canvas(uv)), uv, atol=1e-9)
    np.testing.assert_allclose(view.uv_to_canvas(view.uv_to_image(uv)), uv, atol=1e-9)


@every_camera
def test_rounding_to_whole_pixels_costs_half_a_pixel_of_the_coarser_grid(camera):
    """One round trip through whole pixels of the other grid is off by at most 0.5 of that grid's pixels.

    So image -> canvas -> image is within 0.51 image pixels on an axis whose scale is at least 0.5 / 0.51,
    and canvas -> image -> canvas is within 0.51 canvas pixels where it is at most 0.51 / 0.5; one of the
    two holds on every axis of every camera.
    """
    view = view_of(camera)
    scale = np.array([view.x.scale, view.y.scale])
    uv = all_pixels(*camera.size_px)
    there_and_back = view.uv_to_image(np.rint(view.uv_to_canvas(uv)))
    assert (np.abs(there_and_back - uv).max(axis=0) <= 0.5 / scale + 1e-9).all()
    uv_canvas = all_pixels(*view.canvas_size_px)
    there_and_back = view.uv_to_canvas(np.rint(view.uv_to_image(uv_canvas)))
    assert (np.abs(there_and_back - uv_canvas).max(axis=0) <= 0.5 * scale + 1e-9).all()


def test_rounded_round_trip_stays_within_half_an_image_pixel_where_the_canvas_is_as_fine():
    camera = Intrinsics(104.0, 106.0, 60.0, 45.0, 120, 90)
    uv = all_pixels(*camera.size_px)
    view = view_of(camera)
    assert np.abs(view.uv_to_image(np.rint(view.uv_to_canvas(uv))) - uv).max() <= 0.51
    assert np.abs(view.uv_to_canvas(np.rint(view.uv_to_image(uv))) - uv).max() <= 0.51


# ---- which canvas, and where on it


def test_image_that_fits_exactly_fills_the_small_canvas():
    view = view_of(CAMERAS["vga"])
    assert view.canvas_size_px == (128, 96)
    assert view.visible == (0, 0, 128, 96)
    assert view.coverage == 1.0
    np.testing.assert_allclose(view.uv_to_canvas([(319.5, 239.5)]), [(63.5, 47.5)])


def test_rounding_noise_in_a_calibration_does_not_change_the_canvas():
    noisy = Intrinsics(524.99, 524.99, 319.4, 239.6, 640, 480)
    view = view_of(noisy)
    assert view.canvas_size_px == (128, 96)
    assert view.coverage == 1.0


def test_image_that_is_a_little_larger_uses_the_next_canvas():
    assert view_of(Intrinsics(500.0, 500.0, 319.5, 239.5, 640, 480)).canvas_size_px == (160, 128)


def test_canvas_order_does_not_matter():
    camera = CAMERAS["odd size"]
    assert canonical_view(camera, FOCAL_PX, CANVASES) == canonical_view(camera, FOCAL_PX, CANVASES[::-1])


def test_image_that_fits_nowhere_is_cropped_by_the_canvas_that_shows_most():
    view = view_of(CAMERAS["cropped by the canvas"])
    assert view.canvas_size_px == (160, 128)
    assert view.visible == (0, 0, 160, 128)
    shown = (160 / (640 * 105 / 200)) * (128 / (480 * 105 / 210))
    assert view.coverage == pytest.approx(shown, rel=0.01)
    tower = Intrinsics(200.0, 200.0, 100.0, 320.0, 200, 640)
    assert canonical_view(tower, FOCAL_PX, [(160, 120), (120, 160)]).canvas_size_px == (120, 160)


def test_principal_point_is_in_the_middle_of_the_canvas_where_there_is_room():
    camera = Intrinsics(700.0, 700.0, 300.0, 250.0, 640, 480)
    np.testing.assert_allclose(view_of(camera).uv_to_canvas([(300.0, 250.0)]), [(63.5, 47.5)])


def test_canvas_pixels_that_the_image_touches_are_visible():
    # 0.15 of the size: the image spans 18.925 .. 114.925 and 10.425 .. 82.425 on the canvas.
    camera = Intrinsics(700.0, 700.0, 300.0, 250.0, 640, 480)
    assert view_of(camera).visible == (18, 10, 115 - 18, 83 - 10)


def test_image_with_a_far_off_principal_point_is_moved_just_inside():
    view = view_of(CAMERAS["principal point far off"])
    assert view.coverage == 1.0
    # With the principal point (90, 420) in the middle the image would leave the canvas on the right and at the top.
    assert view.x.offset_px == pytest.approx(128 - 640 * 105 / 700)
    assert view.y.offset_px == pytest.approx(0.0)


def test_image_larger_than_the_canvas_leaves_no_padding():
    view = view_of(Intrinsics(150.0, 150.0, 40.0, 460.0, 640, 480))
    assert view.visible == (0, 0, 160, 128)
    assert view.x.offset_px == pytest.approx(0.0)
    assert view.y.offset_px == pytest.approx(128 - 480 * 105 / 150)


@every_camera
def test_coverage_is_the_share_of_the_pixels_that_the_view_contains(camera):
    view = view_of(camera)
    assert view.contains(all_pixels(*camera.size_px)).mean() == pytest.approx(view.coverage)


def test_contains_refuses_pixels_outside_the_image_outside_the_canvas_and_nan():
    view = view_of(CAMERAS["cropped by the canvas"])
    inside = view.uv_to_image([[0.0, 0.0], [159.0, 127.0]])
    outside_canvas = view.uv_to_image([[-0.6, 60.0], [80.0, 127.6]])
    assert view.contains(inside).tolist() == [True, True]
    assert view.contains(outside_canvas).tolist() == [False, False]
    padded = view_of(CAMERAS["principal point far off"])
    assert padded.contains([[-0.6, 10], [10, 479.6], [np.nan, 10], [639.4, 0]]).tolist() == [False, False, False, True]


@pytest.mark.parametrize("size_px", [(640, 480), (160, 128)])
def test_the_view_contains_a_pixel_only_if_it_is_inside_the_image(size_px):
    width, height = size_px
    view = canonical_view(Intrinsics(150.0, 150.0, width / 2, height / 2, width, height), 150.0, [size_px])
    uv_px = np.array([[-0.5, -0.5], [width - 0.5, 3], [3, height - 0.5], [width - 0.51, height - 0.51]])
    assert view.contains(uv_px).tolist() == pixels_inside(uv_px, size_px).tolist() == [True, False, False, True]


# ---- colours


def blob(camera, uv, sigma_px):
    u, v = np.arange(camera.width_px), np.arange(camera.height_px)[:, None]
    sigma_u, sigma_v = sigma_px
    bump = np.exp(-0.5 * (((u - uv[0]) / sigma_u) ** 2 + ((v - uv[1]) / sigma_v) ** 2))
    return np.repeat(np.rint(250 * bump).astype(np.uint8)[..., None], 3, axis=2)


@every_camera
def test_a_dot_lands_where_uv_to_canvas_says(camera):
    view = view_of(camera)
    x, y, width, height = view.visible
    sigma = np.maximum(2.0 / np.array([view.x.scale, view.y.scale]), 1.5)
    spread = (sigma * [view.x.scale, view.y.scale]).max() * 4
    rng = np.random.default_rng(3)
    for target in rng.uniform((x + spread, y + spread), (x + width - spread, y + height - spread), (8, 2)):
        uv = view.uv_to_image(target)[0]
        canvas = view.image_to_canvas(blob(camera, uv, sigma))[y : y + height, x : x + width, 1].astype(float)
        v, u = np.mgrid[y : y + height, x : x + width]
        centroid = np.array([(canvas * u).sum(), (canvas * v).sum()]) / canvas.sum()
        assert np.abs(centroid - target).max() < 0.1


@every_camera
def test_canvas_is_grey_exactly_where_the_image_does_not_reach(camera):
    view = view_of(camera)
    canvas = view.image_to_canvas(np.full((camera.height_px, camera.width_px, 3), (250, 10, 60), np.uint8))
    x, y, width, height = view.visible
    assert canvas.shape == (*view.canvas_size_px[::-1], 3)
    assert canvas.dtype == np.uint8
    assert (canvas[y : y + height, x : x + width] == (250, 10, 60)).all()
    canvas[y : y + height, x : x + width] = UNSEEN_GREY
    assert (canvas == UNSEEN_GREY).all()


@pytest.mark.parametrize("name", ["vga", "four megapixels"])
def test_texture_too_fine_for_the_canvas_becomes_its_mean(name):
    camera = CAMERAS[name]
    view = view_of(camera)
    checker = (np.indices((camera.height_px, camera.width_px)).sum(axis=0) % 2 * 200).astype(np.uint8)
    x, y, width, height = view.visible
    canvas = view.image_to_canvas(np.repeat(checker[..., None], 3, axis=2))
    # The last row and column may contain a block that the image fills only in part.
    whole_blocks = canvas[y : y + height - 1, x : x + width - 1]
    assert np.abs(whole_blocks.astype(int) - 100).max() <= 10


def test_image_of_another_size_is_refused():
    with pytest.raises(BadImage, match="image is 320 x 240 but this view is of 640 x 480"):
        view_of(CAMERAS["vga"]).image_to_canvas(np.zeros((240, 320, 3), np.uint8))


# ---- depths


def plane_depth(camera, normal, distance_m):
    """Returns float64 (H, W): z of the plane normal . p = distance_m in this camera; NaN where it is not visible."""
    normal = np.asarray(normal) / np.linalg.norm(normal)
    u, v = np.meshgrid(np.arange(camera.width_px), np.arange(camera.height_px))
    slope = np.stack([(u - camera.cx_px) / camera.fx_px, (v - camera.cy_px) / camera.fy_px, np.ones(u.shape)], -1)
    across = slope @ normal
    return np.where(across > 0.1, distance_m / np.maximum(across, 0.1), np.nan)


@every_camera
@pytest.mark.parametrize("normal", [(0, 0, 1), (0.5, -0.3, 1), (0.1, 1.0, 0.4), (-1, 0, 0.5)], ids=str)
def test_plane_seen_on_the_canvas_comes_back_from_the_cloud_within_a_millimetre(camera, normal):
    view = view_of(camera)
    on_canvas = plane_depth(canvas_camera(camera), normal, 1.5).astype(np.float32)
    depth_m = view.depth_to_image(on_canvas)
    cloud = CloudBuilder(camera).build(depth_m, np.zeros((*depth_m.shape, 3), np.uint8))
    points = cloud[..., :3][np.isfinite(depth_m)].astype(np.float64)
    assert len(points) > 0.3 * view.coverage * depth_m.size
    assert np.abs(points @ (normal / np.linalg.norm(normal)) - 1.5).max() < 1e-3
    true_m = plane_depth(camera, normal, 1.5)
    near = np.isfinite(depth_m) & (true_m < 6)
    assert np.abs(depth_m - true_m)[near].max() < 1e-3


@every_camera
def test_depth_is_known_exactly_for_the_pixels_on_the_canvas(camera):
    view = view_of(camera)
    depth_m = view.depth_to_image(np.full(view.canvas_size_px[::-1], 3.25, np.float32))
    assert depth_m.dtype == np.float32
    assert depth_m.shape == (camera.height_px, camera.width_px)
    inside = view.contains(all_pixels(*camera.size_px)).reshape(depth_m.shape)
    np.testing.assert_array_equal(np.isfinite(depth_m), inside)
    np.testing.assert_allclose(depth_m[inside], 3.25, rtol=1e-6)


@every_camera
def test_depth_in_the_padding_never_reaches_the_image(camera):
    view = view_of(camera)
    on_canvas = np.full(view.canvas_size_px[::-1], 99.0, np.float32)
    x, y, width, height = view.visible
    on_canvas[y : y + height, x : x + width] = 2.0
    depth_m = view.depth_to_image(on_canvas)
    np.testing.assert_allclose(depth_m[np.isfinite(depth_m)], 2.0, rtol=1e-6)


@every_camera
@pytest.mark.parametrize("bad", [np.nan, 0.0, -1.0, -np.inf])
def test_unknown_depth_never_becomes_a_number(camera, bad):
    view = view_of(camera)
    rng = np.random.default_rng(5)
    on_canvas = rng.uniform(1, 5, view.canvas_size_px[::-1]).astype(np.float32)
    holes = rng.random(on_canvas.shape) < 0.05
    depth_m = view.depth_to_image(np.where(holes, np.float32(bad), on_canvas))
    nearest = np.rint(view.uv_to_canvas(all_pixels(*camera.size_px))).astype(int)
    clipped = nearest.clip(0, np.array(view.canvas_size_px) - 1)
    beside_hole = holes[clipped[:, 1], clipped[:, 0]].reshape(depth_m.shape)
    assert np.isnan(depth_m[beside_hole]).all()
    known = depth_m[np.isfinite(depth_m)]
    assert known.size > 0.5 * view.coverage * depth_m.size
    assert known.min() >= 1 / 1.25
    assert known.max() <= 5 * 1.25


def test_a_hole_removes_only_the_pixels_that_touch_it():
    view = view_of(CAMERAS["vga"])
    on_canvas = np.full((96, 128), 2.0, np.float32)
    on_canvas[40, 60] = np.nan
    lost = np.argwhere(np.isnan(view.depth_to_image(on_canvas)))
    middle = view.uv_to_image([[60.0, 40.0]])[0]
    assert 0 < np.abs(lost[:, ::-1] - middle).max() <= 5.0


def test_sky_stays_infinite_and_does_not_change_the_depth_beside_it():
    view = view_of(CAMERAS["vga"])
    on_canvas = np.full((96, 128), 2.0, np.float32)
    on_canvas[:48] = np.inf
    depth_m = view.depth_to_image(on_canvas)
    assert np.isposinf(depth_m[:240]).all()
    np.testing.assert_allclose(depth_m[np.isfinite(depth_m)], 2.0, rtol=1e-6)
    assert np.isfinite(depth_m[243:]).all()
    assert not np.isinf(depth_m[240:]).any()


@every_camera
def test_sky_is_not_continued_beyond_the_canvas(camera):
    view = view_of(camera)
    depth_m = view.depth_to_image(np.full(view.canvas_size_px[::-1], np.inf, np.float32))
    inside = view.contains(all_pixels(*camera.size_px)).reshape(depth_m.shape)
    np.testing.assert_array_equal(np.isposinf(depth_m), inside)
    assert np.isnan(depth_m[~inside]).all()


def test_extrapolation_at_the_border_is_bounded_across_a_depth_edge():
    view = view_of(CAMERAS["vga"])
    on_canvas = np.full((96, 128), 10.0, np.float32)
    on_canvas[:, 1:] = 1.0
    on_canvas[:, -1] = 30.0
    depth_m = view.depth_to_image(on_canvas)
    assert 8.0 <= depth_m[:, 0].min() <= depth_m[:, 0].max() <= 12.5
    assert 24.0 <= depth_m[:, -1].min() <= depth_m[:, -1].max() <= 37.5


def test_depth_of_another_canvas_is_refused():
    with pytest.raises(BadImage, match=r"shape \(128, 160\) but the canvas is 96 rows of 128"):
        view_of(CAMERAS["vga"]).depth_to_image(np.zeros((128, 160), np.float32))


@pytest.mark.parametrize("focal_px", [1e-3, 5.0, 3e4, 1e9])
def test_absurd_focal_lengths_neither_crash_nor_invent_depth(focal_px):
    camera = Intrinsics(focal_px, focal_px, 319.5, 239.5, 640, 480)
    view = view_of(camera)
    canvas = view.image_to_canvas(np.full((480, 640, 3), 9, np.uint8))
    x, y, _, _ = view.visible
    assert canvas[y, x].tolist() == [9, 9, 9]
    depth_m = view.depth_to_image(np.full(view.canvas_size_px[::-1], 2.0, np.float32))
    assert np.isfinite(depth_m).mean() == pytest.approx(view.coverage)


def test_random_cameras_return_the_plane_and_nothing_outside_the_canvas():
    rng = np.random.default_rng(11)
    for _ in range(60):
        width, height = (int(n) for n in rng.integers(8, 700, 2))
        fx = width * rng.uniform(0.4, 2.0)
        cx, cy = rng.uniform((0, 0), (width, height))
        camera = Intrinsics(fx, fx * rng.uniform(0.7, 1.4), cx, cy, width, height)
        view = view_of(camera)
        depth_m = view.depth_to_image(plane_depth(canvas_camera(camera), (0.2, 0.3, 1), 2.0).astype(np.float32))
        true_m = plane_depth(camera, (0.2, 0.3, 1), 2.0)
        known = np.isfinite(depth_m)
        assert not (known & ~view.contains(all_pixels(width, height)).reshape(known.shape)).any()
        near = known & (true_m < 6)
        assert np.abs(depth_m - true_m)[near].max(initial=0.0) < 1e-3

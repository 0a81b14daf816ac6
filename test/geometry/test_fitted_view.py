"""Tests of fitted views: the whole image at the size of the released code, and pixels on it."""

import ast
import importlib.util
import math
import re
from pathlib import Path

import numpy as np
import pytest

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadIntrinsics
from depthlm_ros.geometry.canonical_view import fitted_view
from depthlm_ros.geometry.pinhole import project, rays
from depthlm_ros.geometry.resize_rules import (
    MOST_CANVAS_PIXELS,
    canonical_size,
    fitted_sizes,
    limited_size,
    nearest_size,
    next_size,
)
from depthlm_ros.model_files.spec_yaml import find_spec

QWEN3 = {"multiple_px": 32, "least_pixels": 65536, "most_pixels": 16777216}
CAMERAS = {
    "vga": Intrinsics(525.0, 525.0, 319.5, 239.5, 640, 480),
    "fx is not fy": Intrinsics(600.0, 520.0, 322.3, 236.1, 640, 480),
    "odd size": Intrinsics(431.7, 433.2, 201.4, 163.9, 411, 333),
    "portrait": Intrinsics(500.0, 500.0, 239.5, 319.5, 480, 640),
    "three megapixels": Intrinsics(1800.0, 1810.0, 1000.0, 760.0, 2048, 1536),
}
MODELS = ("depthlm-12b", "depthlm-7b", "depthvlm-4b", "vlm3-depth", "vlm3-corr", "vlm3-pose")
every_pair = pytest.mark.parametrize(
    ("camera", "rule"),
    [(camera, find_spec(model).canvas) for camera in CAMERAS.values() for model in MODELS],
    ids=[f"{model}, {camera}" for camera in CAMERAS for model in MODELS],
)


def camera(width, height, fx, fy=None):
    return Intrinsics(fx, fy or fx, (width - 1) / 2, (height - 1) / 2, width, height)


def whole_canvas_camera(camera, view):
    """Returns the camera whose image the canvas should be."""
    ((cx, cy),) = view.uv_to_canvas([(camera.cx_px, camera.cy_px)])
    return Intrinsics(camera.fx_px * view.x.scale, camera.fy_px * view.y.scale, cx, cy, *view.canvas_size_px)


# ---- sizes: from the samples that came with the released code, and from its processors


@pytest.mark.parametrize(
    ("model", "seen_by", "size"),
    [
        ("vlm3-object", camera(1024, 768, 902.4662475585938, 901.3929443359375), (1134, 851)),
        # The sample gives only the resized sizes and the canonical focal length; these focal lengths fit it.
        ("vlm3-pose", camera(1752, 1168, 750 * 1752 / 2830.4, 750 * 1168 / 1884.4), (2830, 1884)),
        ("vlm3-corr", camera(600, 400, 431.0), (1024, 683)),
        ("vlm3-depth", camera(640, 480, 525.0), (1219, 914)),
        ("depthlm-12b", camera(640, 480, 559.4), (858, 643)),
        ("depthlm-7b", camera(640, 480, 559.4), (1144, 858)),
        ("depthvlm-4b", camera(640, 480, 518.8579), (1233, 925)),
    ],
)
def test_canonical_sizes_are_those_of_the_released_code(model, seen_by, size):
    rule = find_spec(model).canvas
    assert limited_size(canonical_size(seen_by, rule), rule.longest_px) == size


def test_different_focal_lengths_stay_different_if_both_axes_are_scaled_by_fx():
    seen_by = camera(1024, 768, 902.4662475585938, 901.3929443359375)
    assert seen_by.fy_px * 1000 / seen_by.fx_px == pytest.approx(998.81, abs=0.01)
    assert canonical_size(seen_by, find_spec("vlm3-object").canvas)[1] == int(768 * 998.81 / 901.3929443359375)


@pytest.mark.parametrize(
    ("seen_by", "tokens"),
    [(camera(640, 480, 518.8579), (38, 29)), (camera(1216, 352, 721.5377), (52, 15))],
    ids=["NYUv2", "KITTI"],
)
def test_depthvlm_counts_as_many_tokens_as_its_released_code(seen_by, tokens):
    """The numbers are 38 and 52 only because qwen_vl_utils comes first: 1233 / 32 is 38.5, 1685 / 32 is 52.7."""
    assert fitted_sizes(seen_by, find_spec("depthvlm-4b").canvas)[1] == (tokens[0] * 32, tokens[1] * 32)


def test_pixtral_without_resize_does_not_see_incomplete_patches():
    seen_by = camera(640, 480, 559.4)
    assert fitted_sizes(seen_by, find_spec("depthlm-12b").canvas) == ((858, 643), (848, 640))


@every_pair
def test_sides_are_whole_tokens_and_the_area_is_bounded(camera, rule):
    width, height = fitted_view(camera, rule).canvas_size_px
    assert width % rule.multiple_px == height % rule.multiple_px == 0
    assert rule.least_pixels <= width * height <= (rule.most_pixels or MOST_CANVAS_PIXELS)


# ---- the same sizes as transformers


def transformers_functions(model, names, **given):
    """Returns pure functions of transformers' image processors, whose modules need libraries that tests do not have."""
    folder = Path(importlib.util.find_spec("transformers").origin).parent / "models" / model
    source = (folder / f"image_processing_{model}.py").read_text()
    found = {
        node.name: ast.get_source_segment(source, node) for node in ast.parse(source).body if hasattr(node, "name")
    }
    scope = {"math": math, **given}
    exec("\n".join(["from __future__ import annotations", *(found[name] for name in names)]), scope)
    return scope


def random_sizes(count):
    rng = np.random.default_rng(5)
    sizes = np.exp(rng.uniform(np.log(20), np.log(6000), (count, 2))).astype(int).tolist()
    return [(w, h) for w, h in sizes if max(w, h) <= 200 * min(w, h)]


@pytest.mark.torch
@pytest.mark.parametrize(
    ("multiple", "least", "most"),
    [(28, 3136, 12845056), (32, 65536, 16777216), (28, 3136, 1003520), (32, 262144, 262144)],
)
def test_sizes_of_qwens_processors_equal_those_of_transformers(multiple, least, most):
    smart_resize = transformers_functions("qwen2_vl", ["smart_resize"])["smart_resize"]
    for width, height in random_sizes(1000):
        theirs = smart_resize(height, width, multiple, least, most)[::-1]
        assert nearest_size((width, height), multiple, least, most) == theirs, (width, height)


@pytest.mark.torch
@pytest.mark.parametrize("most_px", [1024, 1540, 64])
def test_sizes_of_pixtrals_processor_equal_those_of_transformers(most_px):
    names = ["get_resize_output_image_size", "_num_image_tokens"]
    resized = transformers_functions("pixtral", names, get_image_size=lambda size, _: size)[names[0]]
    for width, height in random_sizes(1000):
        # A side that shrinks below one pixel is 0 in transformers, and one patch here.
        theirs = tuple(max(16, n) for n in resized((height, width), most_px, 16, None)[::-1])
        assert next_size((width, height), 16, most_px) == theirs, (width, height)


# ---- the view


@every_pair
def test_corresponding_pixels_look_along_the_same_ray(camera, rule):
    view = fitted_view(camera, rule)
    points = rays(camera).reshape(-1, 3)[::997]
    expected = project(points, whole_canvas_camera(camera, view))
    np.testing.assert_allclose(view.uv_to_canvas(project(points, camera)), expected, atol=1e-6)
    np.testing.assert_allclose(view.uv_to_image(view.uv_to_canvas(points[:, :2] * 100)), points[:, :2] * 100, atol=1e-9)


@every_pair
def test_the_model_sees_the_whole_image_except_at_most_one_patch_if_a_rule_crops(camera, rule):
    view = fitted_view(camera, rule)
    corners = np.array([(0, 0), (camera.width_px - 1, 0), (0, camera.height_px - 1)]) * 1.0
    assert view.contains(corners[:1]).all()
    if rule.multiple_by == "crop":
        kept = [1 - 16 / (side * axis.scale) for side, axis in zip(camera.size_px, (view.x, view.y), strict=True)]
        assert math.prod(kept) - 0.01 < view.coverage <= 1.0
    else:
        assert view.contains(corners).all() and view.coverage == 1.0
        assert view.visible == (0, 0, *view.canvas_size_px)


@every_pair
def test_a_plane_comes_back_from_the_canvas(camera, rule):
    view = fitted_view(camera, rule)
    on_canvas, truth = (1.5 / (rays(c) @ [0.3, -0.2, 1.0]) for c in (whole_canvas_camera(camera, view), camera))
    depth_m = view.depth_to_image(on_canvas.astype(np.float32))
    known = np.isfinite(depth_m)
    np.testing.assert_array_equal(known, np.outer(view.y.inside, view.x.inside))
    np.testing.assert_allclose(depth_m[known], truth[known], rtol=2e-4)


def test_a_dot_lands_where_uv_to_canvas_says():
    seen_by = CAMERAS["fx is not fy"]
    v, u = np.mgrid[: seen_by.height_px, : seen_by.width_px]
    for model in MODELS:
        view = fitted_view(seen_by, find_spec(model).canvas)
        for at in ((100.3, 77.9), (511.0, 402.5)):
            dot = 250 * np.exp(-((u - at[0]) ** 2 + (v - at[1]) ** 2) / 18)
            canvas = view.image_to_canvas(np.repeat(dot.astype(np.uint8)[..., None], 3, axis=2))[..., 0].astype(float)
            rows, columns = np.indices(canvas.shape)
            centre = [(columns * canvas).sum() / canvas.sum(), (rows * canvas).sum() / canvas.sum()]
            np.testing.assert_allclose(centre, view.uv_to_canvas([at])[0], atol=0.2, err_msg=model)


# ---- impossible cameras


@pytest.mark.parametrize(
    ("model", "seen_by", "said"),
    [
        ("depthlm-12b", camera(640, 480, 40.0), "12000 x 8992 pixels"),
        ("depthlm-12b", camera(64, 8, 525.0), "80 x 0 pixels"),
        ("vlm3-depth", camera(3000, 10, 1000.0), "3000 x 10, longer than 200 times"),
        ("vlm3-pose", camera(640, 480, 1e-9, 1e9), "longer than 200 times"),
    ],
)
def test_a_camera_whose_image_would_be_unusable_is_refused_with_its_numbers(model, seen_by, said):
    with pytest.raises(BadIntrinsics, match=re.compile(said)):
        fitted_view(seen_by, find_spec(model).canvas)


def test_qwens_processor_limits_even_an_absurd_camera():
    rule = find_spec("vlm3-depth").canvas
    for fx_px in (1e-3, 1.0, 1e9):
        width, height = fitted_view(camera(640, 480, fx_px), rule).canvas_size_px
        assert rule.least_pixels <= width * height <= rule.most_pixels

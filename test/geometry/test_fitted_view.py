# SPDX-License-Identifier: Apache-2.0
"""Tests of fitted views: the whole image at the size of the released code, and pixels on it."""

import ast
import importlib.util
import math
import re
from pathlib import Path

import numpy as np
import pytest

from depthlm_ros.core import Frame, Intrinsics
from depthlm_ros.errors import BadIntrinsics
from depthlm_ros.families.vlm3 import Vlm3Corr, point_question
from depthlm_ros.geometry.antialiased_resize import FILTERS
from depthlm_ros.geometry.canonical_view import CANVAS, PICTURE, CanvasPlacement, fitted_view
from depthlm_ros.geometry.pinhole import project, rays
from depthlm_ros.geometry.resize_rules import (
    MOST_CANVAS_PIXELS,
    canonical_size,
    fitted_sizes,
    limited_size,
    nearest_size,
    next_size,
    resize,
)
from depthlm_ros.model_files.image_processor import SizeRule, apply_size_rule
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
RULES = {model: find_spec(model).canvas for model in MODELS}
RULES["depthlm-12b without resize"] = apply_size_rule(RULES["depthlm-12b"], SizeRule(False, 16))
every_pair = pytest.mark.parametrize(
    ("camera", "rule"),
    [(camera, rule) for camera in CAMERAS.values() for rule in RULES.values()],
    ids=[f"{name}, {camera}" for camera in CAMERAS for name in RULES],
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
    seen_by, rule = camera(640, 480, 559.4), find_spec("depthlm-12b").canvas
    assert fitted_sizes(seen_by, rule) == ((864, 656), (864, 656))
    assert fitted_sizes(seen_by, apply_size_rule(rule, SizeRule(False, 16))) == ((858, 643), (848, 640))


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


# ---- one antialiased step, by its definition (test_released_pixels.py compares with Pillow and torch)


def keys_cubic(x, a=-0.5):
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def resized_rows(rows, count, weigh, reach):
    """Returns the rows of Pillow's Image.resize in one direction, in exact arithmetic."""
    scale = len(rows) / count
    wide = max(scale, 1.0)
    made = []
    for at in range(count):
        centre = (at + 0.5) * scale
        near = [i for i in range(len(rows)) if abs(i + 0.5 - centre) < reach * wide + 1]
        weights = np.array([weigh((i + 0.5 - centre) / wide) for i in near])
        made.append(np.tensordot(weights / weights.sum(), rows[near].astype(float), 1))
    return np.floor(np.clip(made, 0, 255) + 0.5 + 1e-9).astype(np.uint8)  # halves up, also inexact ones


@pytest.mark.parametrize(
    ("name", "weigh", "reach"), [("bilinear", lambda x: max(0.0, 1 - abs(x)), 1), ("bicubic", keys_cubic, 2)]
)
@pytest.mark.parametrize("target", [(20, 15), (80, 60), (37, 61), (40, 13), (90, 30), (1, 2)])
def test_an_antialiased_resize_is_filtered_across_and_then_down(name, weigh, reach, target, way):
    rgb = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    across = resized_rows(rgb.transpose(1, 0, 2), target[0], weigh, reach).transpose(1, 0, 2)
    expected = resized_rows(across, target[1], weigh, reach)
    ours = resize(rgb, target, name)
    assert ours.dtype == np.uint8 and ours.shape == expected.shape
    difference = np.abs(ours.astype(int) - expected)
    # Pillow's weights are rounded, which decides exact halves, and so does the compiled kernel.
    assert difference.max() <= 1 and difference.mean() < (0.05 if way == "compiled" else 0.01)


def test_a_resize_keeps_plain_colours_and_images_that_have_the_size(way):
    plain = np.full((48, 64, 3), (255, 0, 131), np.uint8)
    for name in FILTERS:
        for target in ((64, 48), (31, 90), (500, 7)):
            assert (resize(plain, target, name) == (255, 0, 131)).all()
    assert resize(plain, (64, 48), "bicubic") is plain


def test_halves_are_rounded_up_and_overshoots_cut_off(way):
    rows = np.array([0, 1, 1, 4, 4, 5], np.uint8)
    # Away from the border two rows become one with the weights 1/8, 3/8, 3/8, 1/8.
    halved = resize(np.broadcast_to(rows[:, None, None], (6, 4, 3)).copy(), (4, 3), "bilinear")
    assert halved[1, 0, 0] == int((1 + 3 * 1 + 3 * 4 + 4) / 8 + 0.5) == 3
    edge = np.zeros((20, 20, 3), np.uint8)
    edge[:, 10:] = 255
    assert set(np.unique(resize(edge, (33, 20), "bicubic")[:, [0, -1]])) == {0, 255}


# ---- impossible cameras


@pytest.mark.parametrize(
    ("model", "seen_by", "said"),
    [
        ("depthlm-12b without resize", camera(640, 480, 40.0), "12000 x 8992 pixels"),
        ("depthlm-12b without resize", camera(64, 8, 525.0), "80 x 0 pixels"),
        ("vlm3-depth", camera(3000, 10, 1000.0), "3000 x 10, longer than 200 times"),
        ("vlm3-pose", camera(640, 480, 1e-9, 1e9), "longer than 200 times"),
    ],
)
def test_a_camera_whose_image_would_be_unusable_is_refused_with_its_numbers(model, seen_by, said):
    name, _, without_resize = model.partition(" ")
    rule = find_spec(name).canvas
    with pytest.raises(BadIntrinsics, match=re.compile(said)):
        fitted_view(seen_by, apply_size_rule(rule, SizeRule(False, 16)) if without_resize else rule)


# ---- which pixel is asked about


def placed(camera, rule):
    return CanvasPlacement(
        Frame(np.zeros((camera.height_px, camera.width_px, 3), np.uint8), camera), fitted_view(camera, rule)
    )


@pytest.mark.parametrize("model", ["depthlm-12b", "depthlm-7b", "vlm3-depth"])
@pytest.mark.parametrize("seen_by", CAMERAS.values(), ids=CAMERAS)
def test_as_released_fractions_are_cut_off_as_in_depthlms_code(seen_by, model):
    rule = find_spec(model).canvas
    uv_px = np.random.default_rng(2).integers(0, np.array(seen_by.size_px), (500, 2)).astype(float)
    # The lines of its dataset_eval, utils/datasets.py.
    s = rule.focal_px / seen_by.fx_px
    new = [value * s for value in (seen_by.fx_px, seen_by.fy_px, seen_by.cx_px, seen_by.cy_px)]
    released = [
        (
            int((u - seen_by.cx_px) * (new[0] / seen_by.fx_px) + new[2]),
            int((v - seen_by.cy_px) * (new[1] / seen_by.fy_px) + new[3]),
        )
        for u, v in uv_px.tolist()
    ]
    found = placed(seen_by, rule.as_released()).uv_in(PICTURE, uv_px)
    assert found.tolist() == [[float(u), float(v)] for u, v in released]
    by_default = placed(seen_by, rule).uv_in(PICTURE, uv_px)
    exact = fitted_view(seen_by, rule).picture.uv_to_canvas(uv_px)
    assert np.array_equal(by_default, exact) and (np.floor(exact + 0.5) != found).any()


def test_vlm3s_coordinates_are_those_of_its_samples():
    """From sample_data/depth_labels.json and pixel_corr_labels.json of its repository."""
    frame = placed(camera(1215, 920, 1000.0), find_spec("vlm3-depth").canvas.as_released())
    for pixel, (nx, ny) in (((10, 488), (16, 1061)), ((191, 119), (314, 259)), ((1182, 773), (1946, 1680))):
        ((u, v),) = frame.uv_in(PICTURE, np.array([pixel]))
        assert f"({nx}, {ny})" in point_question(u, v, frame.size_in(PICTURE))
    frame = placed(camera(600, 400, 431.0), find_spec("vlm3-corr").canvas.as_released())
    pixels = np.array([(264.0, 24.0), (176.0, 32.0), (202.85787963867188, 20.815250396728516)])
    scaled = frame.uv_in(PICTURE, pixels)
    np.testing.assert_allclose(scaled, [(450.56, 40.96), (300.373, 54.613), (346.211, 35.525)], atol=1e-3)
    # Height 683 is rounded, so that rows are not 1000 * v / 400 exactly.
    normalised = scaled / frame.size_in(PICTURE) * 1000
    np.testing.assert_allclose(normalised, [(440.0, 59.971), (293.333, 79.961), (338.096, 52.013)], atol=1e-3)
    np.testing.assert_allclose(frame.uv_from(PICTURE, scaled), pixels, atol=1e-9)
    assert "(440, 60)" in Vlm3Corr().match_prompt(*scaled[0], frame.size_in(PICTURE)).text


@pytest.mark.parametrize("model", MODELS)
def test_by_default_a_pixel_is_asked_about_where_the_picture_shows_it(model):
    seen_by = CAMERAS["odd size"]
    frame = placed(seen_by, find_spec(model).canvas)
    at = np.array([[100.0, 77.0]])
    v, u = np.mgrid[: seen_by.height_px, : seen_by.width_px]
    dot = (250 * np.exp(-((u - 100) ** 2 + (v - 77) ** 2) / 18)).astype(np.uint8)
    shown = CanvasPlacement(Frame(np.repeat(dot[..., None], 3, axis=2), seen_by), frame.canonical)
    for name, image in ((PICTURE, shown.picture), (CANVAS, shown.canvas)):
        values = image[..., 0].astype(float)
        rows, columns = np.indices(values.shape)
        centre = [(columns * values).sum() / values.sum(), (rows * values).sum() / values.sum()]
        np.testing.assert_allclose(shown.uv_in(name, at)[0], centre, atol=0.1)
        np.testing.assert_allclose(shown.uv_from(name, shown.uv_in(name, at)), at, atol=1e-9)
        assert shown.size_in(name) == (image.shape[1], image.shape[0])


def test_qwens_processor_limits_cameras_of_any_focal_length():
    rule = find_spec("vlm3-depth").canvas
    for fx_px in (100.0, 1e4, 1e9):
        width, height = fitted_view(camera(640, 480, fx_px), rule).canvas_size_px
        assert rule.least_pixels <= width * height <= rule.most_pixels


@pytest.mark.parametrize("model", ["depthlm-12b", "depthvlm-4b", "vlm3-depth"])
@pytest.mark.parametrize("fx", [1e-3, 0.82, 3.6], ids=["metres", "share of the width", "millimetres"])
def test_a_focal_length_in_another_unit_is_refused_before_memory_is_taken(model, fx):
    """The processor would limit the canvas, but only after the picture."""
    with pytest.raises(BadIntrinsics, match=r"fx = [\d.]+, .* first be enlarged to \d+ x \d+; .* are in pixels"):
        fitted_view(camera(640, 480, fx), find_spec(model).canvas)

# SPDX-License-Identifier: Apache-2.0
"""The pixels that reach a network equal those of the released code: Pillow's steps and transformers' own processors."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("PIL")

from PIL import Image
from support.released_pixels import (
    BACKENDS,
    CAMERAS,
    across_first,
    camera,
    checkpoint_rule,
    gradient_rms,
    photograph,
    released_canvas,
    released_picture,
    synthetic,
    torch_resize,
)

from depthlm_ros.core import Frame
from depthlm_ros.geometry.canonical_view import PICTURE, CanvasPlacement, fitted_view
from depthlm_ros.geometry.resize_rules import process_picture, resize
from depthlm_ros.geometry.visual_prompt import RED, draw_markers

pytestmark = pytest.mark.torch
SYSTEMS = ("depthlm-12b", "depthlm-7b", "depthvlm-4b", "vlm3-corr", "vlm3-depth", "qwen2.5-vl-3b")
MOST_MEAN, MOST_DIFFERENCE, MOST_GRADIENT = 0.1, 3, 0.01
FILTERS = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}


def needed_photograph(seen_by, index=0):
    image = photograph(seen_by, index)
    if image is None:
        pytest.skip("the photographs of iBims-1 are not here")
    return image


def assert_same_pixels(ours, released):
    assert ours.shape == released.shape
    difference = np.abs(ours.astype(int) - released)
    assert difference.mean() <= MOST_MEAN and difference.max() <= MOST_DIFFERENCE
    assert gradient_rms(ours) == pytest.approx(gradient_rms(released), rel=MOST_GRADIENT)


def placed(image, seen_by, rule):
    return CanvasPlacement(Frame(np.asarray(image), seen_by), fitted_view(seen_by, rule))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if CAMERAS[name].width_px > 1700 else []) for name in CAMERAS],
)
def test_photographs_of_every_camera_have_the_released_pixels(tmp_path, name):
    seen_by = CAMERAS[name]
    image = needed_photograph(seen_by, list(CAMERAS).index(name))
    for system in SYSTEMS[:4]:
        frame = placed(image, seen_by, checkpoint_rule(system, tmp_path))
        picture = released_picture(image, seen_by, system)
        assert_same_pixels(frame.picture, np.asarray(picture))
        for backend in BACKENDS:
            assert_same_pixels(frame.canvas, released_canvas(picture, system, backend))


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("seen_by", [camera(320, 240, 300.0), camera(240, 321, 500.0, 520.0)], ids=["small", "tall"])
def test_a_synthetic_image_has_the_released_pixels(tmp_path, seen_by, system):
    image = synthetic(seen_by)
    frame = placed(image, seen_by, checkpoint_rule(system, tmp_path))
    picture = released_picture(image, seen_by, system)
    assert_same_pixels(frame.picture, np.asarray(picture))
    for backend in BACKENDS:
        assert_same_pixels(frame.canvas, released_canvas(picture, system, backend))


def test_nyus_pictures_give_depthvlm_1102_tokens(tmp_path):
    seen_by = CAMERAS["NYUv2"]
    frame = placed(synthetic(seen_by), seen_by, checkpoint_rule("depthvlm-4b", tmp_path))
    assert frame.picture.shape == (925, 1233, 3)
    assert frame.canvas.shape == (29 * 32, 38 * 32, 3) and 29 * 38 == 1102


def test_the_real_processor_of_depthlm_12b_gives_2214_patches(tmp_path):
    seen_by = camera(640, 480, 560.0)
    frame = placed(synthetic(seen_by), seen_by, checkpoint_rule("depthlm-12b", tmp_path))
    assert frame.picture.shape == (642, 857, 3) and frame.canvas.shape == (656, 864, 3)
    assert 656 * 864 // 256 == 2214


@pytest.mark.parametrize("system", ["depthlm-12b", "depthlm-7b"])
@pytest.mark.parametrize("pixel_rule", ["centre", "truncate"])
def test_an_arrow_goes_through_the_processor_as_in_the_released_code(tmp_path, system, pixel_rule):
    seen_by = camera(640, 480, 560.0)
    image, rule = synthetic(seen_by), checkpoint_rule(system, tmp_path)
    rule = rule.as_released() if pixel_rule == "truncate" else rule
    assert rule.pixel_rule == pixel_rule
    frame = placed(image, seen_by, rule)
    uv_px = frame.uv_in(PICTURE, np.array([[301.0, 207.0]]))
    marked = draw_markers(frame.picture, uv_px)
    picture = released_picture(image, seen_by, system)
    u, v = np.floor(uv_px[0] + 0.5).astype(int)
    for at in [(u - k, v) for k in range(1, 6)] + [(u - k - 1, v + s * k) for k in (1, 2) for s in (1, -1)]:
        picture.putpixel(tuple(map(int, at)), RED)
    canvas = process_picture(marked, rule)
    assert (marked == RED).all(2).sum() == 9
    assert 1 <= (canvas == RED).all(2).sum() < 9  # drawn after the processor, all nine would be pure
    for backend in BACKENDS:
        assert_same_pixels(canvas, released_canvas(picture, system, backend))


@pytest.mark.slow
@pytest.mark.parametrize("system", ["depthlm-12b", "depthvlm-4b"])
def test_nothing_jumps_between_neighbouring_focal_lengths(tmp_path, system):
    """Sharpness changes with the scale, but by as much as in the released code."""
    rule = checkpoint_rule(system, tmp_path)
    image = needed_photograph(camera(1920, 1080, 1000.0))
    shares = []
    for fx_px in np.geomspace(400, 2000, 20):
        seen_by = camera(1920, 1080, float(fx_px))
        released = released_canvas(released_picture(image, seen_by, system), system, "pillow")
        shares.append(gradient_rms(placed(image, seen_by, rule).canvas) / gradient_rms(released))
    assert np.abs(np.diff(shares)).max() < 0.02 and np.abs(np.array(shares) - 1).max() < MOST_GRADIENT


@pytest.mark.parametrize("fx_px", [480.0, 700.0, 1000.0, 1300.0, 1495.0, 1900.0])
def test_nearly_equal_cameras_see_nearly_the_same(tmp_path, fx_px):
    """At a focal length between these pairs a resize by whole blocks of pixels would switch to larger blocks."""
    rule = checkpoint_rule("depthlm-12b", tmp_path)
    image = synthetic(camera(960, 540, 1.0))
    pair = [camera(960, 540, fx_px / 2 * factor) for factor in (0.995, 1.005)]
    one, other = (gradient_rms(placed(image, seen_by, rule).canvas) for seen_by in pair)
    assert one == pytest.approx(other, rel=0.02)


# ---- one step


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(
    ("size", "target"),
    [
        ((200, 150), (200, 150)),
        ((200, 150), (100, 75)),  # weights of quarters: exact halves are frequent, and Pillow rounds them up
        ((200, 150), (400, 300)),
        ((200, 150), (200, 77)),
        ((200, 150), (333, 150)),
        ((200, 150), (17, 500)),
        ((2, 3), (50, 40)),
        ((300, 200), (1, 1)),
    ],
)
def test_one_step_equals_pillow_and_torch(name, size, target, way):
    """(Pillow before version 13: see support/released_pixels.py.) The compiled kernel equals it bit for bit."""
    rgb = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    rgb[::3] = 255  # the filter overshoots at both ends
    rgb[1::3, ::2] = 0
    ours = resize(rgb, target, name)
    image = Image.fromarray(rgb)
    from_pillow = (0, 1e-9) if way == "compiled" else (1, 0.01)
    for theirs, most, mean in ((across_first, *from_pillow), (torch_resize, 2, 0.1)):
        difference = np.abs(ours.astype(int) - np.asarray(theirs(image, target, FILTERS[name])))
        assert difference.max() <= most and difference.mean() < mean

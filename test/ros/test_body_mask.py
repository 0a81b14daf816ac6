# SPDX-License-Identifier: Apache-2.0
"""The robot's own body: no depth there, in no form, and a mask that cannot be meant is refused with a reason."""

import os

import cv2
import numpy as np
import pytest
from support.paths import TINY
from test_frame_processing import HEIGHT, WIDTH, image_with, info

from depthlm_ros.core import Question
from depthlm_ros.errors import BadInput, BadQuestion
from depthlm_ros.model import load_model
from depthlm_ros.ros.body_mask import read_body_mask
from depthlm_ros.ros.frame_processing import FrameProcessor, cached_cloud_builder, rectified_frame
from depthlm_ros.ros.parameters import BadParameter
from depthlm_ros.ros.statistics import ProblemLog


@pytest.fixture(scope="module")
def model():
    if not TINY.is_dir():
        pytest.skip("engines/tiny is not here: `make train` makes it")
    return load_model("tiny", threads=1)


def body() -> np.ndarray:
    """bool (H, W): the robot in the lower left corner of the image."""
    is_body = np.zeros((HEIGHT, WIDTH), bool)
    is_body[80:, :70] = True
    return is_body


def mask_at(folder, pixels: np.ndarray | None = None, name: str = "body mask é.png") -> str:
    pixels = 255 * body().astype(np.uint8) if pixels is None else pixels
    path = folder / name
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    return str(path)


def view_of(model, mask, calibration=None, is_rectified=False):
    processor = FrameProcessor(model, False, is_rectified, ProblemLog(lambda line: None), mask=mask)
    return processor.process(image_with(calibration or info())).view


def test_body_has_no_depth_no_deviation_and_no_points(model, tmp_path):
    view = view_of(model, read_body_mask(mask_at(tmp_path)))
    depth = view.depth()
    assert np.array_equal(np.isnan(depth.depth_m), body()) and np.array_equal(np.isnan(depth.std_m), body())
    cloud = cached_cloud_builder(view.frame.intrinsics, 1, 0.0, 100.0).build(depth.depth_m, view.frame.rgb)
    assert np.array_equal(np.isnan(cloud[..., :3]).all(axis=-1), body())
    uv_px = np.array([[20.0, 100.0], [100.0, 20.0]])
    for depths in (view.depth_at(uv_px), view.tell_depth_at(uv_px)):
        assert np.isnan(depths.depth_m[0]) and np.isfinite(depths.depth_m[1])


def test_no_answer_measures_at_the_body(model, tmp_path):
    view = view_of(model, read_body_mask(mask_at(tmp_path)))
    with pytest.raises(BadQuestion, match="masked"):
        view.ask("How far is this point?", [[20.0, 100.0]])
    for answer in view.ask_all([Question("How far is the table?"), Question("How far is the floor?")]):
        for points_m in (answer.points_m, *(each.points_m for each in answer.measurements)):
            camera = view.frame.intrinsics
            known = points_m[np.isfinite(points_m).all(axis=1)]
            u = np.rint(known[:, 0] / known[:, 2] * camera.fx_px + camera.cx_px).astype(int)
            v = np.rint(known[:, 1] / known[:, 2] * camera.fy_px + camera.cy_px).astype(int)
            inside = (u >= 0) & (u < WIDTH) & (v >= 0) & (v < HEIGHT)
            assert not body()[v[inside], u[inside]].any()


def test_mask_is_rectified_with_the_image(model, tmp_path):
    lens = info(d=(-0.3, 0.0, 0.0, 0.0, 0.0))
    mask = read_body_mask(mask_at(tmp_path))
    seen = view_of(model, mask, lens).frame.seen
    without = view_of(model, None, lens).frame.seen
    rgb = np.repeat(255 * body().astype(np.uint8)[..., None], 3, axis=-1)
    drawn = FrameProcessor(model, False, False, ProblemLog(lambda line: None)).process(image_with(lens, rgb)).view.frame
    assert (drawn.rgb[..., 0] > 0).any() and not seen[drawn.rgb[..., 0] == 255].any()
    outside = np.ones_like(seen) if without is None else without
    assert np.array_equal(seen, outside & (drawn.rgb[..., 0] == 0))
    assert np.array_equal(view_of(model, mask, lens, is_rectified=True).frame.seen, ~body())


def test_earlier_images_of_the_stream_are_masked_too(tmp_path):
    frame = rectified_frame(image_with(info()).message, info(), False, mask=read_body_mask(mask_at(tmp_path)))
    assert np.array_equal(frame.seen, ~body())


def test_mask_of_another_size_costs_the_frames_and_says_both_sizes(model, tmp_path):
    mask = read_body_mask(mask_at(tmp_path, np.eye(64, dtype=np.uint8) * 255))
    for _ in range(2):
        with pytest.raises(BadInput, match=r"64 x 64 but the images are 160 x 120"):
            view_of(model, mask)


GREY = 255 * body().astype(np.uint8)
COLOUR = np.stack([GREY, np.zeros_like(GREY), np.zeros_like(GREY)], axis=-1)
TRANSPARENT = np.dstack([np.full((HEIGHT, WIDTH, 3), 255, np.uint8), GREY])


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("grey.png", GREY),
        ("colour.png", COLOUR),
        ("sixteen.png", GREY.astype(np.uint16) * 257),
        ("transparent.png", TRANSPARENT),
        ("photo.jpg", cv2.merge([GREY] * 3)),
    ],
)
def test_mask_is_read_in_every_form_that_paint_programs_write(tmp_path, name, pixels):
    mask = read_body_mask(mask_at(tmp_path, pixels, name))
    wrong = (mask.body > 0) != body()
    assert wrong.mean() < (0.02 if name.endswith("jpg") else 1e-9)
    assert mask.share == pytest.approx(body().mean(), abs=0.02)


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (None, "No such file"),
        (b"", "0 bytes are no complete picture"),
        (b"no picture at all", "are no complete picture"),
        (cv2.imencode(".png", GREY)[1].tobytes()[:60], "are no complete picture"),
        (cv2.imencode(".png", np.zeros((9, 9), np.uint8))[1].tobytes(), "no pixel of it is white"),
        (cv2.imencode(".png", body().astype(np.uint8))[1].tobytes(), "no pixel of it is white"),  # 0 and 1
        (cv2.imencode(".png", np.full((9, 9), 255, np.uint8))[1].tobytes(), "every pixel of it is white"),
    ],
)
def test_file_that_cannot_be_a_mask_is_refused_with_its_name_and_advice(tmp_path, content, advice):
    path = tmp_path / "mask.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadParameter, match=advice) as caught:
        read_body_mask(str(path))
    assert "mask_file" in str(caught.value) and str(path) in str(caught.value)


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "mask.png")
    with pytest.raises(BadParameter, match="not an ordinary file"):
        read_body_mask(str(tmp_path / "mask.png"))


def test_folder_is_refused_and_no_path_means_no_mask(tmp_path):
    with pytest.raises(BadParameter, match="cannot be read"):
        read_body_mask(str(tmp_path))
    assert read_body_mask("") is None

# SPDX-License-Identifier: Apache-2.0
"""Protocols nyu-eigen and kitti-eigen: crops, limits, what the model sees of KITTI, means over images."""

import json

import cv2
import numpy as np
import pytest
from support.checkered_room import render_room

from depthlm_ros.core import DepthMap, Frame, Intrinsics, PointDepths
from depthlm_ros.data.records import BadRecord
from depthlm_ros.errors import BadInput
from depthlm_ros.eval.depth import DepthEvalOptions, read_labels
from depthlm_ros.eval.eigen_splits import SPLITS, eigen_judge
from depthlm_ros.eval.judges import evaluate
from depthlm_ros.eval.report import make_report

NYU = Intrinsics(518.86, 519.47, 325.58, 253.74, 640, 480)
KITTI = Intrinsics(721.54, 721.54, 609.56, 172.85, 1242, 375)


class Constant:
    """A model that sees the same depth everywhere, and notes the frames that it sees."""

    def __init__(self, depth_m):
        self.depth_m, self.frames = depth_m, []

    def __call__(self, frame):
        self.frames.append(frame)
        return View(frame, self.depth_m)


class View:
    def __init__(self, frame, depth_m):
        self.frame, self.depth_m = frame, depth_m

    def depth(self):
        shape = self.frame.rgb.shape[:2]
        return DepthMap(np.full(shape, self.depth_m, np.float32), self.frame.intrinsics)

    def depth_at(self, uv_px):
        assert (uv_px >= 0).all() and (uv_px < self.frame.intrinsics.size_px).all()
        return PointDepths(uv_px, np.full(len(uv_px), self.depth_m), np.full(len(uv_px), np.nan))


def write_maps(folder, camera, maps_m):
    """Writes pictures with these depth maps in DepthVLM's schema."""
    lines = []
    for number, map_m in enumerate(maps_m):
        cv2.imwrite(str(folder / f"{number}.png"), render_room(camera)[0][..., ::-1])
        np.save(folder / f"{number}.npy", map_m.astype(np.float32))
        size = list(camera.size_px)
        fields = {"image": f"{number}.png", "depth_path": f"{number}.npy", "depth_scale": 1.0}
        sizes = {"original_rgb_size": size, "original_depth_size": size, "original_fx": camera.fx_px}
        lines.append(json.dumps(fields | sizes | {"intrinsics": list(vars(camera).values())}))
    path = folder / "labels.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def score(path, protocol, model):
    labels = read_labels(path, DepthEvalOptions(protocol))
    return make_report(evaluate(eigen_judge(model, SPLITS[protocol]), labels).results, protocol)


def test_nyu_counts_the_pixels_of_eigens_crop_with_depths_below_10_m(tmp_path):
    map_m = np.full((480, 640), 4.0)
    map_m[:240] = 12.0  # Beyond the limit.
    map_m[300, 300:310] = 0.0  # Unknown.
    report = score(write_maps(tmp_path, NYU, [map_m]), "nyu-eigen", Constant(4.4))
    assert report.scores.n == (471 - 240) * (601 - 41) - 10
    assert report.scores.delta1 == 1.0 and report.scores.absrel == pytest.approx(0.1)


def test_scores_are_means_over_images_and_predictions_are_limited(tmp_path):
    near, far = np.full((480, 640), 2.0), np.full((480, 640), 8.0)
    far[:, 320:] = 0.0  # The second image has half of the pixels.
    report = score(write_maps(tmp_path, NYU, [near, far]), "nyu-eigen", Constant(np.inf))
    assert report.absrel_image_mean == pytest.approx((8 / 2 + 2 / 8) / 2)
    assert report.rmse_image_mean_m == pytest.approx((8 + 2) / 2)
    assert report.scores.parse_failures == 0 and report.delta1 == 0.0
    unknown = score(tmp_path / "labels.jsonl", "nyu-eigen", Constant(np.nan))
    assert unknown.rmse_image_mean_m == pytest.approx((2 + 8) / 2 - 1e-3, abs=1e-5)


def test_the_model_sees_the_lower_middle_of_a_kitti_image_with_its_camera(tmp_path):
    map_m = np.full((375, 1242), 20.0)
    model = Constant(20.0)
    report = score(write_maps(tmp_path, KITTI, [map_m]), "kitti-eigen", model)
    (frame,) = model.frames
    assert frame.intrinsics.size_px == (1216, 352)
    assert (frame.intrinsics.cx_px, frame.intrinsics.cy_px) == (pytest.approx(609.56 - 13), pytest.approx(172.85 - 23))
    assert report.scores.n == (371 - 153) * (1197 - 44) and report.scores.delta1 == 1.0
    whole = Frame(np.zeros((375, 1242, 3), np.uint8), KITTI)
    whole.rgb[23, 13] = 255
    part, left, top = SPLITS["kitti-eigen"].seen(whole)
    assert (left, top) == (13, 23) and part.rgb[0, 0].tolist() == [255] * 3


def test_a_map_of_another_size_than_nyus_is_left_out(tmp_path):
    small = Intrinsics(280.0, 282.0, 161.0, 118.5, 320, 240)
    labels = write_maps(tmp_path, small, [np.full((240, 320), 2.0)])
    with pytest.raises(BadInput, match="needs the original 640 x 480"):
        score(labels, "nyu-eigen", Constant(2.0))
    with pytest.raises(BadRecord):
        SPLITS["nyu-eigen"].crop((240, 320))


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match="not that of a released evaluation"):
        DepthEvalOptions("nyu-eigen", as_released=True)
    with pytest.raises(BadInput, match="scores depth maps, not answers in words"):
        DepthEvalOptions("kitti-eigen", points="words")

# SPDX-License-Identifier: Apache-2.0
"""Evaluation of whole depth maps: limits, masks, sizes, edges, and flying pixels between two surfaces."""

import json
import math

import cv2
import numpy as np
import pytest
from support.checkered_room import CAMERA, WALL_M, render_room
from support.label_files import write_maps

from depthlm_ros.core import DepthMap, PointDepths
from depthlm_ros.errors import BadInput, BadQuestion
from depthlm_ros.eval.depth import DepthEvalOptions, evaluate_depth
from depthlm_ros.eval.judges import SAMPLE_PIXELS, evaluate, map_judge, read_map_records, sample_known_pixels
from depthlm_ros.eval.metrics import EdgeCounts, count_edges, count_flying_pixels, score_edges
from depthlm_ros.eval.report import make_report
from depthlm_ros.eval.result_file import ImageResult, ResultStore


class FixedDepth:
    """A model that answers every image with the same depth map and a deviation of a tenth of it."""

    def __init__(self, depth_m):
        self.depth_m = np.asarray(depth_m, np.float32)

    def __call__(self, frame):
        self.frame = frame
        return self

    def depth(self):
        return DepthMap(self.depth_m, self.frame.intrinsics)

    def depth_at(self, uv_px):
        u, v = np.rint(uv_px).astype(int).T
        return PointDepths(uv_px, self.depth_m[v, u], self.depth_m[v, u] / 10)


def report_of(path, depth_m):
    evaluation = evaluate(map_judge(FixedDepth(depth_m)), read_map_records(path))
    return make_report(evaluation.results, "dense", evaluation.left_out)


@pytest.fixture
def room_m():
    return render_room()[1]


def test_every_pixel_counts_and_the_true_map_has_a_perfect_score(tmp_path, room_m):
    report = report_of(write_maps(tmp_path, [room_m]), room_m)
    assert (report.scores.n, report.delta1, report.scores.parse_failures) == (320 * 240, 1.0, 0)
    assert report.scores.absrel < 1e-3  # the file has millimetres


def test_scores_are_over_all_pixels_and_reliability_over_a_sample(tmp_path, room_m):
    report = report_of(write_maps(tmp_path, [room_m]), 1.1 * room_m)
    assert report.scores.absrel == pytest.approx(0.1, abs=1e-3)
    assert report.aligned.absrel == pytest.approx(0.0, abs=1e-3)
    assert report.reliability.n == SAMPLE_PIXELS
    # Errors are 10 % of the truth, deviations 11 %.
    assert report.reliability.within_1std == 1.0


def test_headline_weighs_images_equally_and_an_image_without_truth_scores_zero(tmp_path, room_m):
    path = write_maps(tmp_path, [room_m, 0 * room_m, 2 * room_m])
    report = report_of(path, room_m)
    assert report.delta1 == pytest.approx(1 / 3)
    assert report.scores.delta1 == pytest.approx(1 / 2, abs=0.01)
    assert report.as_dict()["images_without_truth"] == 1 and "1 of the images have no known depth" in report.table()


def test_pixels_beyond_the_limits_of_the_data_set_or_masked_do_not_count(tmp_path, room_m):
    mask = np.zeros(room_m.shape, np.uint8)
    mask[:, :160] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    masked = report_of(write_maps(tmp_path, [room_m], mask_valid_path="mask.png"), room_m)
    assert masked.scores.n == 160 * 240
    capped = report_of(write_maps(tmp_path, [room_m], caps_m=[0.05, WALL_M - 0.01]), room_m)
    assert capped.scores.n == np.count_nonzero(np.round(room_m, 3) <= WALL_M - 0.01)
    by_name = report_of(write_maps(tmp_path, [room_m + 8.0], name="sunrgbd.jsonl"), room_m)  # at most 8 m
    assert (by_name.scores.n, by_name.delta1) == (0, 0.0)


def test_true_map_of_another_size_is_compared_at_its_own_size(tmp_path, room_m):
    small_m = cv2.resize(room_m, (160, 120), interpolation=cv2.INTER_AREA)
    report = report_of(write_maps(tmp_path, [small_m]), room_m)
    assert report.scores.n == 160 * 120
    assert report.scores.delta1 > 0.99


def test_distances_along_the_ray_are_converted_to_depths_along_the_axis(tmp_path, room_m):
    u, v = np.meshgrid(np.arange(320), np.arange(240))
    slopes = np.hypot((u - CAMERA.cx_px) / CAMERA.fx_px, (v - CAMERA.cy_px) / CAMERA.fy_px)
    path = write_maps(tmp_path, [room_m * np.hypot(1, slopes)], depth_type="range")
    assert report_of(path, room_m).scores.absrel < 1e-3


def test_pixels_without_a_prediction_are_wrong(tmp_path, room_m):
    path = write_maps(tmp_path, [room_m])
    room_m[:120] = np.nan
    report = report_of(path, room_m)
    assert (report.delta1, report.scores.parse_failures) == (0.5, 160 * 240)


def test_damaged_or_missing_map_is_left_out_and_named(tmp_path, room_m):
    path = write_maps(tmp_path, [room_m, room_m])
    (tmp_path / "1_depth.png").write_bytes(b"no picture")
    report = report_of(path, room_m)
    assert report.images == 1 and report.as_dict()["left_out"] == {"depth map unusable": 1}
    line = {"image": "0.png", "intrinsics": list(vars(CAMERA).values()), "pixel_coords": [[1, 1]], "depth": [1.0]}
    path.write_text(json.dumps(line), encoding="utf-8")
    with pytest.raises(BadInput, match="no usable record with a depth map"):
        read_map_records(path)


def test_same_seed_samples_the_same_pixels_and_only_known_ones(room_m):
    room_m[:, ::2] = np.nan
    one, again, other = sample_known_pixels(room_m, 1), sample_known_pixels(room_m, 1), sample_known_pixels(room_m, 2)
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    assert len(one) == SAMPLE_PIXELS and np.isfinite(room_m[one[:, 1], one[:, 0]]).all()


def step_m(near_m=1.0, far_m=2.0, size=21):
    """Returns a map with a near surface left of column 10 and a far surface from there on."""
    depth_m = np.full((size, size), near_m)
    depth_m[:, 10:] = far_m
    return depth_m


def test_edges_between_the_same_pixels_match_at_any_scale():
    found = score_edges(count_edges(3 * step_m(), step_m()))
    assert (found.f1, found.precision, found.recall, found.flying_share) == pytest.approx((1.0, 1.0, 1.0, 0.0))


def test_edge_that_is_shifted_by_a_pixel_does_not_match():
    assert score_edges(count_edges(np.roll(step_m(), 1, axis=1)[:, 1:], step_m()[:, 1:])).f1 == 0.0


def test_edge_in_the_wrong_direction_does_not_match():
    assert score_edges(count_edges(step_m(2.0, 1.0), step_m())).f1 == 0.0


def test_flat_prediction_has_no_recall_and_flat_truth_gives_no_precision():
    assert score_edges(count_edges(np.ones((21, 21)), step_m())).recall == 0.0
    found = score_edges(count_edges(step_m(), np.ones((21, 21))))
    assert found.precision == 0.0 and math.isnan(found.recall) and math.isnan(found.f1)


def test_prediction_with_twice_the_edges_has_half_the_precision():
    invented_m = step_m()
    invented_m[:, :3] = 0.5
    found = score_edges(count_edges(invented_m, step_m()))
    assert (found.precision, found.recall) == pytest.approx((0.5, 1.0))
    assert found.f1 == pytest.approx(2 / 3)


def test_unknown_true_depth_makes_no_edge():
    true_m = step_m()
    true_m[:, 10] = np.nan
    counts = count_edges(step_m(), true_m)
    assert counts.true.sum() == 0 == counts.matched.sum()


def test_ramp_across_an_edge_consists_of_flying_pixels():
    ramp_m = step_m()
    ramp_m[:, 9:11] = math.sqrt(2)
    # Two columns on either side are beside the edge, and the middle ones of these fly.
    assert count_flying_pixels(ramp_m, step_m()) == (4 * 21, 2 * 21)
    assert count_flying_pixels(step_m(), step_m()) == (4 * 21, 0)


def test_true_slope_has_no_flying_pixels():
    slope_m = np.tile(np.geomspace(1, 8, 21), (21, 1))
    assert count_flying_pixels(slope_m, slope_m)[1] == 0


def test_edge_counts_can_be_added_and_written_as_json():
    counts = count_edges(step_m(), step_m()) + count_edges(np.ones((21, 21)), step_m())
    assert score_edges(counts).recall == pytest.approx(0.5)
    again = EdgeCounts.from_list(json.loads(json.dumps(counts.as_list())))
    assert score_edges(again) == score_edges(counts)


def test_image_results_can_be_written_as_json(tmp_path, room_m):
    room_m[:9] = np.nan
    (result,) = evaluate(
        map_judge(FixedDepth(room_m)), read_map_records(write_maps(tmp_path, [render_room()[1]]))
    ).results
    again = ImageResult.from_dict(result.where, json.loads(json.dumps(result.as_dict())))
    assert again.raw == result.raw and again.aligned == result.aligned
    np.testing.assert_array_equal(again.predicted_m, result.predicted_m)


def test_embedded_model_is_scored_on_whole_maps(tmp_path, room_m):
    from support.scripted_backend import TOKENIZER, scripted_model

    if not TOKENIZER.is_file():
        pytest.skip("engines/tiny is missing: run make train")
    from depthlm_ros.model import load_model

    path = write_maps(tmp_path, [room_m])
    report = evaluate_depth(path, load_model("tiny"), DepthEvalOptions("dense", baselines=True), ResultStore())
    assert report.scores.n == 320 * 240 and 0 <= report.delta1 <= 1
    assert report.boundary.beside >= 0 and report.reliability.n == SAMPLE_PIXELS
    assert set(report.baselines) == {"constant 2 m", "best constant", "per-row prior"}
    with pytest.raises(BadQuestion, match="no dense depth"):
        evaluate_depth(path, scripted_model("vlm3-depth", str), DepthEvalOptions("dense"), ResultStore())

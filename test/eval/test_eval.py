# SPDX-License-Identifier: Apache-2.0
"""Evaluation of depth at labelled points, on images with exact depth and on real photographs if they are available."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from support.checkered_room import WALL_M, render_room, write_labels
from support.label_files import make_prediction
from support.paths import ROOT

from depthlm_ros.core import Frame
from depthlm_ros.errors import BadImage, BadInput, BadQuestion, UnknownName
from depthlm_ros.eval.depth import DepthEvalOptions, evaluate_depth
from depthlm_ros.eval.judges import evaluate, model_predictor, point_judge, read_point_records
from depthlm_ros.eval.report import make_report, report_predictions, score_baselines
from depthlm_ros.eval.result_file import ResultStore
from depthlm_ros.image_io import read_rgb

IBIMS = Path(os.environ.get("DEPTHLM_IBIMS", ROOT.parent / "shared" / "data" / "ibims1_dev")) / "labels.jsonl"


@pytest.fixture(scope="module")
def tiny():
    if not (ROOT / "engines" / "tiny").is_dir():
        pytest.skip("engines/tiny is missing: run make train")
    from depthlm_ros.model import load_model

    return load_model("tiny")


@pytest.fixture
def rooms(tmp_path):
    return read_point_records(write_labels(tmp_path))


def scores_of(predict, labels):
    evaluation = evaluate(point_judge(predict), labels)
    return make_report(evaluation.results, left_out=evaluation.left_out)


def true_depth_m(frame, uv_px):
    """Returns the true depth of room_0. The rooms differ only in the distance of the wall."""
    u, v = uv_px.astype(int).T
    return render_room(frame.intrinsics, WALL_M)[1][v, u]


def test_errors_of_ten_percent_give_delta1_one_and_absrel_one_tenth(rooms):
    report = scores_of(lambda frame, uv_px: make_prediction(1.1 * true_depth_m(frame, uv_px)), first_only(rooms))
    assert report.scores.delta1 == 1.0
    assert report.scores.absrel == pytest.approx(0.1, abs=1e-6)
    assert report.aligned.absrel == pytest.approx(0.0, abs=1e-6)
    assert (report.scores.n, report.images, report.left_out, report.refused) == (20, 1, (), ())


def first_only(labels):
    return type(labels)(labels.path, labels.records[:1], ())


def test_each_image_is_aligned_separately(rooms):
    scales = iter([0.5, 3.0])

    def predict(frame, uv_px):
        record = next(r for r in rooms.records if np.array_equal(r.uv_px, uv_px))
        return make_prediction(next(scales) * record.depth_m)

    report = scores_of(predict, rooms)
    assert report.scores.delta1 == 0.0
    assert report.aligned.delta1 == 1.0


def test_image_that_the_predictor_refuses_counts_as_wrong(rooms):
    def predict(frame, uv_px):
        if np.array_equal(uv_px, rooms.records[1].uv_px):
            raise BadImage("too wide")
        return make_prediction(rooms.records[0].depth_m)

    report = scores_of(predict, rooms)
    assert report.scores.delta1 == 0.5 == report.delta1_image_mean
    assert (report.scores.n, report.scores.parse_failures, report.scores.delta1_answered) == (40, 20, 1.0)
    assert str(report.refused[0]).endswith("labels.jsonl:2: too wide")


def ones(frame, uv_px):
    return make_prediction(np.ones(len(uv_px)))


def test_unreadable_image_is_left_out_and_named(rooms, tmp_path):
    (tmp_path / "room_1.png").write_bytes(b"no image")
    report = scores_of(ones, rooms)
    assert (report.images, report.scores.n) == (1, 20)
    assert report.as_dict()["left_out"] == {"image unusable": 1}
    assert "room_1.png" in str(report.left_out[0]) and ":2: " in str(report.left_out[0])


def test_labels_without_a_usable_image_are_an_error(rooms, tmp_path):
    for name in ("room_0.png", "room_1.png"):
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(BadInput, match="none of its 2 images is usable"):
        scores_of(ones, rooms)


def test_report_is_plain_json_with_the_keys_of_the_contract(rooms):
    report = scores_of(lambda frame, uv_px: make_prediction(np.full(len(uv_px), math.nan)), rooms)
    scores = json.loads(json.dumps(report.as_dict()))
    assert {"delta1", "absrel", "rmse", "n", "parse_failures", "seconds_per_image"} <= scores.keys()
    assert (scores["delta1"], scores["n"], scores["parse_failures"]) == (0.0, 40, 40)
    assert scores["reliability"] is None and scores["boundary"] is None


def test_reported_deviations_are_compared_with_the_errors(rooms):
    def predict(frame, uv_px):
        record = next(r for r in rooms.records if np.array_equal(r.uv_px, uv_px))
        return make_prediction(record.depth_m + 0.5, std_m=0.3)

    report = scores_of(predict, rooms).reliability
    assert (report.n, report.within_1std, report.within_2std) == (40, 0.0, 1.0)


def test_points_dense_reads_the_depth_map_at_the_labelled_pixels(tiny, rooms):
    record = rooms.records[0]
    frame = Frame(read_rgb(record.image), record.intrinsics)
    u, v = record.uv_px.astype(int).T
    predicted_m = model_predictor(tiny, "dense")(frame, record.uv_px).depth_m
    # The map at the size of the image is interpolated from the model's map, so the values differ a little.
    relative_error = np.abs(predicted_m / tiny.look(frame).depth().depth_m[v, u] - 1)
    assert np.median(relative_error) < 0.02


def test_points_words_asks_the_model_for_each_pixel(tiny, rooms):
    record = rooms.records[0]
    frame = Frame(read_rgb(record.image), record.intrinsics)
    predicted_m = model_predictor(tiny, "words")(frame, record.uv_px).depth_m
    np.testing.assert_array_equal(predicted_m, tiny.look(frame).tell_depth_at(record.uv_px).depth_m)
    assert predicted_m.shape == (20,)


def test_unknown_way_to_ask_for_points_is_refused(tiny):
    with pytest.raises(UnknownName, match=r"'guess'.*dense, words"):
        model_predictor(tiny, "guess")


def test_all_points_of_real_photographs_are_evaluated(tiny):
    if not IBIMS.is_file():
        pytest.skip(f"{IBIMS} is missing: set DEPTHLM_IBIMS to the folder of the iBims-1 subset")
    report = evaluate_depth(IBIMS, tiny, DepthEvalOptions(), ResultStore())
    assert (report.images, report.scores.n, report.left_out, report.refused) == (40, 4000, (), ())
    assert report.scores.parse_failures == 0
    assert report.floor.delta1 == pytest.approx(0.4225)
    assert 0.0 <= report.scores.delta1 <= 1.0
    assert report.reliability.n == 4000


def test_report_contains_the_scores_of_constant_answers():
    true_m = [np.array([1.0, 1.1, 4.0]), np.array([2.0, 2.1, 2.2])]
    scores = report_predictions(true_m, true_m, [0.1, 0.1]).as_dict()
    assert scores["delta1"] == scores["delta1_aligned"] == 1.0
    # Scaled to each image's median, a constant is correct except for the 4 m; 2 m is correct for the second image only.
    assert scores["constant_delta1_aligned"] == pytest.approx(5 / 6)
    assert scores["constant_2m_delta1"] == pytest.approx(3 / 6)


def test_baselines_are_scored_like_a_model_and_rows_predict_the_depth_of_a_floor(tmp_path):
    labels = read_point_records(write_labels(tmp_path, images=8, points=200))
    evaluation = evaluate(point_judge(ones), type(labels)(labels.path, labels.records, ()))
    rows = score_baselines(evaluation.results)
    assert list(rows) == ["constant 2 m", "best constant", "per-row prior"]
    two_m = scores_of(lambda frame, uv_px: make_prediction(np.full(len(uv_px), 2.0)), labels).scores
    assert (rows["constant 2 m"].scores.delta1, rows["constant 2 m"].scores.n) == (two_m.delta1, two_m.n)
    assert rows["constant 2 m"].scores.absrel == pytest.approx(two_m.absrel)
    # Low rows are near and high rows are far. The prior must know this without the labels of the image itself.
    assert rows["per-row prior"].scores.delta1 > rows["best constant"].scores.delta1 + 0.1
    assert rows["per-row prior"].scores.parse_failures == 0


def test_without_a_model_only_the_baselines_are_scored(tmp_path):
    report = evaluate_depth(write_labels(tmp_path), None, DepthEvalOptions(baselines=True), ResultStore())
    assert report.scores.parse_failures == report.scores.n == 40
    assert report.baselines["best constant"].scores.delta1 == report.floor.delta1 > 0


def test_model_that_cannot_say_depths_is_refused():
    from support.scripted_backend import TOKENIZER, scripted_model

    if not TOKENIZER.is_file():
        pytest.skip("engines/tiny is missing: run make train")
    with pytest.raises(BadQuestion, match=r"vlm3-corr cannot say.*use vlm3-depth"):
        model_predictor(scripted_model("vlm3-corr", str))

"""Evaluation on images with exact depth, and on real photographs where they are at hand."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from room import WALL_M, render_room, write_labels

from depthlm_ros.core import Frame
from depthlm_ros.errors import BadImage, BadInput, UnknownName
from depthlm_ros.eval.evaluate import evaluate, model_predictor
from depthlm_ros.eval.records import read_records
from depthlm_ros.eval.report import report
from depthlm_ros.imagefile import read_rgb

ROOT = Path(__file__).parents[1]
IBIMS = Path(os.environ.get("DEPTHLM_IBIMS", ROOT.parent / "shared" / "data" / "ibims1_dev")) / "labels.jsonl"


@pytest.fixture(scope="module")
def tiny():
    if not (ROOT / "engines" / "tiny").is_dir():
        pytest.skip("engines/tiny is not there: depthlm train and depthlm export make it")
    from depthlm_ros.model import load_model

    return load_model("tiny")


@pytest.fixture
def rooms(tmp_path):
    return read_records(write_labels(tmp_path))


def true_depth_m(frame, uv_px):
    """The right answer for room_0: the wall's distance is the only thing that differs between the rooms."""
    u, v = uv_px.astype(int).T
    return render_room(frame.intrinsics, WALL_M)[1][v, u]


def test_right_answers_score_one_and_wrong_ones_by_how_wrong_they_are(rooms):
    report = evaluate(lambda frame, uv_px: 1.1 * true_depth_m(frame, uv_px), read_first(rooms))
    assert report.scores.delta1 == 1.0
    assert report.scores.absrel == pytest.approx(0.1)
    assert report.aligned.absrel == pytest.approx(0.0, abs=1e-12)
    assert (report.scores.n, report.images, report.left_out, report.refused) == (20, 1, (), ())


def read_first(labels):
    return type(labels)(labels.path, labels.records[:1], ())


def test_each_image_is_aligned_by_itself(rooms):
    scales = iter([0.5, 3.0])

    def predict(frame, uv_px):
        record = next(r for r in rooms.records if np.array_equal(r.uv_px, uv_px))
        return next(scales) * record.depth_m

    report = evaluate(predict, rooms)
    assert report.scores.delta1 == 0.0
    assert report.aligned.delta1 == 1.0


def test_an_image_that_the_predictor_refuses_counts_as_wrong(rooms):
    def predict(frame, uv_px):
        if np.array_equal(uv_px, rooms.records[1].uv_px):
            raise BadImage("too wide")
        return rooms.records[0].depth_m

    report = evaluate(predict, rooms)
    assert report.scores.delta1 == 0.5 == report.delta1_image_mean
    assert (report.scores.n, report.scores.parse_failures) == (40, 20)
    assert str(report.refused[0]).endswith("labels.jsonl:2: too wide")


def test_an_image_of_another_size_is_left_out_and_named(rooms, tmp_path):
    (tmp_path / "room_1.png").write_bytes(b"no image")
    report = evaluate(lambda frame, uv_px: np.ones(len(uv_px)), rooms)
    assert (report.images, report.scores.n) == (1, 20)
    assert report.as_dict()["left_out"] == {"image unusable": 1}
    assert "room_1.png" in str(report.left_out[0]) and ":2: " in str(report.left_out[0])


def test_no_usable_image_is_fatal(rooms, tmp_path):
    for name in ("room_0.png", "room_1.png"):
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(BadInput, match="none of its 2 images is usable"):
        evaluate(lambda frame, uv_px: np.ones(len(uv_px)), rooms)


def test_the_report_is_plain_json_with_the_promised_keys(rooms):
    scores = json.loads(json.dumps(evaluate(lambda frame, uv_px: np.full(len(uv_px), math.nan), rooms).as_dict()))
    assert {"delta1", "absrel", "rmse", "n", "parse_failures", "seconds_per_image"} <= scores.keys()
    assert (scores["delta1"], scores["n"], scores["parse_failures"]) == (0.0, 40, 40)


def test_dense_reads_the_depth_map_at_the_labelled_pixels(tiny, rooms):
    record = rooms.records[0]
    frame = Frame(read_rgb(record.image), record.intrinsics)
    u, v = record.uv_px.astype(int).T
    predicted_m = model_predictor(tiny, "dense")(frame, record.uv_px)
    # The map in the image's pixels is interpolated from the model's, so only nearly the same.
    off = np.abs(predicted_m / tiny.look(frame).depth().depth_m[v, u] - 1)
    assert np.median(off) < 0.02


def test_words_ask_the_model_for_each_pixel(tiny, rooms):
    record = rooms.records[0]
    frame = Frame(read_rgb(record.image), record.intrinsics)
    predicted_m = model_predictor(tiny, "words")(frame, record.uv_px)
    np.testing.assert_array_equal(predicted_m, tiny.look(frame).tell_depth_at(record.uv_px).depth_m)
    assert predicted_m.shape == (20,)


def test_another_way_to_ask_is_refused(tiny):
    with pytest.raises(UnknownName, match=r"'guess'.*dense, words"):
        model_predictor(tiny, "guess")


def test_real_photographs_are_evaluated_whole(tiny):
    if not IBIMS.is_file():
        pytest.skip(f"no {IBIMS}: set DEPTHLM_IBIMS to the folder of the iBims-1 subset")
    report = evaluate(model_predictor(tiny), read_records(IBIMS))
    assert (report.images, report.scores.n, report.left_out, report.refused) == (40, 4000, (), ())
    assert report.scores.parse_failures == 0
    assert report.floor.delta1 == pytest.approx(0.4225)
    assert 0.0 <= report.scores.delta1 <= 1.0


def test_the_report_tells_what_blind_answers_score_beside_the_model():
    true_m = [np.array([1.0, 1.1, 4.0]), np.array([2.0, 2.1, 2.2])]
    told = report(true_m, true_m, [0.1, 0.1]).as_dict()
    assert told["delta1"] == told["delta1_aligned"] == 1.0
    # Scaled to each image's median, a constant is right but for the 4 m; 2 m is right for the second image only.
    assert told["constant_delta1_aligned"] == pytest.approx(5 / 6)
    assert told["constant_2m_delta1"] == pytest.approx(3 / 6)

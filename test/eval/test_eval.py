"""Evaluation on images with exact depth, and on real photographs where they are at hand."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from support.checkered_room import WALL_M, render_room, write_labels
from support.label_files import told
from support.paths import ROOT

from depthlm_ros.core import Frame
from depthlm_ros.errors import BadImage, BadInput, BadQuestion, UnknownName
from depthlm_ros.eval.depth import Choice, depth_report
from depthlm_ros.eval.judges import at_points, evaluate, model_predictor, read_records
from depthlm_ros.eval.report import baselines, report, scored
from depthlm_ros.eval.result_file import Results
from depthlm_ros.image_io import read_rgb

IBIMS = Path(os.environ.get("DEPTHLM_IBIMS", ROOT.parent / "shared" / "data" / "ibims1_dev")) / "labels.jsonl"


@pytest.fixture(scope="module")
def tiny():
    if not (ROOT / "engines" / "tiny").is_dir():
        pytest.skip("engines/tiny is not there: depthlm train makes it")
    from depthlm_ros.model import load_model

    return load_model("tiny")


@pytest.fixture
def rooms(tmp_path):
    return read_records(write_labels(tmp_path))


def scores_of(predict, labels):
    found = evaluate(at_points(predict), labels)
    return scored(found.outcomes, left_out=found.left_out)


def true_depth_m(frame, uv_px):
    """The right answer for room_0: the wall's distance is the only thing that differs between the rooms."""
    u, v = uv_px.astype(int).T
    return render_room(frame.intrinsics, WALL_M)[1][v, u]


def test_right_answers_score_one_and_wrong_ones_by_how_wrong_they_are(rooms):
    found = scores_of(lambda frame, uv_px: told(1.1 * true_depth_m(frame, uv_px)), read_first(rooms))
    assert found.scores.delta1 == 1.0
    assert found.scores.absrel == pytest.approx(0.1, abs=1e-6)
    assert found.aligned.absrel == pytest.approx(0.0, abs=1e-6)
    assert (found.scores.n, found.images, found.left_out, found.refused) == (20, 1, (), ())


def read_first(labels):
    return type(labels)(labels.path, labels.records[:1], ())


def test_each_image_is_aligned_by_itself(rooms):
    scales = iter([0.5, 3.0])

    def predict(frame, uv_px):
        record = next(r for r in rooms.records if np.array_equal(r.uv_px, uv_px))
        return told(next(scales) * record.depth_m)

    found = scores_of(predict, rooms)
    assert found.scores.delta1 == 0.0
    assert found.aligned.delta1 == 1.0


def test_an_image_that_the_predictor_refuses_counts_as_wrong(rooms):
    def predict(frame, uv_px):
        if np.array_equal(uv_px, rooms.records[1].uv_px):
            raise BadImage("too wide")
        return told(rooms.records[0].depth_m)

    found = scores_of(predict, rooms)
    assert found.scores.delta1 == 0.5 == found.delta1_image_mean
    assert (found.scores.n, found.scores.parse_failures, found.scores.delta1_answered) == (40, 20, 1.0)
    assert str(found.refused[0]).endswith("labels.jsonl:2: too wide")


def ones(frame, uv_px):
    return told(np.ones(len(uv_px)))


def test_an_image_of_another_size_is_left_out_and_named(rooms, tmp_path):
    (tmp_path / "room_1.png").write_bytes(b"no image")
    found = scores_of(ones, rooms)
    assert (found.images, found.scores.n) == (1, 20)
    assert found.as_dict()["left_out"] == {"image unusable": 1}
    assert "room_1.png" in str(found.left_out[0]) and ":2: " in str(found.left_out[0])


def test_no_usable_image_is_fatal(rooms, tmp_path):
    for name in ("room_0.png", "room_1.png"):
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(BadInput, match="none of its 2 images is usable"):
        scores_of(ones, rooms)


def test_the_report_is_plain_json_with_the_promised_keys(rooms):
    found = scores_of(lambda frame, uv_px: told(np.full(len(uv_px), math.nan)), rooms)
    scores = json.loads(json.dumps(found.as_dict()))
    assert {"delta1", "absrel", "rmse", "n", "parse_failures", "seconds_per_image"} <= scores.keys()
    assert (scores["delta1"], scores["n"], scores["parse_failures"]) == (0.0, 40, 40)
    assert scores["reliability"] is None and scores["boundary"] is None


def test_deviations_that_models_report_are_held_against_the_errors(rooms):
    def predict(frame, uv_px):
        record = next(r for r in rooms.records if np.array_equal(r.uv_px, uv_px))
        return told(record.depth_m + 0.5, std_m=0.3)

    found = scores_of(predict, rooms).reliability
    assert (found.n, found.within_1std, found.within_2std) == (40, 0.0, 1.0)


def test_dense_reads_the_depth_map_at_the_labelled_pixels(tiny, rooms):
    record = rooms.records[0]
    frame = Frame(read_rgb(record.image), record.intrinsics)
    u, v = record.uv_px.astype(int).T
    predicted_m = model_predictor(tiny, "dense")(frame, record.uv_px).depth_m
    # The map in the image's pixels is interpolated from the model's, so only nearly the same.
    off = np.abs(predicted_m / tiny.look(frame).depth().depth_m[v, u] - 1)
    assert np.median(off) < 0.02


def test_words_ask_the_model_for_each_pixel(tiny, rooms):
    record = rooms.records[0]
    frame = Frame(read_rgb(record.image), record.intrinsics)
    predicted_m = model_predictor(tiny, "words")(frame, record.uv_px).depth_m
    np.testing.assert_array_equal(predicted_m, tiny.look(frame).tell_depth_at(record.uv_px).depth_m)
    assert predicted_m.shape == (20,)


def test_another_way_to_ask_is_refused(tiny):
    with pytest.raises(UnknownName, match=r"'guess'.*dense, words"):
        model_predictor(tiny, "guess")


def test_real_photographs_are_evaluated_whole(tiny):
    if not IBIMS.is_file():
        pytest.skip(f"no {IBIMS}: set DEPTHLM_IBIMS to the folder of the iBims-1 subset")
    found = depth_report(IBIMS, tiny, Choice(), Results())
    assert (found.images, found.scores.n, found.left_out, found.refused) == (40, 4000, (), ())
    assert found.scores.parse_failures == 0
    assert found.floor.delta1 == pytest.approx(0.4225)
    assert 0.0 <= found.scores.delta1 <= 1.0
    assert found.reliability.n == 4000


def test_the_report_tells_what_blind_answers_score_beside_the_model():
    true_m = [np.array([1.0, 1.1, 4.0]), np.array([2.0, 2.1, 2.2])]
    scores = report(true_m, true_m, [0.1, 0.1]).as_dict()
    assert scores["delta1"] == scores["delta1_aligned"] == 1.0
    # Scaled to each image's median, a constant is right but for the 4 m; 2 m is right for the second image only.
    assert scores["constant_delta1_aligned"] == pytest.approx(5 / 6)
    assert scores["constant_2m_delta1"] == pytest.approx(3 / 6)


def test_baselines_are_scored_by_the_same_code_and_a_floor_is_best_known_by_its_rows(tmp_path):
    labels = read_records(write_labels(tmp_path, images=8, points=200))
    found = evaluate(at_points(ones), type(labels)(labels.path, labels.records, ()))
    rows = baselines(found.outcomes)
    assert list(rows) == ["constant 2 m", "best constant", "per-row prior"]
    two_m = scores_of(lambda frame, uv_px: told(np.full(len(uv_px), 2.0)), labels).scores
    assert (rows["constant 2 m"].scores.delta1, rows["constant 2 m"].scores.n) == (two_m.delta1, two_m.n)
    assert rows["constant 2 m"].scores.absrel == pytest.approx(two_m.absrel)
    # Low rows are near, high ones far: a prior by row must know that, without having seen the image's own labels.
    assert rows["per-row prior"].scores.delta1 > rows["best constant"].scores.delta1 + 0.1
    assert rows["per-row prior"].scores.parse_failures == 0


def test_without_a_model_only_the_baselines_are_scored(tmp_path):
    found = depth_report(write_labels(tmp_path), None, Choice(baselines=True), Results())
    assert found.scores.parse_failures == found.scores.n == 40
    assert found.baselines["best constant"].scores.delta1 == found.floor.delta1 > 0


def test_a_model_that_cannot_say_depths_is_refused_before_anything_is_scored():
    from support.scripted_backend import TOKENIZER, scripted_model

    if not TOKENIZER.is_file():
        pytest.skip("engines/tiny is not here: `make train` makes it")
    with pytest.raises(BadQuestion, match=r"vlm3-corr cannot say.*use vlm3-depth"):
        model_predictor(scripted_model("vlm3-corr", str))

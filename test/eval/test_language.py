# SPDX-License-Identifier: Apache-2.0
"""Scores of answers about objects, matches and poses: their rules, and evaluations of models with scripted replies."""

import json
import math

import cv2
import numpy as np
import pytest
from support.checkered_room import render_room
from support.label_files import SAME_PIXELS, make_pair_line, make_question_line, write_lines
from support.scripted_backend import TOKENIZER, scripted_model

from depthlm_ros.core import Answer, Intrinsics, Region, Status
from depthlm_ros.errors import BadInput, BadQuestion
from depthlm_ros.eval.image_pairs import area_under_curve, direction_error_deg, end_point_errors
from depthlm_ros.eval.language import LanguageEvalOptions, detect_task, evaluate_language
from depthlm_ros.eval.object_questions import (
    ask_object_question,
    benchmark_category,
    clock_hours_between,
    is_correct,
    parse_object_question,
    read_object_questions,
    score_objects,
)
from depthlm_ros.eval.result_file import ResultStore

needs_tokenizer = pytest.mark.skipif(not TOKENIZER.is_file(), reason="engines/tiny is missing: run make train")


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), render_room()[0][..., ::-1])
    return tmp_path


def parsed(folder, *given, **more):
    return parse_object_question(json.dumps(make_question_line(*given, **more)), "labels.jsonl:1", folder)


@pytest.mark.parametrize(
    ("kind", "value", "truth", "correct"),
    [
        ("length", 0.75, 1.0, True),
        ("length", 1.25, 1.0, True),
        ("length", 1.26, 1.0, False),
        ("length", 0.74, 1.0, False),
        ("length", math.nan, 1.0, False),
        ("direction", 30.0, 0.0, True),
        ("direction", 330.0, 0.0, True),  # 11 and 12 o'clock
        ("direction", 60.0, 0.0, False),
        ("direction", 180.0, 330.0, False),
        ("yes or no", 1.0, 1.0, True),
        ("yes or no", 0.0, 1.0, False),
        ("yes or no", math.nan, 0.0, False),
        ("not there", 1.0, math.nan, True),
        ("not there", 0.0, math.nan, False),
    ],
)
def test_rules_for_correct_answers(kind, value, truth, correct):
    assert is_correct(kind, value, truth) is correct


def test_clock_hours_wrap_around():
    assert [clock_hours_between(a, b) for a, b in ((0, 330), (30, 330), (180, 0), (90, 91))] == [1, 2, 6, 0]
    assert math.isnan(clock_hours_between(math.nan, 0))


def test_categories_get_the_names_of_the_benchmark():
    assert benchmark_category("length", "vertical_distance_data") == "vertical"
    assert benchmark_category("length", "distance_data") == "direct"
    assert benchmark_category("yes or no", "left_predicate") == "left-right"
    assert benchmark_category("choice", "tall_choice") == "tall-short"
    assert benchmark_category("direction", "") == "direction"
    assert benchmark_category("length", "sofa") == "sofa"


def test_reply_is_read_in_the_terms_of_the_true_answer(folder):
    def value_of(answer, reply):
        return ask_object_question(
            lambda frame, asked: reply, parsed(folder, *answer, boxes=[[0, 0, 50, 50], [100, 0, 200, 100]])
        )["said"]

    assert value_of((True,), Answer("Yes, it is.")) == 1.0
    assert value_of((True,), Answer("Incorrect, it is not.")) == 0.0
    assert math.isnan(value_of((True,), Answer("It is a chair.")))
    assert value_of((2.0, "m"), Answer("2.3 meters", value=2.3, unit="m", words_value=2.2)) == 2.2
    assert math.isnan(value_of((2.0, "m"), Answer("20 degrees", value=20.0, unit="deg", words_value=20.0)))
    assert value_of((3, "o'clock"), Answer("4 o'clock", value=120.0, unit="deg", words_value=120.0)) == 120.0
    assert value_of((None,), Answer("I see no dog.", Status.NOT_FOUND)) == 1.0
    assert value_of((None,), Answer("It is 2 m away.", value=2.0, unit="m")) == 0.0
    assert math.isnan(value_of((2.0, "m"), Answer("I see none.", Status.NOT_FOUND)))
    assert value_of((2.0, "m"), Answer("9.0 meters", Status.INCONSISTENT, 2.0, "m", words_value=9.0)) == 9.0
    # (320, 0, 620, 400) of 1000 is (102, 0, 198, 96) of 320 x 240: the second box.
    assert value_of((1, "region"), Answer("The one at (320, 0, 620, 400) is taller.")) == 1.0


def test_boxes_and_pixels_of_a_line_are_parsed(folder):
    asked = parsed(folder, True, boxes=[[10, 20, 30, 60]], pixel_coords=[[5, 6]])
    assert asked.regions == (Region(10, 20, 20, 40),)
    assert asked.uv_px.tolist() == [[5.0, 6.0]]


def test_scores_of_a_small_set_match_a_calculation_by_hand(folder):
    asked = [
        parsed(folder, 2.0, "m", "width_data"),
        parsed(folder, 2.0, "m", "width_data"),
        parsed(folder, 1.0, "m", "height_data"),
        parsed(folder, 3, "o'clock", "direction"),
        parsed(folder, True, "", "big_predicate"),
        parsed(folder, False, "", "big_predicate"),
    ]
    report = [2.5, 4.0, None, 150.0, 1.0, None]
    found = score_objects(asked, [{"said": one, "text": "", "refused": ""} for one in report])
    assert found["width"]["right"] == 0.5
    assert found["width"]["absrel"] == pytest.approx((0.5 + 2.0) / 2 / 2.0001)
    assert (found["height"]["right"], found["height"]["unread"]) == (0.0, 1)
    assert (found["direction"]["right"], found["direction"]["error_deg"]) == (0.0, 60.0)
    assert found["big-small"]["right"] == 0.5
    assert (found["quantitative"]["right"], found["quantitative"]["n"]) == (0.25, 4)
    assert (found["qualitative"]["right"], found["all"]["n"]) == (0.5, 6)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (make_question_line(2.0), "answer malformed"),  # a number needs a unit
        (make_question_line(-1.0, "m"), "answer malformed"),
        (make_question_line(2, "region"), "answer malformed"),  # there is no third box
        (make_question_line([1], "m"), "answer malformed"),
        (make_question_line(40, "o'clock"), "answer malformed"),
        (make_question_line(-400.0, "deg"), "answer malformed"),
        (make_question_line(math.inf, "m"), "answer malformed"),
        (make_question_line(True, boxes=[[1, 2, 3]]), "boxes malformed"),
        (make_question_line(True, boxes=[[0, 0, 5, 5], [1, 2, 3]]), "boxes malformed"),
        (make_question_line(True, boxes=[[0, 0, 5, math.nan]]), "box unusable"),
        (make_question_line(True, boxes=[[0, 0, 5000, 5]]), "box unusable"),
        (make_question_line(True, boxes=[[9, 0, 5, 5]]), "box unusable"),
        (make_question_line(True, pixel_coords=[[1, 2, 3]]), "pixel_coords malformed"),
        (make_question_line(True, pixel_coords=[[5, 5000]]), "point outside the image"),
        (make_question_line(True, text=" "), "question malformed"),
        (make_question_line(True, text=5), "question malformed"),
        (make_question_line(True, text="Is <mask> near?"), "region without a box"),
        (make_question_line(True, text="Is Region [1] near?", boxes=[[0, 0, 5, 5]]), "region without a box"),
        (make_question_line(True, image="none.png"), "image missing"),
        ({"image": "a.png"}, "key missing"),
    ],
)
def test_bad_question_is_reported_with_its_line(folder, line, reason):
    path = write_lines(folder, make_question_line(True), line)
    kept, problems = read_object_questions(path)
    assert len(kept) == 1
    assert (problems[0].reason, problems[0].where) == (reason, f"{path}:2")
    with pytest.raises(BadInput, match="no usable question: 1 problems"):
        read_object_questions(write_lines(folder, line))


@needs_tokenizer
def test_objects_are_evaluated_and_the_evaluation_continues_from_its_results(folder):
    asked = []

    def reply(text):
        asked.append(text)
        return "Yes, it is." if "smaller" in text else "It is 2.00 meters wide."

    model = scripted_model("vlm3-object", reply)
    path = write_lines(
        folder,
        make_question_line(True, text="Is <mask> smaller?", category="small", boxes=[[0, 0, 32, 24]]),
        make_question_line(1.9, "m", "width_data", "How wide is <mask>?", boxes=[[0, 0, 32, 24]]),
    )
    with ResultStore(folder / "kept.jsonl") as store:
        report = evaluate_language("objects", path, model, store, LanguageEvalOptions(limit=1))
    assert report.scores["scores"]["big-small"]["right"] == 1.0
    assert "bounding box region (0, 0, 100, 100)" in asked[0]
    with ResultStore(folder / "kept.jsonl") as store:
        report = evaluate_language("objects", path, model, store)
    assert len(asked) == 2  # the first was not asked again
    assert report.scores["scores"]["width"] == pytest.approx(
        {"right": 1.0, "n": 1, "unread": 0, "absrel": 0.1 / 1.9001, "error_deg": math.nan}, nan_ok=True
    )
    assert "width" in report.table


def test_end_point_errors_are_in_thousandths_of_the_second_image_and_in_its_pixels():
    camera = Intrinsics(100, 100, 50, 50, 200, 100)
    units, px = end_point_errors(np.array([[23.0, 50.0], [20.0, np.nan]]), np.array([[20.0, 54.0], [0, 0]]), camera)
    assert units[0] == pytest.approx(math.hypot(15, 40)) and px[0] == 5.0
    assert np.isnan(units[1]) and np.isnan(px[1])


def test_area_under_the_curve_matches_a_calculation_by_hand():
    assert area_under_curve(np.array([0.0])) == 1.0
    assert area_under_curve(np.array([30.0, math.nan])) == 0.0
    assert area_under_curve(np.array([15.0])) == 0.5  # correct from 16 to 30
    assert area_under_curve(np.array([15.0, 29.9])) == pytest.approx((15 + 1) / 60)


def test_directions_are_compared_without_their_lengths():
    assert direction_error_deg(np.array([0, 0, 2.0]), np.array([0, 3.0, 0])) == 90.0
    assert direction_error_deg(np.array([1.0, 0, 0]), np.array([-5.0, 0, 0])) == 180.0
    assert direction_error_deg(np.array([1.0, 0, 0]), np.zeros(3)) == 0.0
    assert math.isnan(direction_error_deg(np.full(3, math.nan), np.array([1.0, 0, 0])))


@needs_tokenizer
def test_matches_are_evaluated_and_drawn(folder):
    model = scripted_model("vlm3-corr", lambda text: "(500, 500)" if "pixel (50" in text else "I do not know.")
    path = write_lines(folder, make_pair_line([[160, 120], [32, 24]], [[160, 120], [64, 24]]))
    report = evaluate_language("matches", path, model, ResultStore(), LanguageEvalOptions(pictures=folder / "pictures"))
    assert report.scores["epe"] == pytest.approx(0.0, abs=3)  # a canvas pixel
    assert (report.scores["n"], report.scores["unread"], report.scores["within_10"]) == (2, 1, 0.5)
    assert report.scores["same_pixel_epe"] == pytest.approx(50.0)
    (picture,) = (folder / "pictures").iterdir()
    assert cv2.imread(str(picture)).shape[0] > 400


POSE = {
    "rotation angle": "Rotation angle: 12.0 degrees",
    "yaw, pitch and roll": "Yaw=+12.0°, Pitch=+0.0°, Roll=+0.0°",
    "Where did the camera move": "The camera moves forward, unit vector (+0.00, +0.00, +1.00).",
    "magnitude of the camera translation": "Translation distance: 2.00 meters",
}


@needs_tokenizer
def test_poses_are_evaluated(folder):
    model = scripted_model("vlm3-pose", lambda text: next(POSE[part] for part in POSE if part in text))
    path = write_lines(folder, make_pair_line(*SAME_PIXELS, 10.0), make_pair_line(*SAME_PIXELS, 12.0, (0.0, 0.0, 2.0)))
    report = evaluate_language("pose", path, model, ResultStore()).scores
    assert report["rotation_deg"] == pytest.approx(1.0) and report["direction_deg"] == pytest.approx(0.0, abs=1e-5)
    assert report["named_angle_deg"] == pytest.approx(1.0)
    assert report["distance_absrel"] == pytest.approx(0.5) and report["distance_unknown"] == 0
    assert report["auc30"] == pytest.approx((28 / 30 + 1.0) / 2, abs=0.02)
    assert (report["n"], report["unread"], report["records"]) == (2, 0, 2)
    unsure = scripted_model("vlm3-pose", lambda text: next(POSE[part] for part in POSE if part in text), sure=False)
    assert evaluate_language("pose", path, unsure, ResultStore()).scores["distance_unknown"] == 2


@needs_tokenizer
def test_unread_pose_is_wrong_and_counted(folder):
    model = scripted_model("vlm3-pose", lambda text: "I cannot tell.")
    report = evaluate_language("pose", write_lines(folder, make_pair_line(*SAME_PIXELS)), model, ResultStore()).scores
    assert (report["auc30"], report["unread"]) == (0.0, 1)
    assert math.isnan(report["rotation_deg"])


@needs_tokenizer
def test_task_is_detected_from_the_labels_and_a_model_that_cannot_do_it_is_refused(folder):
    pairs = write_lines(folder, make_pair_line([[1, 1]], [[1, 1]]))
    assert detect_task(pairs, None) == "matches"
    assert detect_task(pairs, scripted_model("vlm3-pose", str)) == "pose"
    with pytest.raises(BadQuestion, match=r"vlm3-corr cannot do task pose: use .*vlm3-pose"):
        evaluate_language("pose", pairs, scripted_model("vlm3-corr", str), ResultStore())
    assert detect_task(write_lines(folder, make_question_line(True)), None) == "objects"
    assert detect_task(write_lines(folder, {"image": "a.png", "depth": []}), None) == "depth"


@needs_tokenizer
def test_pairs_without_points_are_left_out_of_matches_and_named(folder):
    model = scripted_model("vlm3-corr", lambda text: "(0, 0)")
    outside = make_pair_line([[999, 0]], [[0, 0]])
    report = evaluate_language(
        "matches", write_lines(folder, outside, make_pair_line(*SAME_PIXELS)), model, ResultStore()
    )
    assert report.scores["left_out"] == {"point outside the image": 1, "record without a usable point": 1}
    with pytest.raises(BadInput, match="no usable pair"):
        evaluate_language("matches", write_lines(folder, outside), model, ResultStore())

# SPDX-License-Identifier: Apache-2.0
"""Protocols: the points that each one scores, its headline, and the defects of the evaluations as released."""

import json
import math

import cv2
import numpy as np
import pytest

from depthlm_ros.backends.base import Look
from depthlm_ros.core import Frame, Intrinsics, PointDepths
from depthlm_ros.data.depthfile import write_depth
from depthlm_ros.data.read import RecordSet
from depthlm_ros.data.records import Record
from depthlm_ros.errors import BadInput, BadQuestion
from depthlm_ros.eval import released
from depthlm_ros.eval.depth import DepthEvalOptions, choose_judge, evaluate_depth, read_labels, select_records
from depthlm_ros.eval.judges import evaluate, limit_records, point_judge, read_point_records, sample_depthlm_points
from depthlm_ros.eval.report import make_report
from depthlm_ros.eval.result_file import ResultStore
from depthlm_ros.geometry.resize_rules import CanvasRule

CAMERA = Intrinsics(500.0, 500.0, 99.5, 74.5, 200, 150)
# The first numbers that random.seed(42) and random.sample(range(100), 1) draw.
DRAWN = [81, 14, 3, 94, 35, 31]


def record(index, points=100, camera=CAMERA):
    uv_px = np.stack([np.arange(points), np.full(points, 70.0)], axis=1).astype(float)
    return Record(f"labels.jsonl:{index + 1}", f"{index}.png", camera, uv_px, 1.0 + np.arange(points) + 1000 * index)


def labels_of(*records, path="labels.jsonl"):
    return RecordSet(path, tuple(records), ())


def points_of(labels):
    """Returns (image, point) of every scored point. `record` writes them into the depths."""
    return [divmod(round(depth_m) - 1, 1000) for one in labels.records for depth_m in one.depth_m]


def test_depthlm_draws_a_seeded_point_for_each_sample_and_takes_the_images_in_turn():
    chosen = sample_depthlm_points(labels_of(*map(record, range(4))), samples=6)
    assert points_of(chosen) == [
        (0, DRAWN[0]),
        (0, DRAWN[4]),
        (1, DRAWN[1]),
        (1, DRAWN[5]),
        (2, DRAWN[2]),
        (3, DRAWN[3]),
    ]


def test_depthlm_scores_128_samples_by_default_and_never_more_than_there_are():
    labels = labels_of(*map(record, range(4)))
    assert len(points_of(sample_depthlm_points(labels))) == 128
    assert len(points_of(sample_depthlm_points(labels, samples=8192))) == 400
    assert len(points_of(sample_depthlm_points(labels_of(record(0, points=7))))) == 7


def test_same_seed_draws_the_same_points_and_another_seed_others():
    labels = labels_of(*map(record, range(4)))
    one, again, other = (points_of(sample_depthlm_points(labels, 20, seed)) for seed in (1, 1, 2))
    assert one == again != other


def test_as_released_a_point_without_space_for_the_arrow_is_replaced_by_the_next_sample():
    labels = labels_of(*map(record, range(4)))
    chosen = sample_depthlm_points(labels, 3, is_allowed=lambda one, point: point != DRAWN[1])
    # The second sample is replaced by the third one, which is scored twice.
    assert points_of(chosen) == [(0, DRAWN[0]), (2, DRAWN[2]), (2, DRAWN[2])]
    with pytest.raises(BadInput, match="without --as-released"):
        sample_depthlm_points(labels, 3, is_allowed=lambda one, point: False)


def test_arrow_needs_five_pixels_of_the_normalised_image():
    # At a focal length of 750 px the image is 300 x 225; pixel u is at trunc(1.5 u).
    is_allowed = released.arrow_filter(CanvasRule(focal_px=750.0))
    at = {3: False, 4: True, 196: True, 197: False}  # trunc(4.5), 6, 294, trunc(295.5)
    for u, fits in at.items():
        one = Record("labels.jsonl:1", "a.png", CAMERA, np.array([[u, 70.0]]), np.ones(1))
        assert is_allowed(one, 0) is fits, u


def test_as_released_scannet_is_scored_on_its_last_two_percent():
    labels = labels_of(*map(record, range(100)), path="data/scannetpp/val.jsonl")
    kept = [image for image, _ in points_of(released.depthlm_split(labels))]
    assert sorted(set(kept)) == [98, 99]
    assert len(released.depthlm_split(labels_of(record(0))).records) == 1


def test_limit_takes_the_first_records_or_random_ones_with_a_seed():
    labels = labels_of(*map(record, range(10)))
    numbers = [one.where for one in limit_records(labels, 3, None).records]
    assert numbers == ["labels.jsonl:1", "labels.jsonl:2", "labels.jsonl:3"]
    drawn = [[one.where for one in limit_records(labels, 3, 5).records] for _ in range(2)]
    assert drawn[0] == drawn[1] != numbers
    assert limit_records(labels, 99, 5) is labels


def test_contradicting_options_are_refused(tmp_path):
    with pytest.raises(BadInput, match="plain was never released"):
        DepthEvalOptions(as_released=True)
    with pytest.raises(BadInput, match="leave out --points"):
        DepthEvalOptions("dense", points="words")
    with pytest.raises(BadInput, match="--limit is 0"):
        DepthEvalOptions(limit=0)
    with pytest.raises(BadInput, match="give --model"):
        select_records(labels_of(record(0)), None, DepthEvalOptions("depthlm", as_released=True))


def write_image(folder, name="a.png", camera=CAMERA):
    cv2.imwrite(str(folder / name), np.full((camera.height_px, camera.width_px, 3), 90, np.uint8))


def write_lines(folder, *lines, name="labels.jsonl"):
    path = folder / name
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return path


def line(uv_px, depth_m, **more):
    return {"image": "a.png", "intrinsics": [*vars(CAMERA).values()], "pixel_coords": uv_px, "depth": depth_m} | more


def constant_predictor(depth_m):
    return lambda frame, uv_px: PointDepths(uv_px, np.full(len(uv_px), depth_m), np.full(len(uv_px), np.nan))


def test_depthvlm_weighs_images_equally_and_plain_weighs_points_equally(tmp_path):
    write_image(tmp_path)
    path = write_lines(tmp_path, line([[9, 9]] * 9, [1.0] * 9), line([[9, 9]], [5.0]))
    evaluation = evaluate(point_judge(constant_predictor(1.0)), read_point_records(path))
    by_protocol = {
        name: make_report(evaluation.results, name).as_dict() for name in ("plain", "depthlm", "depthvlm-sparse")
    }
    assert {name: scores["delta1"] for name, scores in by_protocol.items()} == {
        "plain": 0.9,
        "depthlm": 0.9,
        "depthvlm-sparse": 0.5,
    }
    assert by_protocol["depthvlm-sparse"]["delta1_points"] == 0.9


def test_unreadable_answer_is_wrong_in_every_protocol(tmp_path):
    write_image(tmp_path)
    path = write_lines(tmp_path, line([[9, 9]] * 2, [1.0] * 2), line([[9, 9]] * 2, [1.0] * 2))
    answers = iter([1.0, math.nan])
    evaluation = evaluate(
        point_judge(lambda frame, uv_px: constant_predictor(next(answers))(frame, uv_px)), read_point_records(path)
    )
    for protocol in ("plain", "depthlm", "depthvlm-sparse"):
        report = make_report(evaluation.results, protocol)
        assert (report.delta1, report.scores.parse_failures) == (0.5, 2)


def test_as_released_labels_are_compared_with_the_number_that_the_model_says(tmp_path):
    write_image(tmp_path)
    path = write_lines(tmp_path, line([[0, 0]], [2.0], depth_type="range"))
    (as_written,) = read_labels(path, DepthEvalOptions("depthlm", as_released=True)).records
    (along_axis,) = read_labels(path, DepthEvalOptions("depthlm")).records
    assert as_written.depth_m[0] == 2.0 > along_axis.depth_m[0]
    # The model says 2.0, a range. As depth along the axis this is the value of the converted label.
    frame = Frame(np.zeros((150, 200, 3), np.uint8), CAMERA)
    said = released.without_depth_conversion(constant_predictor(along_axis.depth_m[0]), "range")
    assert said(frame, as_written.uv_px).depth_m[0] == pytest.approx(2.0)
    assert released.without_depth_conversion(constant_predictor(1.5), "z")(frame, as_written.uv_px).depth_m[0] == 1.5


class PositionBackend:
    """A backend whose depth map holds the position of each pixel: 1 + column + 1000 * row."""

    name = "position"

    def look(self, images):
        rows, columns = np.mgrid[: images[0].shape[1], : images[0].shape[2]]
        return Look((1.0 + columns + 1000 * rows)[None].astype(np.float32), None, 1, 1, 1)


@pytest.fixture
def depthvlm():
    from support.scripted_backend import TOKENIZER, scripted_model

    if not TOKENIZER.is_file():
        pytest.skip("engines/tiny is missing: run make train")
    model = scripted_model("depthvlm-4b", str)
    model.backend = PositionBackend()
    return model


def dense_line(true_m, folder, **more):
    write_image(folder)
    write_depth(folder / "d.png", true_m, 100)
    height, width = true_m.shape
    return {
        "image": "a.png",
        "depth_path": "d.png",
        "depth_scale": 100,
        "original_rgb_size": [200, 150],
        "original_depth_size": [width, height],
        "original_fx": 500.0,
    } | more


def test_as_released_depthvlm_reads_points_from_the_prediction_at_its_own_size(depthvlm, tmp_path):
    # The canonical size is 400 x 300, but the prediction has 384 x 320: twice the pixel, without the last columns.
    true_m = np.full((150, 200), 3.0)
    true_m[20, 30] = 0
    uv_px = [[10, 5], [30, 20], [199, 100]]
    path = write_lines(tmp_path, dense_line(true_m, tmp_path, pixel_coords=uv_px, depth=[3.0, 7.0, 3.0]))
    options = DepthEvalOptions("depthvlm-sparse", as_released=True)
    (result,) = evaluate(choose_judge(depthvlm, options), read_labels(path, options)).results
    np.testing.assert_allclose(result.predicted_m, [1 + 20 + 10_000, 1 + 60 + 40_000, np.nan])
    # The truth is that of the map, or the label where the map has none. The point outside is skipped.
    np.testing.assert_allclose(result.true_m, [3.0, 7.0, np.nan])


def test_as_released_depthvlm_uses_pixels_of_the_depth_map_as_pixels_of_the_image(depthvlm, tmp_path):
    path = write_lines(tmp_path, dense_line(np.full((75, 100), 3.0), tmp_path, pixel_coords=[[50, 40]], depth=[3.0]))
    options = DepthEvalOptions("depthvlm-sparse", as_released=True)
    (result,) = evaluate(choose_judge(depthvlm, options), read_labels(path, options)).results
    assert result.predicted_m.tolist() == [1 + 100 + 80_000]
    (ours,) = read_labels(path, DepthEvalOptions("depthvlm-sparse")).records
    np.testing.assert_allclose(ours.uv_px, [[100.5, 80.5]])


def test_as_released_depthvlm_dense_compares_at_the_canonical_size(depthvlm, tmp_path):
    path = write_lines(tmp_path, dense_line(np.full((150, 200), 3.0), tmp_path))
    report = evaluate_depth(path, depthvlm, DepthEvalOptions("dense", as_released=True), ResultStore())
    assert report.scores.n == 400 * 300
    assert report.reliability is None


def test_as_released_refuses_a_model_with_fixed_canvases(depthvlm):
    depthvlm.spec = depthvlm.spec.__class__(**{**vars(depthvlm.spec), "canvas": CanvasRule(100.0, ((64, 64),))})
    with pytest.raises(BadQuestion, match="leave out --as-released"):
        choose_judge(depthvlm, DepthEvalOptions("dense", as_released=True))

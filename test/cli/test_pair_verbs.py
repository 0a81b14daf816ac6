# SPDX-License-Identifier: Apache-2.0
"""The verbs match and pose, and the tasks of `ask`: their output and their error messages."""

import json
import math
import shutil
from argparse import Namespace

import cv2
import numpy as np
import pytest
from support.checkered_room import render_room
from support.paths import ROOT, needs_tiny

from depthlm_ros import cli
from depthlm_ros.cli import match
from depthlm_ros.cli import pose as pose_verb
from depthlm_ros.cli.ask import TASKS, answer_dict, answer_text, with_task_unit
from depthlm_ros.core import Answer, Matches, Measurement, Region, RelativePose, Status
from depthlm_ros.geometry.rotations import rotation_from_angles
from depthlm_ros.model_files.bundle import manifest_text

INTRINSICS = ["--intrinsics", "280", "282", "161", "118.5"]
UNKNOWN = RelativePose(np.full((3, 3), np.nan), np.full(3, np.nan), math.nan, np.full(3, np.nan), math.nan, {"a": "?"})


@pytest.fixture
def images(tmp_path):
    """Image files of a room from two places."""
    paths = [tmp_path / "first.png", tmp_path / "second.png"]
    for path, wall_m in zip(paths, (5.0, 4.0), strict=True):
        cv2.imwrite(str(path), render_room(wall_m=wall_m)[0][..., ::-1])
    return [str(path) for path in paths]


@pytest.fixture
def check_failure(capsys):
    def check(exit_code, text, *args):
        assert cli.main([str(arg) for arg in args]) == exit_code
        error = capsys.readouterr().err
        assert error.startswith("depthlm: ") and error.count("\n") == 1 and text in error, error

    return check


def test_each_match_is_one_line_and_null_in_json_if_not_found():
    matched_px = np.array([[7.04, 8.0], [np.nan, np.nan]])
    matches = Matches(np.array([[1.0, 2.0], [3.5, 4.0]]), matched_px, ("(7, 8)", "gone"))
    assert match.matches_text(matches).splitlines() == ["(1, 2) -> (7.0, 8.0)", "(3.5, 4) -> not found"]
    printed = json.loads(json.dumps(match.matches_dict(matches)), parse_constant=pytest.fail)["matches"]
    assert printed[0] == {"pixel": [1.0, 2.0], "matched": [7.04, 8.0], "reply": "(7, 8)"}
    assert printed[1]["matched"] is None and printed[1]["reply"] == "gone"


def test_pose_is_printed_in_lines_and_in_json():
    direction = np.array([-0.6, 0.0, 0.8])
    pose = RelativePose(rotation_from_angles(90, 0, 0), 2.0 * direction, 89.7, direction, 2.0, {"distance": "2 m"})
    text = pose_verb.pose_text(pose)
    assert "(0.0000, 0.7071, 0.0000, 0.7071), 90.0 degrees" in text and "89.7 degrees" in text
    assert "(-1.20, 0.00, 1.60) m" in text and "2.00 m" in text
    printed = json.loads(json.dumps(pose_verb.pose_dict(pose)), parse_constant=pytest.fail)
    assert np.allclose(printed["rotation"], pose.rotation) and np.allclose(
        printed["quaternion_xyzw"], [0, 0.5**0.5, 0, 0.5**0.5]
    )
    assert printed["replies"] == {"distance": "2 m"} and printed["angle_deg"] == 89.7


def test_unknown_pose_is_printed_as_unknown_and_never_as_identity():
    assert pose_verb.pose_text(UNKNOWN).count("unknown") >= 5
    printed = json.loads(json.dumps(pose_verb.pose_dict(UNKNOWN)), parse_constant=pytest.fail)
    assert printed["quaternion_xyzw"] == [None] * 4 and printed["distance_m"] is None


def test_measurements_follow_the_words_and_name_their_subjects():
    regions = (Region(1, 2, 3, 4, "red box"), Region(5, 6, 7, 8))
    measurements = (
        Measurement("distance", 2.314, "m", 0.1, (0,), np.array([[0.0, 0.0, 2.3]])),
        Measurement("nearer", 0.5, "m", math.nan, (0, 1)),
        Measurement("gap", math.nan, "m", math.nan, (0, 1)),
    )
    answer = Answer("The red box.", regions=regions, measurements=measurements)
    assert answer_text(answer, []).splitlines() == [
        "The red box.",
        "  distance: 2.31 +- 0.10 m (red box)",
        "  nearer: 0.50 m (red box, region 2)",
        "  gap: unknown m (red box, region 2)",
    ]
    printed = json.loads(json.dumps(answer_dict(answer)), parse_constant=pytest.fail)["measurements"]
    assert printed[0] == {
        **{"quantity": "distance", "value": 2.314, "unit": "m", "std": 0.1},
        **{"about": [0], "points_m": [[0.0, 0.0, 2.3]]},
    }
    assert printed[2]["value"] is None
    about_pixels = answer_text(
        Answer("Far.", measurements=(Measurement("distance", 2.0, "m", 0.1, (1,)),)), [[1, 2], [3, 4]]
    )
    assert about_pixels.endswith("(pixel (3, 4))")


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (2.0, "", (2.0, "m/s", Status.OK)),
        (2.0, "m/s", (2.0, "m/s", Status.OK)),
        (2.0, "m", (None, "", Status.NOT_UNDERSTOOD)),
    ],
)
def test_answer_to_a_task_has_its_unit_or_is_not_understood(value, unit, expected):
    task = TASKS["speed"](Namespace(task="speed", seconds=4.0))
    answer = with_task_unit(task, Answer("So fast.", value=value, unit=unit))
    found = None if math.isnan(answer.value) else answer.value
    assert (found, answer.unit, answer.status) == expected


def test_wrong_options_of_a_task_are_refused(images, check_failure):
    ask = ["ask", images[0], *INTRINSICS]
    check_failure(2, "needs --seconds", *ask, "--task", "speed", "--pixel", 1, 2)
    check_failure(2, "needs 2 pixel(s)", *ask, "--task", "two-points", "--pixel", 1, 2)
    check_failure(2, "leave out 'How far?'", *ask, "How far?", "--task", "axis", "--pixel", 1, 2)
    check_failure(2, "needs 2 image(s)", *ask, "--task", "motion")
    check_failure(2, "0.01 to 1000", *ask, "--task", "speed", "--seconds", 0, "--pixel", 1, 2)
    check_failure(2, "--seconds is for --task speed", *ask, "How far?", "--seconds", 3)
    check_failure(2, "--speed is for --task time", *ask, "--task", "axis", "--speed", 3, "--pixel", 1, 2)
    check_failure(
        2, "--intrinsics-second is the camera of --second", *ask, "How far?", "--intrinsics-second", 1, 1, 1, 1
    )
    with pytest.raises(SystemExit, match="2"):
        cli.main(["ask", images[0], *INTRINSICS])


def test_pixel_outside_is_refused_before_a_model_is_sought(images, check_failure):
    outside = [*INTRINSICS, "--pixel", 320, 5, "--model", "nobody"]
    check_failure(2, "pixel (320, 5) is outside", "match", *images, *outside)
    check_failure(2, "pixel (320, 5) is outside", "ask", images[0], "How far is this point?", *outside)


def test_question_about_a_point_that_is_not_marked_is_refused_before_a_model_is_sought(images, check_failure):
    for model in ("tiny", "depthlm-12b", "nobody"):
        ask = ["ask", images[0], "How far is this point?", *INTRINSICS, "--model", model]
        check_failure(2, "says 'this point', but 0 pixels or regions are marked", *ask)
        check_failure(
            2, "'these points', but 1 pixels", *ask[:2], "How far apart are these points?", *ask[3:], "--pixel", 1, 2
        )


@needs_tiny
def test_question_can_follow_the_options(images, check_failure):
    check_failure(2, "empty", "ask", images[0], *INTRINSICS, "--model", "tiny", "")


@needs_tiny
def test_model_for_one_image_refuses_two_and_names_the_right_model(images, check_failure, tmp_path):
    one = tmp_path / "one"
    shutil.copytree(ROOT / "engines" / "tiny", one)
    manifest = json.loads((one / "manifest.json").read_text())
    (one / "manifest.json").write_text(manifest_text(manifest | {"family": "vlm3-depth"}))
    check_failure(2, "vlm3-corr", "match", *images, *INTRINSICS, "--pixel", 1, 2, "--model", one)
    check_failure(2, "vlm3-pose", "pose", *images, *INTRINSICS, "--model", one)
    check_failure(2, "--pixel", "ask", images[0], "How far?", *INTRINSICS, "--second", images[1], "--pixel", 1, 2)


def test_missing_weights_are_reported_with_their_source(images, check_failure, monkeypatch, tmp_path):
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    check_failure(1, "facebook/VLM3-corr", "match", *images, *INTRINSICS, "--pixel", 1, 2)
    check_failure(1, "facebook/VLM3-pose", "pose", *images, *INTRINSICS)


def test_images_of_two_sizes_need_two_intrinsics(images, check_failure, tmp_path):
    small = tmp_path / "small.png"
    cv2.imwrite(str(small), np.zeros((60, 80, 3), np.uint8))
    check_failure(2, "--intrinsics-second", "pose", images[0], small, *INTRINSICS)
    check_failure(2, "no.png", "pose", images[0], tmp_path / "no.png", *INTRINSICS)


@pytest.mark.torch
def test_checkpoint_answers_on_the_command_line_as_in_python(images, tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    from support.released_checkpoints import publish

    from depthlm_ros.cli.common import CameraOptions, read_frame
    from depthlm_ros.families import vlm3
    from depthlm_ros.model import load_model

    for limit in ("MATCH_REPLY_TOKENS", "POSE_REPLY_TOKENS"):
        monkeypatch.setattr(vlm3, limit, 6)
    publish(tmp_path / "weights", "qwen3_vl", with_head=False)
    lens = [float(number) for number in INTRINSICS[1:]]
    frames = [read_frame(tmp_path / name, CameraOptions(lens)) for name in ("first.png", "second.png")]
    for verb, extra in (("match", ["--pixel", "20", "30", "--pixel", "200", "100"]), ("pose", [])):
        model = f"vlm3-{'corr' if verb == 'match' else 'pose'}={tmp_path / 'weights'}"
        assert cli.main([verb, *images, *INTRINSICS, *extra, "--model", model, "--device", "cpu", "--json"]) == 0
        printed = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
        pair = load_model(model, device="cpu").look_pair(*frames)
        if verb == "match":
            assert [match["reply"] for match in printed["matches"]] == list(pair.match([[20, 30], [200, 100]]).replies)
        else:
            assert printed["replies"] == pair.pose().replies

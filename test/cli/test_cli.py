"""The command line as a user runs it: a process, its files, its messages, its exit code."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from support.checkered_room import CAMERA, render_room, write_labels
from support.command_line import depthlm
from support.paths import ROOT, needs_tiny

INTRINSICS = ["--intrinsics", "280", "282", "161", "118.5"]


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "room.png"
    cv2.imwrite(str(path), render_room()[0][..., ::-1])
    return path


def fails(done, exit_code, *said):
    """It ended with this code and one line on stderr, without a traceback, that says all of this."""
    assert done.returncode == exit_code, done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("depthlm: ")
    for text in said:
        assert text in done.stderr


@needs_tiny
def test_depth_writes_float32_metres_at_the_size_of_the_image(image, tmp_path):
    out, picture = tmp_path / "depth.npy", tmp_path / "depth.png"
    done = depthlm("depth", image, *INTRINSICS, "--out", out, "--picture", picture)
    assert done.returncode == 0, done.stderr
    depth_m = np.load(out)
    assert depth_m.dtype == np.float32 and depth_m.shape == (240, 320)
    assert np.nanmin(depth_m) > 0
    assert cv2.imread(str(picture)).shape[0] == 240
    assert str(out) in done.stdout and "320 x 240" in done.stdout


@needs_tiny
def test_the_file_is_named_as_asked_even_without_npy(image, tmp_path):
    assert depthlm("depth", image, *INTRINSICS, "--out", tmp_path / "depth").returncode == 0
    assert np.load(tmp_path / "depth").shape == (240, 320)


@needs_tiny
def test_ask_answers_in_words_and_in_json(image):
    done = depthlm("ask", image, "How far is this point?", *INTRINSICS, "--pixel", 160, 200)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr
    done = depthlm("ask", image, "How far is this point?", *INTRINSICS, "--pixel", 160, 200, "--json")
    answer = json.loads(done.stdout, parse_constant=pytest.fail)
    expected = {"text", "status", "value", "unit", "std", "points_m", "regions", "confidence", "measurements"}
    assert expected == answer.keys()
    assert answer["status"] in ("ok", "not_found", "not_understood")


@needs_tiny
@pytest.mark.parametrize("points", ["dense", "words"])
def test_eval_prints_a_table_and_writes_json(tmp_path, points):
    labels, out = write_labels(tmp_path), tmp_path / "scores.json"
    done = depthlm("eval", labels, "--model", "tiny", "--points", points, "--json", out)
    assert done.returncode == 0, done.stderr
    scores = json.loads(out.read_text(), parse_constant=pytest.fail)
    assert (scores["n"], scores["images"], scores["model"], scores["points"]) == (40, 2, "tiny", points)
    assert {"delta1", "absrel", "rmse", "parse_failures", "seconds_per_image"} <= scores.keys()
    assert "delta1" in done.stdout and "40 points of 2 images" in done.stdout


@needs_tiny
def test_eval_names_what_it_left_out_by_line(tmp_path):
    labels = write_labels(tmp_path)
    (tmp_path / "room_1.png").unlink()
    done = depthlm("eval", labels)
    assert done.returncode == 0
    assert f"{labels}:2: image" in done.stderr and "room_1.png does not exist" in done.stderr


def test_a_missing_image_or_labels_file_is_named(tmp_path):
    fails(depthlm("depth", tmp_path / "no.png", *INTRINSICS, "--out", tmp_path / "d.npy"), 2, "no.png", "image file")
    fails(depthlm("eval", tmp_path / "no.jsonl"), 2, "no.jsonl", "JSONL")
    assert not (tmp_path / "d.npy").exists()


@pytest.mark.parametrize(("fx", "said"), [("0", "fx = 0"), ("nan", "fx = nan"), ("-3", "fx = -3")])
def test_an_unusable_focal_length_is_named(image, tmp_path, fx, said):
    fails(depthlm("depth", image, "--intrinsics", fx, 282, 161, 118, "--out", tmp_path / "d.npy"), 2, said)


@needs_tiny
def test_an_unknown_model_or_backend_is_a_matter_of_setup(image, tmp_path):
    out = ["--out", tmp_path / "d.npy"]
    fails(depthlm("depth", image, *INTRINSICS, *out, "--model", "huge"), 1, "huge")
    fails(depthlm("depth", image, *INTRINSICS, *out, "--backend", "abacus"), 1, "abacus")


@needs_tiny
def test_a_question_that_cannot_be_asked_is_refused_in_one_line(image):
    fails(depthlm("ask", image, "How far is this point?", *INTRINSICS, "--pixel", CAMERA.width_px + 5, 3), 2, "325")
    fails(depthlm("ask", image, "", *INTRINSICS), 2, "empty")


@needs_tiny
def test_a_folder_that_cannot_be_written_is_named(image, tmp_path):
    fails(depthlm("depth", image, *INTRINSICS, "--out", tmp_path / "none" / "d.npy"), 2, "none/d.npy")


def test_help_shows_every_verb_and_loads_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "depthlm_ros.cli", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    for verb in ("depth", "ask", "match", "pose", "eval", "models", "train", "engine"):
        assert f"\n    {verb} " in done.stdout
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert not loaded & {"numpy", "cv2", "torch", "onnxruntime", "transformers", "numba", "rclpy"}

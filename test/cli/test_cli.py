# SPDX-License-Identifier: Apache-2.0
"""The command line as a user runs it: a process with its files, messages and exit code."""

import json
import subprocess
import sys
from collections import Counter

import cv2
import numpy as np
import pytest
from support.checkered_room import CAMERA, render_room, write_labels
from support.command_line import depthlm
from support.paths import ROOT, needs_tiny

from depthlm_ros import cli
from depthlm_ros.model_files import bundle

INTRINSICS = ["--intrinsics", "280", "282", "161", "118.5"]


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "room.png"
    cv2.imwrite(str(path), render_room()[0][..., ::-1])
    return path


def check_failure(done, exit_code, *texts):
    """Checks the exit code, and that stderr is one line with these texts and without a traceback."""
    assert done.returncode == exit_code, done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("depthlm: ")
    for text in texts:
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
def test_out_file_keeps_its_name_without_npy(image, tmp_path):
    assert depthlm("depth", image, *INTRINSICS, "--out", tmp_path / "depth").returncode == 0
    assert np.load(tmp_path / "depth").shape == (240, 320)


@needs_tiny
def test_ask_answers_in_words_and_in_json(image):
    done = depthlm("ask", image, "How far is this point?", *INTRINSICS, "--pixel", 160, 200)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr
    done = depthlm("ask", image, "How far is this point?", *INTRINSICS, "--pixel", 160, 200, "--json")
    answer = json.loads(done.stdout, parse_constant=pytest.fail)
    expected = {"text", "status", "value", "unit", "std", "points_m", "regions", "confidence", "measurements"}
    assert expected | {"words_value", "model", "look_s", "answer_s"} == answer.keys()
    assert answer["model"] == "tiny" and answer["look_s"] > 0 and answer["answer_s"] > 0
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
@pytest.mark.parametrize("verb", ["depth", "ask", "eval"])
def test_command_hashes_each_file_of_the_model_once(image, tmp_path, monkeypatch, verb):
    hashed = Counter()
    digest = bundle.file_digest

    def count_and_digest(path):
        hashed[path.name] += 1
        return digest(path)

    monkeypatch.setattr(bundle, "file_digest", count_and_digest)
    words = {
        "depth": [image, *INTRINSICS, "--out", tmp_path / "depth.npy"],
        "ask": [image, "How far is this point?", *INTRINSICS, "--pixel", 160, 200],
        "eval": [write_labels(tmp_path), "--results", tmp_path / "results.jsonl"],
    }
    assert cli.main([verb, *map(str, words[verb]), "--model", "tiny"]) == 0
    assert hashed and set(hashed.values()) == {1}


@needs_tiny
def test_eval_shows_its_progress(tmp_path):
    done = depthlm("eval", write_labels(tmp_path))
    assert "depthlm eval" in done.stderr and "2/2" in done.stderr


@needs_tiny
def test_eval_reports_left_out_records_by_line(tmp_path):
    labels = write_labels(tmp_path)
    (tmp_path / "room_1.png").unlink()
    done = depthlm("eval", labels)
    assert done.returncode == 0
    assert f"{labels}:2: image" in done.stderr and "room_1.png does not exist" in done.stderr


def test_missing_image_or_labels_file_is_reported_by_name(tmp_path):
    check_failure(
        depthlm("depth", tmp_path / "no.png", *INTRINSICS, "--out", tmp_path / "d.npy"), 2, "no.png", "image file"
    )
    check_failure(depthlm("eval", tmp_path / "no.jsonl"), 2, "no.jsonl", "JSONL")
    assert not (tmp_path / "d.npy").exists()


@pytest.mark.parametrize(("fx", "text"), [("0", "fx = 0"), ("nan", "fx = nan"), ("-3", "fx = -3")])
def test_unusable_focal_length_is_reported(image, tmp_path, fx, text):
    check_failure(depthlm("depth", image, "--intrinsics", fx, 282, 161, 118, "--out", tmp_path / "d.npy"), 2, text)


@needs_tiny
def test_unknown_model_or_backend_is_a_setup_error(image, tmp_path):
    out = ["--out", tmp_path / "d.npy"]
    check_failure(depthlm("depth", image, *INTRINSICS, *out, "--model", "huge"), 1, "huge")
    check_failure(depthlm("depth", image, *INTRINSICS, *out, "--backend", "abacus"), 1, "abacus")


@needs_tiny
def test_unusable_question_is_refused_in_one_line(image):
    check_failure(
        depthlm("ask", image, "How far is this point?", *INTRINSICS, "--pixel", CAMERA.width_px + 5, 3), 2, "325"
    )
    check_failure(depthlm("ask", image, "", *INTRINSICS), 2, "empty")


@needs_tiny
def test_unwritable_folder_is_reported_by_name(image, tmp_path):
    check_failure(depthlm("depth", image, *INTRINSICS, "--out", tmp_path / "none" / "d.npy"), 2, "none/d.npy")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "required: VERB: see `depthlm --help`"),
        (("deep",), "invalid choice: 'deep'"),
        (("depth", "a.png", "--intrinsics", "280", "282", "161"), "--intrinsics: expected 4 arguments"),
        (("depth", "a.png", "--grid", "many"), "--grid: invalid int value: 'many': see `depthlm depth --help`"),
        (("data", "bench", "a.jsonl"), "required: --out: see `depthlm data bench --help`"),
    ],
)
def test_wrong_option_is_one_line_without_the_usage(capsys, words, text):
    with pytest.raises(SystemExit, match="2"):
        cli.main(words)
    out, err = capsys.readouterr()
    assert not out and err.startswith("depthlm: ") and err.count("\n") == 1 and text in err


def test_help_lists_every_verb_and_imports_nothing_heavy():
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

# SPDX-License-Identifier: Apache-2.0
"""Rendered scenes on disk: they can be curated, paired and evaluated, and an interrupted run can be continued."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from support.command_line import start
from support.small_data_sets import curate_and_read, make_job

from depthlm_ros.cli import main
from depthlm_ros.data.depthfile import read_z
from depthlm_ros.data.pairs import PairOptions, curate_pairs
from depthlm_ros.data.read import iter_pairs, parse_object_conversation
from depthlm_ros.errors import BadInput
from depthlm_ros.eval.object_questions import ABSENT, LENGTH, read_object_questions
from depthlm_ros.scenes.write_dataset import RenderingOptions, write_scene, write_scenes

SMALL = {"width_px": 160, "height_px": 120, "focal_px": 130.0}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    out = tmp_path_factory.mktemp("rendered") / "scenes"
    assert write_scenes(RenderingOptions(6, **SMALL, questions=8), out, workers=2)[0] == 6
    return out


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_scenes_are_curated_as_data_set_folder(scenes, tmp_path):
    records, report = curate_and_read("folder", scenes, tmp_path, format="depthvlm")
    assert len(records) == 12 and report["problems"] == {}
    for record in records:
        assert record.intrinsics == RenderingOptions(1, **SMALL).camera
        depth_m = read_z(record)
        assert depth_m.shape == (120, 160) and np.isfinite(depth_m).mean() > 0.3 and np.nanmax(depth_m) < 65.536


def test_views_of_a_scene_form_a_pair_with_consistent_depths(scenes, tmp_path):
    """Covisibility is computed from both depth maps and the poses, so it would be zero if they disagreed."""
    report = curate_pairs(make_job("folder", scenes, tmp_path), PairOptions(covisible=0.1), 1)
    pairs = list(iter_pairs(tmp_path / "folder.pairs.jsonl", []))
    assert len(pairs) >= 5 and report["records"] == len(pairs)
    assert all(np.linalg.norm(pair.translation_m) < 5 for pair in pairs)


def test_distances_of_points_agree_with_the_depth_map(scenes):
    questions, problems = read_object_questions(scenes / "questions.jsonl")
    assert not problems and {LENGTH, ABSENT} <= {question.kind for question in questions}
    records = {
        record.image: record for record in curate_and_read("folder", scenes, scenes.parent, format="depthvlm")[0]
    }
    points = [question for question in questions if question.category == "point"]
    assert points
    for question in points:
        ((u, v),), lens = question.uv_px, question.intrinsics
        ray = ((u - lens.cx_px) / lens.fx_px, (v - lens.cy_px) / lens.fy_px, 1)
        z_m = read_z(records[question.image.resolve()])[int(v), int(u)]
        assert question.truth == pytest.approx(z_m * np.linalg.norm(ray), abs=2e-3)


def test_conversations_have_the_format_of_vlm3_training_data(scenes):
    lines = (scenes / "conversations.jsonl").read_text().splitlines()
    records = [parse_object_conversation(json.loads(line), "", scenes) for line in lines]
    assert len(records) > 6
    turns = [turn for record in records for turn in record.turns]
    assert any("meters" in reply for _, reply in turns) and any("There is no" in reply for _, reply in turns)


def test_scene_depends_only_on_seed_and_number_and_interrupted_run_continues(scenes, tmp_path):
    rendering, out = RenderingOptions(6, **SMALL, questions=8), tmp_path / "scenes"
    write_scenes(RenderingOptions(1, **SMALL, questions=8), out, workers=1)
    write_scene(rendering, out, "000003")
    (out / "000001" / "rgb").mkdir(parents=True)  # the run was killed here
    (out / "000001" / "rgb" / "partial-0.png").write_bytes(b"half a pict")
    write_scenes(rendering, out, workers=1)
    assert files(out) == files(scenes)
    (out / "000002" / "depth" / "1.png").unlink()
    (out / "000004" / "conversations.jsonl").unlink()
    fewer = write_scenes(RenderingOptions(1, **SMALL, questions=8), out, workers=1)
    assert fewer[0] == 6 and files(out) == files(scenes)  # all scenes that exist, and all complete
    other = RenderingOptions(6, **SMALL, questions=8, seed=1)
    with pytest.raises(BadInput, match="contains scenes with seed 42, not 1: choose another folder"):
        write_scenes(other, out, workers=1)
    write_scene(other, tmp_path / "other", "000003")
    assert files(tmp_path / "other" / "000003") != files(scenes / "000003")


def test_command_line_names_the_next_command(tmp_path, capsys):
    options = ["--scenes", "1", "--size", "64", "48", "--focal", "50", "--questions", "0", "--workers", "1"]
    assert main(["data", "render", "--out", str(tmp_path / "out"), *options]) == 0
    assert "1 scenes of two views, 0 questions (depthlm data curate folder" in capsys.readouterr().out
    kept = json.loads((tmp_path / "out" / "rendering.json").read_text())
    assert kept["width_px"] == 64 and "scenes" not in kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scenes", "0"], "--scenes is 0; it must be from 1"),
        (["--size", "640", "9000"], "the height of --size is 9000; it must be from 32 to 4096"),
        (["--focal", "nan"], "--focal is nan"),
        (["--size", "320", "640", "--focal", "7000"], "--focal is 7000.0; it must be from 160 to 6400"),
        (["--questions", "-1"], "--questions is -1"),
        (["--seed", "-1"], "--seed is -1"),
        (["--workers", "-1"], "--workers is -1"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, capsys, options, message):
    assert main(["data", "render", "--out", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_folder_with_damaged_options_is_refused(tmp_path, capsys):
    (tmp_path / "rendering.json").write_text("[1")
    assert main(["data", "render", "--out", str(tmp_path), "--scenes", "1"]) == 2
    assert "rendering.json is damaged" in capsys.readouterr().err


def test_folder_with_other_content_is_left_unchanged(tmp_path, capsys):
    (tmp_path / "questions.jsonl").write_text("mine")
    assert main(["data", "render", "--out", str(tmp_path), "--scenes", "1"]) == 2
    assert "contains something else" in capsys.readouterr().err
    assert files(tmp_path) == {Path("questions.jsonl"): b"mine"}


def test_interrupt_ends_with_one_line_and_leaves_only_complete_files(tmp_path):
    command = ["data", "render", "--out", str(tmp_path / "out"), "--scenes", "500", "--workers", "2"]
    process = start(*command, start_new_session=True)
    deadline_s = time.monotonic() + 120
    while not list(tmp_path.glob("out/*/questions.jsonl")) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "depthlm: interrupted." and "Traceback" not in stderr
    for questions in tmp_path.glob("out/*/questions.jsonl"):
        views = sorted(path.name for path in questions.parent.rglob("[01].*"))
        assert views == ["0.png", "0.png", "0.txt", "1.png", "1.png", "1.txt"]


def test_unwritable_folder_is_reported_and_existing_file_is_kept(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["data", "render", "--out", str(tmp_path / "file" / "out"), "--scenes", "1"]) == 2
    assert "Fix this, then run the same command again to continue." in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == ""

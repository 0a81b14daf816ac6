# SPDX-License-Identifier: Apache-2.0
"""VLM3's checkpoints as one model: each is loaded when a question needs it, and answers as it does alone."""

import json
import logging
import shutil

import numpy as np
import pytest
from support.checkered_room import CAMERA, render_room

pytest.importorskip("torch")

from support.released_checkpoints import publish

from depthlm_ros import cli
from depthlm_ros.backends import torch_backend
from depthlm_ros.backends.registry import memory_bytes
from depthlm_ros.core import Frame, Question, Region
from depthlm_ros.errors import BadBundle, BadQuestion, OutOfMemory
from depthlm_ros.families import vlm3
from depthlm_ros.image_io import write_rgb
from depthlm_ros.model import Vlm3Models, load_model
from depthlm_ros.model_files.checkpoint import Vlm3Checkpoints, find_source

pytestmark = pytest.mark.torch
LENS = ["--intrinsics", "280", "282", "161", "118.5"]
BOX = Region(20, 30, 100, 90)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder with a checkpoint for each task, two of them named as the repositories are."""
    folder = tmp_path_factory.mktemp("vlm3")
    publish(folder / "vlm3-depth", "qwen3_vl", with_head=False)
    for name in ("VLM3-object", "VLM3-corr", "vlm3-pose"):
        shutil.copytree(folder / "vlm3-depth", folder / name)
    return folder


@pytest.fixture(autouse=True)
def _short_replies(monkeypatch):
    for limit in ("OBJECT_REPLY_TOKENS", "MATCH_REPLY_TOKENS", "POSE_REPLY_TOKENS", "POINT_REPLY_TOKENS"):
        monkeypatch.setattr(vlm3, limit, 6)


@pytest.fixture
def loads(monkeypatch):
    """The names of the models whose weights were loaded."""
    names, loader = [], torch_backend.backbone_loader

    def note_and_load(source, *args, **options):
        names.append(source.spec.name)
        return loader(source, *args, **options)

    monkeypatch.setattr("depthlm_ros.backends.registry.backbone_loader", note_and_load)
    return names


def frame(wall_m=5.0):
    return Frame(render_room(wall_m=wall_m)[0], CAMERA)


def test_each_question_loads_the_checkpoint_that_it_needs_once(weights, loads, caplog):
    model = load_model(f"vlm3={weights}", device="cpu")
    assert isinstance(model, Vlm3Models) and (model.name, model.spec.head, loads) == ("vlm3", "", [])
    view, pair = model.look(frame()), model.look_pair(frame(), frame(4.0))
    with caplog.at_level(logging.WARNING):
        view.depth_at([[9, 9]])
        model.look(frame(4.0)).tell_depth_at([[9, 9]])
        assert loads == ["vlm3-depth"]
        view.ask("How wide is it?", regions=[BOX])
        pair.pose(), pair.match([[9, 9]]), view.ask("What is it?")
    assert loads == ["vlm3-depth", "vlm3-object", "vlm3-pose", "vlm3-corr"]
    assert model.backend_name == "torch" and model.coverage(CAMERA) == 1
    said = [record.getMessage() for record in caplog.records if "is loaded" in record.getMessage()]
    source = find_source(f"vlm3-depth={weights / 'vlm3-depth'}")
    size_bytes = 4 * sum(int(np.prod(each.shape)) for each in source.weights.tensors.values())
    assert memory_bytes(source, model.model_for("points").backend) == size_bytes
    assert len(said) == 4 and said[1].startswith("vlm3-object is loaded:")
    assert f"{size_bytes / 1e9:.2f} GB of memory, {4 * size_bytes / 1e9:.2f} GB" in said[3]


def test_answers_are_those_of_the_checkpoints_alone(weights):
    together = load_model(f"vlm3={weights}", device="cpu")
    alone = {
        task: load_model(f"vlm3-{task}={folder}", device="cpu")
        for task, folder in (("depth", weights / "vlm3-depth"), ("object", weights / "VLM3-object"))
    }
    view, other = together.look(frame()), {task: model.look(frame()) for task, model in alone.items()}
    uv_px = [[100, 120], [3, 4]]
    assert np.array_equal(view.tell_depth_at(uv_px).std_m, other["depth"].tell_depth_at(uv_px).std_m, equal_nan=True)
    questions = [
        Question("Is it wide?", regions=(BOX,)),
        Question("How far is this point?", np.array([[100.0, 120.0]])),
        Question("Is it tall?", regions=(BOX,)),
    ]
    answers = view.ask_all(questions)
    assert [answer.text for answer in answers] == [
        *(answer.text for answer in other["object"].ask_all(questions[:1])),
        *(answer.text for answer in other["depth"].ask_all(questions[1:2])),
        *(answer.text for answer in other["object"].ask_all(questions[2:])),
    ]
    frames = frame(), frame(4.0)
    corr, pose = (
        load_model(f"vlm3-{task}={folder}", device="cpu").look_pair(*frames)
        for task, folder in (("corr", weights / "VLM3-corr"), ("pose", weights / "vlm3-pose"))
    )
    pair = together.look_pair(*frames)
    assert pair.match(uv_px).replies == corr.match(uv_px).replies and pair.pose().replies == pose.pose().replies


def test_what_no_checkpoint_can_do_is_refused(weights, loads):
    model = load_model(f"vlm3={weights}", device="cpu")
    view, pair = model.look(frame()), model.look_pair(frame(), frame())
    with pytest.raises(BadQuestion, match="vlm3 has no dense depth"):
        view.depth()
    with pytest.raises(BadQuestion, match="cannot answer questions"):
        pair.ask("How far apart are they?")
    assert not loads


def test_missing_checkpoint_is_an_error_only_when_it_is_needed(weights, tmp_path, monkeypatch):
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "VLM3-corr").symlink_to(weights / "VLM3-corr")
    model = load_model(f"vlm3={tmp_path / 'some'}", device="cpu")
    assert len(model.look_pair(frame(), frame()).match([[9, 9]]).replies) == 1
    with pytest.raises(BadBundle, match="holds no folder vlm3-depth"):
        model.look(frame()).depth_at([[9, 9]])
    with pytest.raises(BadBundle, match="hf download facebook/VLM3-depth"):
        load_model("vlm3")
    with pytest.raises(BadBundle, match="no such folder"):
        load_model(f"vlm3={tmp_path / 'none'}")
    with pytest.raises(BadBundle, match="no such folder"):
        load_model("vlm3=")
    assert find_source("vlm3") == Vlm3Checkpoints() == find_source(find_source("vlm3"))


def test_short_memory_is_reported_with_what_is_loaded_and_what_to_do(weights, monkeypatch):
    model = load_model(f"vlm3={weights}", device="cpu")
    model.look(frame()).depth_at([[9, 9]])

    def no_memory(source, *args, **options):
        raise OutOfMemory("device cuda has no memory left to load the model: 9 GB.")

    monkeypatch.setattr("depthlm_ros.backends.registry.backbone_loader", no_memory)
    with pytest.raises(OutOfMemory, match=r"GB of vlm3 are loaded: use this checkpoint alone \(--model vlm3-object\)"):
        model.look(frame()).ask("What is it?")
    assert len(model.look(frame()).depth_at([[9, 9]]).depth_m) == 1


def test_command_line_takes_them_as_one_model(weights, tmp_path, capsys, loads):
    paths = [tmp_path / "first.png", tmp_path / "second.png"]
    for path, wall_m in zip(paths, (5.0, 4.0), strict=True):
        write_rgb(path, render_room(wall_m=wall_m)[0])
    first, second = map(str, paths)
    options = [*LENS, "--model", f"vlm3={weights}", "--device", "cpu"]
    assert cli.main(["depth", first, *options]) == 2
    assert "say what to write" in capsys.readouterr().err
    assert cli.main(["depth", first, "--out", str(tmp_path / "d.npy"), *options]) == 2
    assert "vlm3 tells depth at single pixels" in capsys.readouterr().err and not loads
    assert cli.main(["depth", first, "--pixel", "9", "9", "--json", *options]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"u", "v", "depth_m", "std_m"}
    assert cli.main(["ask", first, "What is it?", "--region", "1", "2", "30", "40", "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "vlm3"
    assert cli.main(["match", first, second, "--pixel", "9", "9", *options]) == 0
    assert cli.main(["pose", first, second, *options]) == 0
    assert loads == ["vlm3-depth", "vlm3-object", "vlm3-corr", "vlm3-pose"]

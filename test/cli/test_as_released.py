# SPDX-License-Identifier: Apache-2.0
"""--as-released on the command line: it reaches the model, changes what the release does otherwise, and says so."""

import json

import numpy as np
import pytest
from support.checkered_room import render_room, write_labels
from support.paths import needs_tiny

pytest.importorskip("torch")

from support.released_checkpoints import publish

from depthlm_ros import cli
from depthlm_ros.families import depthlm, vlm3
from depthlm_ros.image_io import write_rgb
from depthlm_ros.model import Model, load_model
from depthlm_ros.model_files.checkpoint import find_source

pytestmark = pytest.mark.torch
LENS = ["--intrinsics", "280", "282", "161", "118.5"]
KINDS = {"depthlm-12b": "llava", "vlm3-depth": "qwen3_vl"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for name, kind in KINDS.items():
        publish(folder / name, kind, with_head=False)
    return {name: f"{name}={folder / name}" for name in KINDS}


@pytest.fixture
def room(tmp_path):
    write_rgb(tmp_path / "room.png", render_room()[0])
    return tmp_path / "room.png"


@pytest.fixture(autouse=True)
def _short_replies(monkeypatch):
    monkeypatch.setattr(depthlm, "REPLY_TOKENS", 12)
    monkeypatch.setattr(vlm3, "POINT_REPLY_TOKENS", 12)
    monkeypatch.setattr(vlm3, "MATCH_REPLY_TOKENS", 12)


@pytest.fixture
def asked(monkeypatch):
    """The specs of the models that replied, and their prompts."""
    found = []
    for name in ("generate_replies", "generate_marked_replies"):
        generate = getattr(Model, name)

        def note_and_generate(model, seen, prompts, generate=generate):
            found.append((model.spec, prompts))
            return generate(model, seen, prompts)

        monkeypatch.setattr(Model, name, note_and_generate)
    return found


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("verb", ["depth", "ask"])
def test_flag_reaches_the_model_and_is_explained(weights, room, capsys, asked, name, verb):
    question = ["How far is this point?"] if verb == "ask" else []
    words = [verb, str(room), *question, *LENS, "--pixel", "100", "120", "--model", weights[name], "--device", "cpu"]
    assert cli.main(words) == 0 and "as-released" not in capsys.readouterr().err
    assert cli.main([*words, "--as-released"]) == 0
    said = capsys.readouterr().err
    assert f"--as-released: {name} is asked" in said and "kernels" in said
    assert ("arrows" in said) == (name == "depthlm-12b")
    (plain, _), (released, _) = asked[0], asked[-1]
    assert not plain.released and plain.canvas.pixel_rule == "centre"
    assert released.released and released.canvas.pixel_rule == "truncate" and released.depth_type == "z"


def test_released_pixels_and_whole_replies_are_used(weights, room, asked):
    """The place of the pixel and the decoding differ from the default, as load_model alone shows."""
    model = load_model(weights["depthlm-12b"], device="cpu", as_released=True)
    words = [
        "depth",
        str(room),
        *LENS,
        "--pixel",
        "100.7",
        "120.7",
        "--model",
        weights["depthlm-12b"],
        "--device",
        "cpu",
    ]
    assert cli.main(words) == cli.main([*words, "--as-released"]) == 0
    (_, (plain,)), (spec, (released,)) = asked
    assert spec == model.spec and plain.markers_px != released.markers_px
    # The released code scales the whole pixel by the focal length's ratio and cuts the fraction off.
    assert all(value == int(value) for value in np.ravel(released.markers_px))


def test_metres_in_words_are_not_converted(weights):
    source = find_source(weights["vlm3-depth"])
    assert source.spec.depth_type == "range"
    assert load_model(source, device="cpu", as_released=True).spec.depth_type == "z"


def test_flag_reaches_the_scored_model(weights, tmp_path, asked, capsys):
    labels, out = write_labels(tmp_path, images=1, points=2), tmp_path / "scores.json"
    words = ["eval", str(labels), "--model", weights["vlm3-depth"], "--device", "cpu", "--json", str(out)]
    assert cli.main([*words, "--protocol", "depthlm", "--limit", "1", "--as-released"]) == 0
    assert "--as-released: vlm3-depth is asked" in capsys.readouterr().err
    assert asked[-1][0].released and json.loads(out.read_text())["as_released"]


def test_flag_reaches_all_of_vlm3(weights, room, tmp_path, asked, capsys):
    folder = tmp_path / "vlm3"
    folder.mkdir()
    for task in ("depth", "corr"):
        (folder / f"vlm3-{task}").symlink_to(weights["vlm3-depth"].partition("=")[2])
    model = ["--model", f"vlm3={folder}", "--device", "cpu", "--as-released"]
    assert cli.main(["depth", str(room), *LENS, "--pixel", "9", "9", *model]) == 0
    assert cli.main(["match", str(room), str(room), *LENS, "--pixel", "9", "9", *model]) == 0
    assert [(spec.name, spec.released) for spec, _ in asked] == [("vlm3-depth", True), ("vlm3-corr", True)]
    assert asked[-1][0].canvas.pixel_rule == "scale"
    assert capsys.readouterr().err.count("--as-released: vlm3 is asked") == 2


@needs_tiny
def test_model_that_is_no_release_says_so(room, capsys):
    assert cli.main(["depth", str(room), *LENS, "--pixel", "9", "9", "--as-released"]) == 0
    assert "tiny is not a released checkpoint" in capsys.readouterr().err

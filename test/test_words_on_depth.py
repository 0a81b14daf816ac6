# SPDX-License-Identifier: Apache-2.0
"""A network for depth with another model's words: depth is the network's alone, and the words read that depth.

The words' model is a bundle of graphs made by hand (support/depth_first_bundle.py): its keys and values are its own
features, the depth that it read and its deviation, so that a test sees what the language model was given.
"""

import json
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest
import yaml

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from support.command_line import depthlm
from support.depth_first_bundle import TOKEN_PX, write_depth_first_bundle, write_manifest
from support.depth_networks import FASTDEPTH, PHOTOGRAPHS, TEACHER, write_network

from depthlm_ros.backends.generation import GeneratedTokens
from depthlm_ros.backends.number_uncertainty import GenerationResult
from depthlm_ros.core import Frame, Intrinsics, Region, Status
from depthlm_ros.errors import BadBundle, BadQuestion
from depthlm_ros.geometry.canonical_view import fill_unknown
from depthlm_ros.model import load_model

pytestmark = pytest.mark.torch
CAMERA = Intrinsics(50.0, 50.0, 31.5, 15.5, 64, 32)
FIELDS = {
    "image": {"input": "image", "fit": "squeeze", "size_px": [64, 32]},
    "depth": {"output": "depth", "kind": "metres"},
}
TOKENS = (32 // TOKEN_PX, 64 // TOKEN_PX)
# Tokens of the texts before and after the image (BEFORE and AFTER of the bundle).
TEXT_BEFORE, TEXT_AFTER = 2, 1
QUESTION = "How far is this point?"


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return write_depth_first_bundle(tmp_path_factory.mktemp("words") / "small")


def network_of(folder, words, fields=FIELDS, **network):
    return str(write_network(folder / "own", fields | {"words": str(getattr(words, "folder", words))}, **network))


def model_of(*given, **network):
    return load_model(network_of(*given, **network), threads=1)


def grey_frame(brightness=51, **fields):
    return Frame(np.full((32, 64, 3), brightness, np.uint8), CAMERA, **fields)


def halves_frame():
    """The left half is black, the right half is white."""
    rgb = np.zeros((32, 64, 3), np.uint8)
    rgb[:, 32:] = 255
    return Frame(rgb, CAMERA)


def read_maps(view):
    """Returns what the language model has read for each token: the red colour, the depth and its deviation."""
    keys, values = (one.numpy()[0, 0, 0, TEXT_BEFORE:-TEXT_AFTER] for one in view._look.prefix)
    return [column.reshape(TOKENS) for column in (keys[:, 0], values[:, 0], values[:, 1])]


@pytest.fixture
def sessions(monkeypatch):
    """The files of all graphs that were loaded, in their order."""
    from depthlm_ros.backends.onnx_runtime import OnnxSessions

    loaded, load = [], OnnxSessions._session

    def load_and_keep(self, path, *args, **options):
        loaded.append(path.name)
        return load(self, path, *args, **options)

    monkeypatch.setattr(OnnxSessions, "_session", load_and_keep)
    return loaded


# ---- whose depth, and when the words' model works


def test_depth_and_its_deviation_are_those_of_the_network_alone(tmp_path, words):
    fields = FIELDS | {"depth": FIELDS["depth"] | {"relative_std": "spread"}, "calibration": {"map_std_factor": 2.0}}
    model = model_of(tmp_path, words, fields, gain=2.0, offset=1.0)
    alone = load_model(str(write_network(tmp_path / "alone", fields, gain=2.0, offset=1.0)), threads=1)
    frame = halves_frame()
    both, only = model.look(frame), alone.look(frame)
    for asked in (False, True):
        if asked:
            both.ask(QUESTION, [(3, 4)])
        np.testing.assert_array_equal(both.depth().depth_m, only.depth().depth_m)
        np.testing.assert_array_equal(both.depth().std_m, only.depth().std_m)
        for name in ("depth_m", "std_m"):
            found, expected = (getattr(view.depth_at([(5, 6), (60, 30)]), name) for view in (both, only))
            np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(both.depth().std_m, 0.2 * both.depth().depth_m, rtol=1e-5)


def test_graphs_of_the_words_are_loaded_and_run_at_the_first_question_and_once_a_view(
    tmp_path, words, sessions, monkeypatch
):
    model = model_of(tmp_path, words)
    looks, look = [], model.backend.look
    monkeypatch.setattr(model.backend, "look", lambda images: looks.append(images) or look(images))
    views = [model.look(grey_frame(brightness)) for brightness in (51, 102)]
    for view in views:
        view.depth(), view.depth_at([(3, 4)])
    assert (sessions, looks) == (["net.onnx"], [])
    for _ in range(2):
        views[0].ask(QUESTION, [(3, 4)]), views[0].tell_depth_at([(3, 4)])
    assert sessions == ["net.onnx", "look_64x32.onnx", "read_64x32.onnx", "step.onnx"] and len(looks) == 1
    views[1].ask(QUESTION, [(3, 4)])
    assert len(sessions) == 4 and len(looks) == 2


# ---- what the words read


def test_the_language_model_reads_the_depth_of_the_network_with_its_own_features(tmp_path, words):
    view = model_of(tmp_path, words, gain=4.0, offset=1.0).look(halves_frame())
    red, depth_m, std = read_maps(view)
    right = np.array([False, False, True, True])
    np.testing.assert_allclose(red, np.broadcast_to(np.where(right, 255.0, 0.0), TOKENS))
    np.testing.assert_allclose(depth_m, np.broadcast_to(np.where(right, 5.0, 1.0), TOKENS), rtol=1e-5)
    # The network does not tell its deviation: that is the words' own.
    np.testing.assert_allclose(std, np.broadcast_to(np.where(right, 0.05 + 0.0255, 0.05), TOKENS), rtol=1e-4)


def test_another_depth_of_the_network_gives_another_answer(tmp_path, words):
    answers = {}
    for gain in (1.0, 3.0):
        view = model_of(tmp_path / str(gain), words, gain=gain, offset=1.0).look(grey_frame())
        answers[gain] = view.ask("How far is the box?").text
        np.testing.assert_allclose(read_maps(view)[1], 1 + 0.2 * gain, rtol=1e-5)
    assert answers[1.0] != answers[3.0]


def test_deviation_that_the_network_tells_is_read(tmp_path, words):
    fields = FIELDS | {"depth": FIELDS["depth"] | {"relative_std": "spread"}}
    _, _, std = read_maps(model_of(tmp_path, words, fields, offset=1.0).look(grey_frame()))
    np.testing.assert_allclose(std, 0.1, rtol=1e-5)


def test_unknown_depth_is_filled_with_the_words_own_at_the_networks_scale_but_not_published(tmp_path, words):
    """Black is unknown depth here, and 1 m for the words; white is 2 m, and 3.55 m for the words."""
    view = model_of(tmp_path, words, gain=2.0).look(halves_frame())
    _, depth_m, std = read_maps(view)
    right = np.array([False, False, True, True])
    np.testing.assert_allclose(depth_m, np.broadcast_to(np.where(right, 2.0, 2.0 / 3.55), TOKENS), rtol=1e-5)
    assert np.isfinite(std).all()
    view.ask("How far is the box?")
    assert np.isnan(view.depth().depth_m[:, :32]).all() and (view.depth().depth_m[:, 32:] == 2.0).all()
    assert np.isnan(view.depth_at([(3, 4)]).depth_m).all()


@pytest.mark.parametrize("seen_columns", [0, 32])
def test_view_without_any_or_with_half_of_the_depth_is_answered(tmp_path, words, seen_columns):
    seen = np.zeros((32, 64), bool)
    seen[:, :seen_columns] = True
    view = model_of(tmp_path, words, gain=2.0, offset=1.0).look(grey_frame(seen=seen))
    assert view.ask("How far is the box?").text
    # Without any known depth the words' own remains, 1 + 51 / 100.
    np.testing.assert_allclose(read_maps(view)[1], 1.4 if seen_columns else 1.51, rtol=1e-5)


def test_camera_of_another_size_gives_each_canvas_pixel_the_depth_at_its_place(tmp_path, words):
    """Twice the focal length and the size: the canvas of the words is the same, and its halves meet in the middle."""
    camera = Intrinsics(100.0, 100.0, 63.5, 31.5, 128, 64)
    rgb = np.zeros((64, 128, 3), np.uint8)
    rgb[:, 64:] = 255
    _, depth_m, _ = read_maps(model_of(tmp_path, words, gain=4.0, offset=1.0).look(Frame(rgb, camera)))
    np.testing.assert_allclose(depth_m, np.broadcast_to([1.0, 1.0, 5.0, 5.0], TOKENS), rtol=0.05)


def test_filled_map_keeps_known_depth_and_is_positive_everywhere():
    depth_m = np.array([[2.0, np.nan, np.inf, -1.0, 4.0]], np.float32)
    other_m = np.array([[1.0, 3.0, 5.0, 7.0, 2.0]], np.float32)
    filled = fill_unknown(depth_m, other_m)
    np.testing.assert_array_equal(filled, np.array([[2.0, 6.0, 10.0, 14.0, 4.0]], np.float32))
    assert filled.dtype == np.float32
    np.testing.assert_array_equal(fill_unknown(np.full_like(depth_m, np.nan), other_m), other_m)


# ---- answers


def say(model, monkeypatch, text):
    """Replaces what the language model says; everything else is as it is."""
    result = GenerationResult(text, (text,), GeneratedTokens((1,), (0.0,), True, np.full((2, 11), -99.0, np.float32)))
    monkeypatch.setattr(model, "generate_replies", lambda look, prompts: [result] * len(prompts))


def test_measurements_and_points_of_an_answer_are_of_the_networks_depth(tmp_path, words, monkeypatch):
    fields = FIELDS | {"calibration": {"dense_relative": 0.2}}
    model = model_of(tmp_path, words, fields, gain=2.0, offset=1.0)
    say(model, monkeypatch, "The point is 9.00 meters away.")
    answer = model.look(grey_frame()).ask(QUESTION, [(31.5, 15.5)])
    (distance,) = [one for one in answer.measurements if one.quantity == "distance"]
    assert distance.value == pytest.approx(1.4, abs=0.01) and answer.points_m[0, 2] == pytest.approx(1.4, abs=1e-4)
    # The deviation of the map is as the network's file says.
    assert distance.std == pytest.approx(0.2 * 1.4, rel=0.05)
    assert (answer.status, answer.words_value) == (Status.INCONSISTENT, 9.0)
    assert answer.value == pytest.approx(distance.value)


def test_calibration_of_words_is_that_of_their_model(tmp_path):
    own = {"words_relative": 0.3, "confidence_gain": 0.5, "dense_relative": 0.7, "map_std_factor": 9.0}
    words = write_depth_first_bundle(tmp_path / "small", calibration=own)
    found = model_of(tmp_path, words, FIELDS | {"calibration": {"dense_relative": 0.2}}).spec.calibration
    assert (found.words_relative, found.confidence_gain) == (0.3, 0.5)
    assert (found.dense_relative, found.map_std_factor) == (0.2, 1.0)


def test_regions_and_bad_questions_are_treated_as_by_every_model(tmp_path, words, monkeypatch):
    model = model_of(tmp_path, words, FIELDS | {"calibration": {"dense_relative": 0.2}}, offset=1.0)
    view = model.look(grey_frame())
    with pytest.raises(BadQuestion, match="outside"):
        view.ask(QUESTION, [(64.0, 3.0)])
    with pytest.raises(BadQuestion, match="region"):
        view.ask("How far is this object?", regions=[Region(60, 3, 20, 20)])
    say(model, monkeypatch, "The point is 1.20 meters away.")
    answer = view.ask("How far is this object?", regions=[Region(10, 5, 20, 20)])
    assert answer.status is Status.OK and answer.measurements[0].value == pytest.approx(1.2, abs=0.1)


def test_pairs_are_those_of_the_words_model(tmp_path, words, sessions):
    frames = grey_frame(100), grey_frame(200)
    model = model_of(tmp_path, words)
    found = model.look_pair(*frames)
    expected = load_model(words, "onnxruntime", threads=1).look_pair(*frames)
    assert found.match([(3, 4)]).replies == expected.match([(3, 4)]).replies == ("",)
    np.testing.assert_array_equal(found.pose().rotation, expected.pose().rotation)
    with pytest.raises(BadQuestion, match="cannot answer questions about two images"):
        found.ask("What moved?")
    assert "read_64x32.onnx" not in sessions


def test_threads_that_ask_one_view_read_it_once_and_depth_does_not_wait(tmp_path, words, monkeypatch):
    model = model_of(tmp_path, words, offset=1.0)
    started, gate, looks, look = threading.Event(), threading.Event(), [], model.backend.look

    def wait_and_look(images):
        looks.append(images)
        started.set()
        assert gate.wait(20)
        return look(images)

    monkeypatch.setattr(model.backend, "look", wait_and_look)
    view, answers = model.look(grey_frame()), []
    threads = [threading.Thread(target=lambda: answers.append(view.ask("How far is the box?").text)) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert started.wait(20)
    np.testing.assert_allclose(view.depth().depth_m, 1.2, rtol=1e-5)
    np.testing.assert_allclose(model.look(grey_frame(102)).depth_at([(3, 4)]).depth_m, 1.4, rtol=1e-5)
    assert answers == []
    gate.set()
    for thread in threads:
        thread.join(20)
    assert len(looks) == 1 and len(answers) == 4 and len(set(answers)) == 1


# ---- names, and models that cannot be used


def test_both_models_are_named(tmp_path, words):
    model = model_of(tmp_path, words)
    assert (model.name, model.spec.name, model.backend_name) == ("own+small", "own+small", "onnxruntime")
    assert (model.depth_model.name, model.words_model.name) == ("own", "small")


def test_command_line_names_both_models_and_tells_the_time_of_each(tmp_path, words):
    from depthlm_ros.image_io import write_rgb

    write_rgb(tmp_path / "grey.png", grey_frame().rgb)
    camera = ("--intrinsics", 50, 50, 31.5, 15.5)
    folder = network_of(tmp_path, words, offset=1.0)
    done = depthlm("ask", tmp_path / "grey.png", QUESTION, *camera, "--model", folder, "--pixel", 3, 4, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout, parse_constant=pytest.fail)
    assert answer["model"] == "own+small" and answer["look_s"] > 0 and answer["answer_s"] > 0


def test_evaluation_names_both_models_and_keeps_results_of_other_words_apart(tmp_path, words):
    from depthlm_ros.image_io import write_rgb

    write_rgb(tmp_path / "grey.png", grey_frame().rgb)
    record = {
        "image": "grey.png",
        "intrinsics": list(vars(CAMERA).values()),
        "pixel_coords": [[3, 4], [9, 9]],
        "depth": [1.2, 1.2],
    }
    (tmp_path / "labels.jsonl").write_text(json.dumps(record) + "\n")
    own = write_depth_first_bundle(tmp_path / "own_words")
    folder = network_of(tmp_path, own, offset=1.0)

    def evaluate():
        out = ("--json", tmp_path / "scores.json", "--results", tmp_path / "kept.jsonl")
        return depthlm("eval", tmp_path / "labels.jsonl", "--model", folder, *out)

    done = evaluate()
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert (scores["model"], scores["delta1"], scores["n"]) == ("own+small", 1.0, 2)
    assert evaluate().returncode == 0
    write_manifest(own.folder, calibration={"words_relative": 0.1})
    done = evaluate()
    assert done.returncode != 0 and "words" in done.stderr


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (
            {"depth_first": False, "pairs": False},
            "which cannot read the depth of another network: only depth-first models can",
        ),
        ({"only_depth": True}, "if they were not built for depth only"),
        ({"format": 2}, "format"),
    ],
)
def test_words_model_that_cannot_read_depth_is_refused_when_it_is_loaded(tmp_path, words, fields, reason):
    copy = tmp_path / "copy"
    shutil.copytree(words.folder, copy)
    write_manifest(copy, **fields)
    folder = network_of(tmp_path, copy)
    with pytest.raises(BadBundle, match=reason) as caught:
        load_model(folder)
    assert f"{folder}/depth_map.yaml: words is '{copy}'" in str(caught.value)


def test_damaged_unknown_and_wordless_models_are_refused_with_file_and_field(tmp_path, words):
    damaged = tmp_path / "damaged"
    shutil.copytree(words.folder, damaged)
    (damaged / "step.onnx").write_bytes(b"not a graph")
    other = write_network(tmp_path / "other", FIELDS)
    reasons = {str(damaged): "step.onnx", "no-such-model": "not a known model", str(other): "cannot read the depth"}
    for index, (name, reason) in enumerate(reasons.items()):
        folder = network_of(tmp_path / str(index), name)
        with pytest.raises(BadBundle) as caught:
            load_model(folder)
        assert f"{folder}/depth_map.yaml: words is '{name}'" in str(caught.value) and reason in str(caught.value)


def test_network_whose_words_are_missing_gives_depth_without_the_field(tmp_path):
    folder = network_of(tmp_path, "no-such-model", offset=1.0)
    fields = yaml.safe_load((tmp_path / "own" / "depth_map.yaml").read_text())
    del fields["words"]
    (tmp_path / "own" / "depth_map.yaml").write_text(yaml.safe_dump(fields))
    model = load_model(folder, threads=1)
    np.testing.assert_allclose(model.look(grey_frame()).depth().depth_m, 1.2, rtol=1e-5)
    with pytest.raises(BadQuestion, match="network for depth alone"):
        model.look(grey_frame()).ask(QUESTION, [(3, 4)])


# ---- a published network


@pytest.mark.skipif(not TEACHER.is_file(), reason="fastdepth.onnx is not here")
@pytest.mark.skipif(not PHOTOGRAPHS.is_file(), reason="the 40 photographs of iBims-1 are not here")
def test_fastdepth_answers_about_a_photograph_with_its_own_depth(tmp_path, random_bundle, monkeypatch):
    from depthlm_ros.data.read import read_records
    from depthlm_ros.image_io import read_rgb

    folder = tmp_path / "fastdepth"
    folder.mkdir()
    (folder / "fastdepth.onnx").symlink_to(TEACHER)
    (folder / "depth_map.yaml").write_text(yaml.safe_dump(FASTDEPTH))
    alone = load_model(str(folder), threads=1)
    (folder / "depth_map.yaml").write_text(yaml.safe_dump(FASTDEPTH | {"words": str(random_bundle.folder)}))
    model = load_model(str(folder), threads=1)
    record = read_records(PHOTOGRAPHS).records[0]
    frame = Frame(read_rgb(record.image), record.intrinsics)
    view, expected_m = model.look(frame), alone.look(frame).depth().depth_m
    np.testing.assert_array_equal(view.depth().depth_m, expected_m)
    assert model.name == "fastdepth+random"
    centre_px = (frame.intrinsics.width_px / 2, frame.intrinsics.height_px / 2)
    assert view.ask(QUESTION, [centre_px]).text
    far = model.look(frame)
    monkeypatch.setattr(far, "depth", lambda: replace(view.depth(), depth_m=10 * expected_m))
    near_keys, far_keys = (each._look.prefix[0].numpy() for each in (view, far))
    assert np.isfinite(near_keys).all() and np.abs(near_keys - far_keys).max() > 1e-3
    say(model, monkeypatch, "The point is 5.00 meters away.")
    distance = model.look(frame).ask(QUESTION, [centre_px]).measurements[0]
    at_m = view.depth_at([centre_px]).depth_m[0]
    assert distance.value == pytest.approx(at_m, rel=0.1)

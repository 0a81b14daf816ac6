# SPDX-License-Identifier: Apache-2.0
"""`depthlm engine build` as a user runs it, on a random model of the embedded architecture.

The engine gives the same depth and the same answers as torch. Every error message says what to do.
"""

import contextlib
import importlib.util
import io
import json
import shlex
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")
pytest.importorskip("transformers")

from support.command_line import own_engines  # noqa: E402
from support.paths import TINY  # noqa: E402

from depthlm_ros.backends.torch_backend import TorchBackend, backbone_loader  # noqa: E402
from depthlm_ros.cli import build_parser, main  # noqa: E402
from depthlm_ros.core import Frame, Intrinsics  # noqa: E402
from depthlm_ros.errors import BadBundle, BadIntrinsics  # noqa: E402
from depthlm_ros.export.parity import sample_image  # noqa: E402
from depthlm_ros.geometry.canonical_view import checked_canonical_view  # noqa: E402
from depthlm_ros.model import Model, load_model  # noqa: E402
from depthlm_ros.model_files.bundle import file_digest  # noqa: E402
from depthlm_ros.model_files.spec_yaml import find_spec  # noqa: E402

pytestmark = pytest.mark.torch
CAMERA = Intrinsics(96.0, 97.0, 78.0, 61.0, 160, 120)
# A file in the form that camera_info_manager writes.
CALIBRATION = """image_width: 160
image_height: 120
camera_name: head
camera_matrix: {rows: 3, cols: 3, data: [96, 0, 78, 0, 97, 61, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0, 0, 0, 0, 0]}
rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
projection_matrix: {rows: 3, cols: 4, data: [96, 0, 78, 0, 0, 97, 61, 0, 0, 0, 1, 0]}
"""
SMALL = ("build", "--model", "random", "--size", "64x48", "--backend", "onnxruntime", "--depth-only")
QUESTIONS = ("How far is the red box?", "Where is the table?", "Is there a person?", "Sing a song.")


@pytest.fixture(scope="module", autouse=True)
def engine_root(random_bundle, tmp_path_factory):
    """The engine folder, in which the model `random` is."""
    with own_engines(tmp_path_factory.mktemp("engines")) as folder:
        (folder / random_bundle.name).symlink_to(random_bundle.folder)
        yield folder


@pytest.fixture(scope="module")
def camera_file(engine_root):
    path = engine_root / "head camera.yaml"
    path.write_text(CALIBRATION)
    return path


@pytest.fixture(scope="module")
def built(camera_file):
    """Builds an engine and returns its name, and what the command printed on stdout and stderr."""
    words = ["engine", "build", "--model", "random", "--camera", str(camera_file), "--backend", "onnxruntime"]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    assert code == 0, err.getvalue()
    return "random-160x120-f96-fp32", out.getvalue(), err.getvalue()


def twin_of(engine, bundle):
    """Returns torch with the weights of the bundle and the canvas of the engine."""
    torch = TorchBackend(backbone_loader(bundle), (bundle.before, bundle.between, bundle.after), 1, "cpu")
    return Model(engine.spec, engine.family, engine.chat, torch, engine.tokenizer)


def frame(camera=CAMERA, shift=0):
    return Frame(np.roll(sample_image(camera.size_px)[0], shift, axis=1), camera)


def check_refusal(words, *texts, code=1):
    """Checks that the command fails with one line on stderr that contains all texts."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        assert main(["engine", "build", *map(str, words)]) == code
    assert err.getvalue().count("\n") == 1, err.getvalue()
    for text in texts:
        assert text in err.getvalue()


# ---- successful builds


def test_engine_gives_the_depth_and_the_answers_of_torch(built, random_bundle):
    ours = load_model(built[0], threads=1)
    assert ours.backend_name == "onnxruntime" and ours.spec.canvas.canvases_px == ((160, 128),)
    twin = twin_of(ours, random_bundle)
    a, b = ours.look(frame()), twin.look(frame())
    found_m, expected_m = a.depth().depth_m, b.depth().depth_m
    assert np.isfinite(expected_m).all()
    assert (np.abs(found_m - expected_m) / expected_m).max() <= 1e-3
    for question in QUESTIONS:
        assert a.ask(question).text == b.ask(question).text
    uv_px = [(5.0, 5.0), (80.0, 60.0), (150.0, 110.0)]
    np.testing.assert_array_equal(a.tell_depth_at(uv_px).depth_m, b.tell_depth_at(uv_px).depth_m)
    pairs = [model.look_pair(frame(), frame(shift=9)) for model in (ours, twin)]
    np.testing.assert_allclose(pairs[0].match(uv_px).matched_px, pairs[1].match(uv_px).matched_px, atol=0.5)
    # Matches of a random network that differ by a tenth of a pixel turn the pose by a degree.
    np.testing.assert_allclose(pairs[0].pose().rotation, pairs[1].pose().rotation, atol=0.05)


def test_manifest_holds_everything_that_the_engine_depends_on(built, random_bundle, engine_root, camera_file):
    folder = engine_root / built[0]
    manifest = json.loads((folder / "manifest.json").read_text())
    model = json.loads((random_bundle.folder / "manifest.json").read_text())
    graphs = {"look_160x128.onnx", "read_160x128.onnx", "step.onnx"}
    assert set(manifest["files"]) == graphs | {"weights.data", "tokenizer.json"}
    assert {path.name for path in folder.iterdir()} == {*manifest["files"], "manifest.json", ".building"}
    assert manifest["model"] == "random" and manifest["family"] == "tiny"
    assert manifest["depth_first"] is True and manifest["only_depth"] is False
    assert manifest["revision"] == f"sha256:{model['files']['model.safetensors']}"
    assert manifest["focal_px"] == 96.0 and manifest["canvases_px"] == [[160, 128]]
    assert Intrinsics(**manifest["camera"]) == CAMERA
    assert manifest["prefix"] == model["prefix"]
    assert manifest["precision"] == {"backbone": "fp32", "head": "fp32"} and manifest["opset"] == 20
    assert {"torch", "onnx", "onnxruntime"} <= set(manifest["versions"])
    assert manifest["parity"]["depth_max"] <= 1e-3 and manifest["parity"]["std_mean"] <= 1e-4
    assert manifest["parity"]["same_token"] is True
    words = shlex.split(manifest["rebuild"])
    assert str(camera_file) in words and build_parser("engine").parse_args(words[1:]).model == "random"


def test_report_shows_graphs_sizes_precision_time_memory_and_parity(built):
    _, out, err = built
    for text in (
        "160 x 120, fx 96, seen as 160 x 128",
        "backbone fp32, depth head fp32",
        "opset      20",
        "weights.data",
    ):
        assert text in out
    assert "export" in out and "at most" in out and "the same token after a question" in out
    for phase in (
        "load the checkpoint",
        "export look_160x128.onnx",
        "export read_160x128.onnx",
        "weights of step.onnx",
        "compare with torch",
    ):
        assert f"{phase}: done in" in err


def test_another_camera_is_refused_with_both_sizes_and_the_command_to_build(built):
    engine = load_model(built[0], threads=1)
    wide = Intrinsics(96.0, 96.0, 319.5, 239.5, 640, 480)
    with pytest.raises(BadIntrinsics) as caught:
        engine.look(frame(wide))
    message = str(caught.value)
    assert "640 x 480 with fx = 96 would be seen as 640 x 480 pixels" in message and "seen as 160 x 128" in message
    words = shlex.split(message[message.index("depthlm engine build") :])
    args = build_parser("engine").parse_args(words[1:])
    assert (args.model, args.size, args.focal, args.backend) == ("random", (640, 480), 96.0, "onnxruntime")
    # The image of a smaller camera is seen completely. A model that is not an engine sees a part of a larger image.
    assert np.isfinite(engine.look(frame(Intrinsics(96.0, 96.0, 63.5, 47.5, 128, 96))).depth().depth_m).all()
    assert np.isnan(load_model("random", threads=1).look(frame(wide)).depth().depth_m).any()


def test_engine_that_resizes_whole_images_accepts_only_cameras_of_its_size():
    rule = replace(find_spec("depthvlm-4b").canvas, multiple_px=32, least_pixels=65536, most_pixels=16777216)
    camera = Intrinsics(525.0, 525.0, 319.5, 239.5, 640, 480)
    size_px = checked_canonical_view(camera, rule).canvas_size_px
    built = replace(rule, built_px=(size_px,), built_by="depthlm engine build --model depthvlm-4b --precision bf16")
    assert checked_canonical_view(camera, built).canvas_size_px == size_px
    other = Intrinsics(700.0, 700.0, 639.5, 359.5, 1280, 720)
    seen = "{} x {}".format(*checked_canonical_view(other, rule).canvas_size_px)
    with pytest.raises(BadIntrinsics) as caught:
        checked_canonical_view(other, built)
    for text in (
        "1280 x 720 with fx = 700",
        f"seen as {seen} pixels",
        "seen as {} x {}:".format(*size_px),
        "depthlm engine build --model depthvlm-4b --precision bf16 --size 1280x720 --focal 700",
    ):
        assert text in str(caught.value)


# ---- requests that are refused before anything is written


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        ("--model nothing --size 64x48 --backend onnxruntime", ("'nothing' is not a known model", "tiny")),
        (
            "--model tiny --size 64x48 --backend onnxruntime --precision bf16",
            ("does not run bf16; it runs fp32, fp16",),
        ),
        (
            "--model tiny --size 64x48 --target desktop --precision int8",
            ("tensorrt does not run int8", "onnxruntime: "),
        ),
        ("--model tiny --size 64x48 --backend onnxruntime --target desktop", ("--target desktop is for TensorRT",)),
        ("--model tiny --backend onnxruntime", ("say for which camera: --camera",)),
        ("--model tiny --precision fp16", ("--precision would change the graphs", "--camera")),
        ("--model tiny --focal 500", ("--focal belongs to --size",)),
    ],
)
def test_requests_that_cannot_be_built_are_refused_with_a_remedy(words, texts, engine_root):
    before = set(engine_root.iterdir())
    check_refusal(words.split(), *texts)
    assert set(engine_root.iterdir()) == before


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed here")
@pytest.mark.parametrize(
    ("words", "texts"),
    [
        ("--size 64x48 --backend tensorrt", ("no TensorRT here", "--target jetpack6|", "--backend onnxruntime")),
        ("--backend tensorrt", ("TensorRT cannot be loaded here", "JetPack", "backend onnxruntime")),
    ],
)
def test_without_tensorrt_the_alternatives_are_named(words, texts):
    check_refusal(["--model", "tiny", *words.split()], *texts)


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        ("--size 100000x100000", ("39062500 tokens; at most 16000", "smaller images")),
        ("--size 64x48 --focal 900000", ("fx = 900000", "check the calibration")),
        ("--camera nothing.yaml", ("cannot read the camera file nothing.yaml",)),
    ],
)
def test_absurd_camera_is_refused_with_its_numbers(words, texts):
    check_refusal(["--model", "tiny", "--backend", "onnxruntime", *words.split()], *texts, code=2)


def test_uncalibrated_camera_is_refused(tmp_path):
    (tmp_path / "zero.yaml").write_text(CALIBRATION.replace("[96,", "[0,"))
    words = ["--model", "tiny", "--backend", "onnxruntime", "--camera", tmp_path / "zero.yaml"]
    check_refusal(words, "zero.yaml", "fx = 0.0", "calibrate", code=2)


def test_engine_is_not_built_into_a_folder_with_other_files(tmp_path):
    (tmp_path / "room.png").write_bytes(b"")
    check_refusal([*SMALL[1:], "--out", tmp_path], "is not the folder of an engine: it holds room.png", "--out")
    check_refusal([*SMALL[1:], "--out", TINY], "is a model with its checkpoint", "--out")
    assert [path.name for path in tmp_path.iterdir()] == ["room.png"]


def test_every_file_of_the_model_is_hashed_once_before_the_build(random_bundle, tmp_path, monkeypatch):
    """The folder with other files ends the build after the model was found."""
    hashed = Counter()

    def count_digest(path):
        hashed[path.name] += 1
        return file_digest(path)

    monkeypatch.setattr("depthlm_ros.model_files.bundle.file_digest", count_digest)
    (tmp_path / "room.png").write_bytes(b"")
    check_refusal([*SMALL[1:], "--out", tmp_path], "is not the folder of an engine")
    assert hashed == dict.fromkeys(random_bundle.digests, 1)


def test_engine_cannot_be_built_from_another_engine(built):
    words = ["--model", built[0], "--size", "64x48", "--backend", "onnxruntime"]
    check_refusal(words, "is itself an engine", "build from its source model (--model random)")
    with pytest.raises(BadBundle, match="name the model that it was built from"):
        load_model(built[0], backend="torch")

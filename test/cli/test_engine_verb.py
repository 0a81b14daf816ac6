"""`depthlm engine build` as a user runs it, on the embedded model: what it writes sees and says what torch does, and
what goes wrong is told with the way out."""

import contextlib
import importlib.util
import io
import json
import shlex
from dataclasses import replace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")
pytest.importorskip("transformers")

from support.command_line import own_engines  # noqa: E402
from support.paths import TINY  # noqa: E402

from depthlm_ros.backends.torch_backend import TorchBackend, loader  # noqa: E402
from depthlm_ros.cli import _parser, main  # noqa: E402
from depthlm_ros.core import Frame, Intrinsics  # noqa: E402
from depthlm_ros.errors import BadBundle, BadIntrinsics  # noqa: E402
from depthlm_ros.export.parity import sample_image  # noqa: E402
from depthlm_ros.model import Model, believable_view, load_model  # noqa: E402
from depthlm_ros.model_files.bundle import load_bundle  # noqa: E402
from depthlm_ros.model_files.spec_yaml import spec_named  # noqa: E402

pytestmark = pytest.mark.torch
CAMERA = Intrinsics(96.0, 97.0, 78.0, 61.0, 160, 120)
# As camera_info_manager writes it.
CALIBRATION = """image_width: 160
image_height: 120
camera_name: head
camera_matrix: {rows: 3, cols: 3, data: [96, 0, 78, 0, 97, 61, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0, 0, 0, 0, 0]}
rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
projection_matrix: {rows: 3, cols: 4, data: [96, 0, 78, 0, 0, 97, 61, 0, 0, 0, 1, 0]}
"""
SMALL = ("build", "--model", "tiny", "--size", "64x48", "--backend", "onnxruntime", "--depth-only")
QUESTIONS = ("How far is the red box?", "Where is the table?", "Is there a person?", "Sing a song.")


@pytest.fixture(scope="module", autouse=True)
def root(tmp_path_factory):
    with own_engines(tmp_path_factory.mktemp("engines")) as folder:
        yield folder


@pytest.fixture(scope="module")
def camera_file(root):
    path = root / "head camera.yaml"
    path.write_text(CALIBRATION)
    return path


@pytest.fixture(scope="module")
def built(camera_file):
    """The engine's name, and what the command printed."""
    words = ["engine", "build", "--model", "tiny", "--camera", str(camera_file), "--backend", "onnxruntime"]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    assert code == 0, err.getvalue()
    return "tiny-160x120-f96-fp32", out.getvalue(), err.getvalue()


def twin_of(engine):
    """torch, with the weights of tiny and the canvas of the engine."""
    bundle = load_bundle(TINY)
    torch = TorchBackend(loader(bundle), (bundle.before, bundle.between, bundle.after), 1, "cpu")
    return Model(engine.spec, engine.family, engine.chat, torch, engine.tokenizer)


def frame(camera=CAMERA, shift=0):
    return Frame(np.roll(sample_image(camera.size_px)[0], shift, axis=1), camera)


def refused(words, *said, code=1):
    """One line that tells all of this."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        assert main(["engine", "build", *map(str, words)]) == code
    assert err.getvalue().count("\n") == 1, err.getvalue()
    for text in said:
        assert text in err.getvalue()


# ---- what is built


def test_the_engine_sees_and_says_what_torch_does(built):
    ours = load_model(built[0], threads=1)
    assert ours.backend_name == "onnxruntime" and ours.spec.canvas.canvases_px == ((160, 128),)
    twin = twin_of(ours)
    a, b = ours.look(frame()), twin.look(frame())
    found_m, expected_m = a.depth().depth_m, b.depth().depth_m
    assert np.isfinite(expected_m).all()
    assert (np.abs(found_m - expected_m) / expected_m).max() <= 1e-4
    for question in QUESTIONS:
        assert a.ask(question).text == b.ask(question).text
    uv_px = [(5.0, 5.0), (80.0, 60.0), (150.0, 110.0)]
    np.testing.assert_array_equal(a.tell_depth_at(uv_px).depth_m, b.tell_depth_at(uv_px).depth_m)
    pairs = [model.look_pair(frame(), frame(shift=9)) for model in (ours, twin)]
    assert pairs[0].match(uv_px).replies == pairs[1].match(uv_px).replies
    assert pairs[0].pose().replies == pairs[1].pose().replies


def test_the_manifest_tells_all_that_the_engine_depends_on(built, root, camera_file):
    folder = root / built[0]
    manifest = json.loads((folder / "manifest.json").read_text())
    tiny = json.loads((TINY / "manifest.json").read_text())
    graphs = {"look_160x128.onnx", "pair_160x128.onnx", "step.onnx"}
    assert set(manifest["files"]) == graphs | {"weights.data", "tokenizer.json"}
    assert {path.name for path in folder.iterdir()} == {*manifest["files"], "manifest.json", ".building"}
    assert manifest["model"] == "tiny" and manifest["family"] == "tiny"
    assert manifest["revision"] == f"sha256:{tiny['files']['model.safetensors']}"
    assert manifest["focal_px"] == 96.0 and manifest["canvases_px"] == [[160, 128]]
    assert Intrinsics(**manifest["camera"]) == CAMERA
    assert manifest["prefix"] == tiny["prefix"]
    assert manifest["precision"] == {"backbone": "fp32", "head": "fp32"} and manifest["opset"] == 20
    assert {"torch", "onnx", "onnxruntime"} <= set(manifest["versions"])
    assert manifest["parity"]["depth_max"] <= 1e-4 and manifest["parity"]["same_token"] is True
    words = shlex.split(manifest["rebuild"])
    assert str(camera_file) in words and _parser("engine").parse_args(words[1:]).model == "tiny"


def test_the_report_tells_graphs_sizes_precision_time_memory_and_parity(built):
    _, out, err = built
    for text in (
        "160 x 120, fx 96, seen as 160 x 128",
        "backbone fp32, depth head fp32",
        "opset      20",
        "weights.data",
    ):
        assert text in out
    assert "export" in out and "at most" in out and "the same token after a question" in out
    for phase in ("load the checkpoint", "export look_160x128.onnx", "weights of step.onnx", "compare with torch"):
        assert f"{phase}: done in" in err


def test_another_camera_is_told_both_sizes_and_what_to_build(built):
    engine = load_model(built[0], threads=1)
    wide = Intrinsics(96.0, 96.0, 319.5, 239.5, 640, 480)
    with pytest.raises(BadIntrinsics) as caught:
        engine.look(frame(wide))
    told = str(caught.value)
    assert "640 x 480 with fx = 96 would be seen as 640 x 480 pixels" in told and "seen as 160 x 128" in told
    words = shlex.split(told[told.index("depthlm engine build") :])
    args = _parser("engine").parse_args(words[1:])
    assert (args.model, args.size, args.focal, args.backend) == ("tiny", (640, 480), 96.0, "onnxruntime")
    # A narrower one is seen as a whole; and what is no engine sees what it can.
    assert np.isfinite(engine.look(frame(Intrinsics(96.0, 96.0, 63.5, 47.5, 128, 96))).depth().depth_m).all()
    assert np.isnan(load_model("tiny", threads=1).look(frame(wide)).depth().depth_m).any()


def test_an_engine_that_resizes_whole_images_takes_cameras_that_give_its_size_only():
    rule = replace(spec_named("depthvlm-4b").canvas, multiple_px=32, least_pixels=65536, most_pixels=16777216)
    camera = Intrinsics(525.0, 525.0, 319.5, 239.5, 640, 480)
    size_px = believable_view(camera, rule).canvas_size_px
    built = replace(rule, built_px=(size_px,), built_by="depthlm engine build --model depthvlm-4b --precision bf16")
    assert believable_view(camera, built).canvas_size_px == size_px
    other = Intrinsics(700.0, 700.0, 639.5, 359.5, 1280, 720)
    seen = "{} x {}".format(*believable_view(other, rule).canvas_size_px)
    with pytest.raises(BadIntrinsics) as caught:
        believable_view(other, built)
    for text in (
        "1280 x 720 with fx = 700",
        f"seen as {seen} pixels",
        "seen as {} x {}:".format(*size_px),
        "depthlm engine build --model depthvlm-4b --precision bf16 --size 1280x720 --focal 700",
    ):
        assert text in str(caught.value)


# ---- what is refused, before anything is written


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--model nothing --size 64x48 --backend onnxruntime", ("'nothing' is no known model", "tiny")),
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
def test_what_cannot_be_built_is_told_with_the_way_out(words, said, root):
    before = set(root.iterdir())
    refused(words.split(), *said)
    assert set(root.iterdir()) == before


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is here")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--size 64x48 --backend tensorrt", ("no TensorRT here", "--target jetpack6|", "--backend onnxruntime")),
        ("--backend tensorrt", ("TensorRT cannot be loaded here", "JetPack", "backend onnxruntime")),
    ],
)
def test_without_tensorrt_the_other_ways_are_told(words, said):
    refused(["--model", "tiny", *words.split()], *said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--size 100000x100000", ("39062500 tokens; at most 16000", "smaller images")),
        ("--size 64x48 --focal 900000", ("fx = 900000", "check the calibration")),
        ("--camera nothing.yaml", ("cannot read the camera file nothing.yaml",)),
    ],
)
def test_an_absurd_camera_is_told_with_its_numbers(words, said):
    refused(["--model", "tiny", "--backend", "onnxruntime", *words.split()], *said, code=2)


def test_an_uncalibrated_camera_is_told(tmp_path):
    (tmp_path / "zero.yaml").write_text(CALIBRATION.replace("[96,", "[0,"))
    words = ["--model", "tiny", "--backend", "onnxruntime", "--camera", tmp_path / "zero.yaml"]
    refused(words, "zero.yaml", "fx = 0.0", "calibrate", code=2)


def test_a_folder_of_something_else_is_not_built_into(tmp_path):
    (tmp_path / "room.png").write_bytes(b"")
    refused([*SMALL[1:], "--out", tmp_path], "is no engine's folder: it holds room.png", "--out")
    refused([*SMALL[1:], "--out", TINY], "is a model with its checkpoint", "--out")
    assert [path.name for path in tmp_path.iterdir()] == ["room.png"]


def test_an_engine_is_no_source_of_another(built):
    words = ["--model", built[0], "--size", "64x48", "--backend", "onnxruntime"]
    refused(words, "is itself an engine", "build from the model it was made of (--model tiny)")
    with pytest.raises(BadBundle, match="an engine has none: name the model that it was built from"):
        load_model(built[0], backend="torch")

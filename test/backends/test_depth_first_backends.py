# SPDX-License-Identifier: Apache-2.0
"""A depth-first model gives depth without its language model, which reads features and depth at the first question.

The graphs are real ones (support/depth_first_bundle.py): the reply to a question tells the depth and the features that
were read.
Backend tensorrt runs them on the doubles of TensorRT and CUDA.
"""

import gc
import shutil
import threading
import types
from dataclasses import replace

import cv2
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from support import tensorrt_double  # noqa: E402
from support.depth_first_bundle import (  # noqa: E402
    AFTER,
    BEFORE,
    BETWEEN,
    SIZES_PX,
    VOCABULARY,
    grey_image,
    read_graph,
    write_depth_first_bundle,
    write_manifest,
)

from depthlm_ros.backends.generation import Query, generate  # noqa: E402
from depthlm_ros.backends.onnx_runtime import OnnxRuntimeBackend  # noqa: E402
from depthlm_ros.backends.tensorrt.backend import TensorRTBackend  # noqa: E402
from depthlm_ros.backends.tensorrt.cuda_device import open_device  # noqa: E402
from depthlm_ros.backends.tensorrt.plan_file import machine_of  # noqa: E402
from depthlm_ros.core import Frame, Intrinsics  # noqa: E402
from depthlm_ros.errors import BackendFailed, BadBundle, BadPlans, BadQuestion  # noqa: E402
from depthlm_ros.export.build_progress import BuildProgress  # noqa: E402
from depthlm_ros.export.trt_builder import StepLimits, build_plan, plan_requests  # noqa: E402
from depthlm_ros.model import load_model  # noqa: E402

pytestmark = pytest.mark.torch
NOTHING = np.zeros(0, np.int64)
LIMITS = StepLimits(rows=4, tokens=24, slots=40, watched=8)
CAMERA = Intrinsics(50.0, 50.0, 31.5, 15.5, 64, 32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_depth_first_bundle(tmp_path_factory.mktemp("small"))


def build_plans(bundle, folder, only_depth=False):
    for request in plan_requests(bundle, folder, "fp32", 1 << 28, LIMITS, only_depth):
        build_plan(
            request, machine_of(open_device().facts(), "10.3.0"), folder / "timings.cache", BuildProgress(), print
        )


@pytest.fixture(params=["onnxruntime", "tensorrt"])
def backend(request, bundle, monkeypatch, tmp_path):
    if request.param == "onnxruntime":
        yield OnnxRuntimeBackend(bundle, 1, "cpu")
        return
    tensorrt_double.install(monkeypatch)
    build_plans(bundle, tmp_path)
    yield TensorRTBackend(bundle, plans=tmp_path)
    gc.collect()


def reply(backend, look):
    """Returns the token that the model says after a look."""
    (said,) = generate(backend, look, [Query([1, 2, 3], np.zeros(VOCABULARY, bool), 2)], NOTHING)
    assert said.ids[0] == said.ids[1]
    return said.ids[0]


def token(brightness, depth_m=None):
    """Returns the reply about an image of this brightness, at its own or another depth."""
    return round(10 * (1 + brightness / 100 if depth_m is None else depth_m)) + brightness


def test_a_look_gives_depth_and_its_deviation_but_no_prefix(backend, bundle):
    for size_px in SIZES_PX:
        for brightness in (30, 200, 30):
            look = backend.look([grey_image(brightness, size_px)])
            assert look.depth_m.shape == look.relative_std.shape == (1, size_px[1], size_px[0])
            np.testing.assert_allclose(look.depth_m, 1 + brightness / 100, rtol=1e-6)
            np.testing.assert_allclose(look.relative_std, 0.05 + brightness / 1e4, rtol=1e-6)
            assert look.needs_reading and (look.prefix, look.length) == (None, 0)
            assert look.next_position == bundle.next_position(size_px)


def test_a_read_look_has_a_prefix_and_the_same_depth(backend):
    look = backend.look([grey_image(100)])
    read = backend.read(look)
    assert not read.needs_reading and read.features is None and read.length == 3 + 8
    assert read.depth_m is look.depth_m and read.next_position == look.next_position
    assert backend.read(read) is read


def test_the_reply_is_about_the_image_that_was_looked_at(backend):
    looks = [backend.look([grey_image(brightness, size)]) for brightness in (50, 250, 120) for size in SIZES_PX]
    replies = [token(50), token(50), token(250), token(250), token(120), token(120)]
    assert [reply(backend, look) for look in looks] == replies
    assert [reply(backend, look) for look in reversed(looks)] == replies[::-1]
    read = [backend.read(look) for look in looks]
    assert [reply(backend, look) for look in read] == replies


def test_the_language_model_reads_the_depth_of_another_network(backend):
    look = backend.look([grey_image(100)])
    other_m = np.full_like(look.depth_m, 7.0)
    assert reply(backend, replace(look, depth_m=other_m, relative_std=other_m / 70)) == token(100, 7.0)
    assert reply(backend, look) == token(100)


def test_the_features_of_two_images_are_on_the_host(backend):
    pair = backend.look([grey_image(100), grey_image(250)])
    for look, brightness in ((pair, 100), (pair.second, 250)):
        assert look.host_features.dtype == np.float32 and look.host_features.ndim == 4
        np.testing.assert_allclose(look.host_features, brightness)
    assert backend.look([grey_image(100)]).host_features is None


def test_two_images_are_looked_at_in_turn_and_are_not_read(backend):
    for first, second in ((100, 250), (250, 100)):
        pair = backend.look([grey_image(first), grey_image(second)])
        np.testing.assert_allclose(pair.depth_m, 1 + first / 100, rtol=1e-6)
        np.testing.assert_allclose(pair.second.depth_m, 1 + second / 100, rtol=1e-6)
        with pytest.raises(BackendFailed, match="it is at two images"):
            backend.read(pair)


def test_images_of_two_sizes_are_refused(backend):
    with pytest.raises(BadQuestion, match="in one size; use images of one camera"):
        backend.look([grey_image(1), grey_image(1, SIZES_PX[1])])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth_m": None}, "depth_m is missing"),
        ({"relative_std": None}, "relative_std is missing"),
        ({"relative_std": np.ones((1, 2, 2), np.float32)}, r"relative_std is of shape \(1, 2, 2\).*\(1, 32, 64\)"),
        ({"depth_m": np.full((1, 32, 64), np.nan, np.float32)}, "depth_m is not finite and positive"),
        ({"relative_std": np.zeros((1, 32, 64), np.float32)}, "relative_std is not finite and positive"),
    ],
)
def test_depth_that_cannot_be_read_is_refused_by_name(backend, change, message):
    look = backend.look([grey_image(100)])
    with pytest.raises(BackendFailed, match=f"look cannot be read: {message}"):
        backend.read(replace(look, **change))
    assert reply(backend, look) == token(100)


def test_threads_read_different_looks_at_the_same_time(backend):
    looks = {brightness: backend.look([grey_image(brightness)]) for brightness in range(0, 160, 10)}
    said = {}
    threads = [
        threading.Thread(target=lambda key=key, look=look: said.update({key: reply(backend, look)}))
        for key, look in looks.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {brightness: token(brightness) for brightness in looks}


def changed_copy(bundle, folder, file, graph=None):
    """A copy of the bundle in which one file is missing, or is another graph; its manifest vouches for the rest."""
    shutil.copytree(bundle.folder, folder)
    (folder / file).unlink()
    if graph is not None:
        onnx.save(graph, folder / file)
    write_manifest(folder)
    return folder


@pytest.mark.parametrize("file", ["look_64x32.onnx", "read_96x64.onnx", "step.onnx"])
def test_a_bundle_without_a_graph_is_refused_by_name(bundle, tmp_path, file):
    with pytest.raises(BadBundle, match=rf"does not vouch for {file}"):
        load_model(str(changed_copy(bundle, tmp_path / "copy", file)))
    (bundle.folder / file).rename(tmp_path / file)
    try:
        with pytest.raises(BadBundle, match=rf"{file} is missing"):
            load_model(str(bundle.folder))
    finally:
        (tmp_path / file).rename(bundle.folder / file)


def test_a_broken_read_graph_is_named_at_the_first_question_and_depth_goes_on(bundle, tmp_path):
    folder = changed_copy(bundle, tmp_path / "copy", "read_64x32.onnx")
    (folder / "read_64x32.onnx").write_bytes(
        bytes([2 << 3 | 2, 1]) + b"x"
    )  # an ONNX file with a producer, but no graph
    write_manifest(folder)
    view = load_model(str(folder), threads=1).look(Frame(grey_image(100)[0], CAMERA))
    for _ in range(2):
        with pytest.raises(BackendFailed, match=r"cannot load .*read_64x32\.onnx"):
            view.ask("How far is the box?")
        assert np.nanmax(view.depth().depth_m) == pytest.approx(2.0)


@pytest.mark.parametrize(("side", "name"), [("input", "depth_m"), ("output", "values")])
def test_a_read_graph_without_a_tensor_is_refused_by_name(bundle, tmp_path, side, name):
    graph = read_graph(SIZES_PX[0], 1)
    for values in (graph.graph.input, graph.graph.output):
        for value in values:
            value.name = "other" if value.name == name else value.name
    for node in graph.graph.node:
        node.input[:] = ["other" if one == name else one for one in node.input]
        node.output[:] = ["other" if one == name else one for one in node.output]
    folder = changed_copy(bundle, tmp_path / "copy", "read_64x32.onnx", graph)
    view = load_model(str(folder), threads=1).look(Frame(grey_image(100)[0], CAMERA))
    with pytest.raises(BadBundle, match=rf"read_64x32\.onnx has no {name}: export the model again"):
        view.ask("How far is the box?")


def test_a_bundle_for_depth_only_has_nothing_to_read(tmp_path):
    folder = tmp_path / "small"
    write_depth_first_bundle(folder)
    for path in (*folder.glob("read_*"), folder / "step.onnx"):
        path.unlink()
    for path in folder.glob("look_*"):
        model = onnx.load(path)
        del model.graph.output[2:]
        onnx.save(model, path)
    write_manifest(folder, only_depth=True, pairs=False)
    model = load_model(str(folder), threads=1)
    view = model.look(Frame(grey_image(100)[0], CAMERA))
    assert view.depth().std_m is not None
    with pytest.raises(BadQuestion, match="built for depth only"):
        view.ask("How far is the box?")


def test_plans_for_depth_only_leave_out_the_features(bundle, monkeypatch, tmp_path):
    tensorrt_double.install(monkeypatch)
    build_plans(bundle, tmp_path, only_depth=True)
    assert sorted(path.name for path in tmp_path.glob("*.plan")) == ["look_64x32.plan", "look_96x64.plan"]
    backend = TensorRTBackend(bundle, plans=tmp_path)
    look = backend.look([grey_image(100)])
    assert look.relative_std is not None and look.features is None and backend.read(look) is look
    with pytest.raises(BadQuestion, match="built for depth only"):
        backend.cache(look, 1, 8)


def test_missing_plans_of_read_graphs_are_named(bundle, monkeypatch, tmp_path):
    tensorrt_double.install(monkeypatch)
    build_plans(bundle, tmp_path)
    for name in ("read_96x64.plan", "read_64x32.plan"):
        (tmp_path / name).unlink()
    with pytest.raises(BadPlans, match=r"has no read_64x32\.plan, read_96x64\.plan"):
        TensorRTBackend(bundle, plans=tmp_path)


def test_memory_on_the_device_is_used_again(bundle, monkeypatch, tmp_path):
    _, memory = tensorrt_double.install(monkeypatch)
    build_plans(bundle, tmp_path)
    backend = TensorRTBackend(bundle, plans=tmp_path)

    def used_after(brightness):
        assert reply(backend, backend.look([grey_image(brightness)])) == token(brightness)
        gc.collect()
        return sum(len(block) for block in memory.live.values())

    settled = [used_after(brightness) for brightness in (10, 20)][-1]
    assert [used_after(brightness) for brightness in (30, 40, 50)] == [settled] * 3


@pytest.fixture
def model(bundle):
    return load_model(bundle, "onnxruntime", threads=1)


@pytest.fixture
def reads(model, monkeypatch):
    """Every read that had something to do. started is set when one begins; it waits until gate is set."""
    reads = types.SimpleNamespace(looks=[], started=threading.Event(), gate=threading.Event())
    reads.gate.set()
    read = model.backend.read

    def wait_and_read(look):
        if not look.needs_reading:
            return look
        reads.looks.append(look)
        reads.started.set()
        assert reads.gate.wait(20)
        return read(look)

    monkeypatch.setattr(model.backend, "read", wait_and_read)
    return reads


def test_a_view_is_read_once_at_its_first_question(model, reads):
    view = model.look(Frame(grey_image(100)[0], CAMERA))
    view.depth(), view.depth_at([(3, 4)])
    assert reads.looks == []
    view.tell_depth_at([(3, 4)]), view.ask("How far is the box?"), view.ask("How far is the ball?", [(3, 4)])
    assert len(reads.looks) == 1


def test_a_pair_is_measured_and_not_read(model, reads):
    frames = [Frame(grey_image(brightness)[0], CAMERA) for brightness in (100, 200)]
    view = model.look_pair(*frames)
    view.match([(3, 4)]), view.pose()
    with pytest.raises(BadQuestion, match="tiny cannot answer questions about two images: use depthvlm-4b"):
        view.ask("What moved?")
    assert reads.looks == []


def test_threads_that_ask_one_view_read_it_once_and_depth_does_not_wait(model, reads):
    reads.gate.clear()
    view, answers = model.look(Frame(grey_image(100)[0], CAMERA)), []
    threads = [threading.Thread(target=lambda: answers.append(view.ask("How far is the box?").text)) for _ in range(6)]
    for thread in threads:
        thread.start()
    assert reads.started.wait(20)
    # The language model is at work, and everything about depth is there.
    assert view.depth().std_m.max() > 0 and view.depth_at([(3, 4)]).depth_m[0] == pytest.approx(2.0)
    assert answers == []
    reads.gate.set()
    for thread in threads:
        thread.join(20)
    assert len(reads.looks) == 1 and len(answers) == 6 and len(set(answers)) == 1


def test_the_deviation_of_every_pixel_is_calibrated_and_at_the_pixels_of_the_frame(model):
    """A camera of twice the focal length: every canvas pixel is the mean of four, and is interpolated linearly back."""
    grey = np.random.default_rng(2).integers(0, 256, (32, 64), dtype=np.uint8)
    rgb = np.repeat(np.repeat(grey, 2, 0), 2, 1)[..., None].repeat(3, 2)
    frame = Frame(rgb, Intrinsics(100.0, 100.0, 63.5, 31.5, 128, 64))
    relative = cv2.resize(0.05 + grey.astype(np.float32) / 1e4, (128, 64), interpolation=cv2.INTER_LINEAR)
    calibration = replace(model.spec.calibration, map_std_factor=2.0, map_std_floor=0.03)
    for spec in (model.spec, replace(model.spec, calibration=calibration)):
        model.spec, factors = spec, spec.calibration
        view = model.look(frame)
        depth = view.depth()
        assert depth.std_m.dtype == np.float32 and depth.std_m.shape == (64, 128)
        assert view.depth(with_std=False).std_m is None
        expected = np.hypot(factors.map_std_factor * relative, factors.map_std_floor) * depth.depth_m
        np.testing.assert_allclose(depth.std_m[1:-1, 1:-1], expected[1:-1, 1:-1], rtol=1e-4)
        points = view.depth_at([(10, 20), (110, 20)])
        np.testing.assert_allclose(points.std_m, depth.std_m[20, [10, 110]])


def test_pixels_that_the_camera_did_not_see_have_no_deviation(model):
    seen = np.ones((32, 64), bool)
    seen[:, :5] = False
    depth = model.look(Frame(grey_image(100)[0], CAMERA, seen=seen)).depth()
    assert np.isnan(depth.std_m[:, :5]).all() and np.isfinite(depth.std_m[:, 5:]).all()


@pytest.fixture(scope="module")
def network():
    """The architecture of the embedded model with random weights."""
    torch = pytest.importorskip("torch")
    from depthlm_ros.nets.depth_first import EmbeddedConfig, build_embedded_model

    torch.manual_seed(3)
    return build_embedded_model(EmbeddedConfig(vocab=256, width=48, layers=2, feed_forward=64), pad_id=0).eval()


@pytest.fixture
def in_torch(network):
    from depthlm_ros.backends.torch_backend import TorchBackend

    return TorchBackend(lambda _: network, (BEFORE, BETWEEN, AFTER), 1, "cpu")


def noise(seed, size_px=SIZES_PX[1]):
    return np.random.default_rng(seed).integers(0, 256, (1, size_px[1], size_px[0], 3), dtype=np.uint8)


def test_torch_looks_without_the_language_model_and_reads_with_it(in_torch, network, bundle):
    images = [noise(1), noise(2)]
    looks = [in_torch.look([image]) for image in images]
    for look in looks:
        assert look.needs_reading and look.next_position == bundle.next_position(SIZES_PX[1])
        assert look.depth_m.shape == look.relative_std.shape == (1, 64, 96)
        read = in_torch.read(look)
        assert read.length == 3 + 24 and read.prefix[0].shape[::3] == (2, 27)
    keys = [in_torch.read(look).prefix[0] for look in (looks[0], looks[1], looks[0])]
    assert (keys[0] == keys[2]).all() and not (keys[0] == keys[1]).all()


def test_torch_reads_the_depth_that_the_look_holds(in_torch):
    look = in_torch.look([noise(1)])
    nearer = replace(look, depth_m=look.depth_m / 3)
    one, other = (in_torch.read(each).prefix[0] for each in (look, nearer))
    assert one.shape == other.shape and not np.allclose(one, other, atol=1e-3)


def test_torch_looks_at_two_images_in_turn(in_torch):
    pair = in_torch.look([noise(1), noise(2)])
    for look, seed in ((pair, 1), (pair.second, 2)):
        alone = in_torch.look([noise(seed)])
        np.testing.assert_array_equal(look.depth_m, alone.depth_m)
        np.testing.assert_allclose(look.host_features, alone.features.float().numpy())
    with pytest.raises(BackendFailed, match="it is at two images"):
        in_torch.read(pair)


def test_torch_answers_after_the_depth(in_torch):
    query = Query([1, 2, 3], np.zeros(256, bool), 4)
    look = in_torch.look([noise(1)])
    once, again = (generate(in_torch, each, [query], NOTHING)[0].ids for each in (look, in_torch.read(look)))
    assert once == again and len(once) == 4

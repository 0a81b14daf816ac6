# SPDX-License-Identifier: Apache-2.0
"""Plans that the real TensorRT builds on this machine's GPU give the results of ONNX Runtime. Skipped without a GPU."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
tensorrt = pytest.importorskip("tensorrt", reason="TensorRT is not installed here")

from depthlm_ros.backends.generation import Query, generate  # noqa: E402
from depthlm_ros.backends.onnx_runtime import OnnxRuntimeBackend  # noqa: E402
from depthlm_ros.backends.tensorrt.backend import TensorRTBackend  # noqa: E402
from depthlm_ros.backends.tensorrt.cuda_device import CudaPythonDevice, TorchDevice, open_device  # noqa: E402
from depthlm_ros.backends.tensorrt.plan_file import key_path, machine_of  # noqa: E402
from depthlm_ros.errors import BackendFailed, BadBundle, OutOfMemory  # noqa: E402
from depthlm_ros.export.build_progress import BuildProgress  # noqa: E402
from depthlm_ros.export.trt_builder import StepLimits, build_plan, default_workspace, plan_requests, timing_cache_path  # noqa: E402
from depthlm_ros.model_files.bundle import find_bundle, load_bundle  # noqa: E402

pytestmark = pytest.mark.torch
BUNDLE = load_bundle(find_bundle("tiny"))
NEVER = np.zeros(1536, bool)
WATCHED = np.array([3, 7, 11])


@pytest.fixture(scope="module")
def device():
    try:
        return open_device()
    except BackendFailed as exc:
        pytest.skip(f"no GPU here: {exc}")


@pytest.fixture(scope="module")
def plans(device, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plans")
    facts = device.facts()
    machine = machine_of(facts, tensorrt.__version__)
    timings = timing_cache_path(folder, machine)
    limits = StepLimits(rows=4, tokens=64, slots=96, watched=8)
    for request in plan_requests(BUNDLE, folder, "fp32", min(default_workspace(facts), 4 << 30), limits):
        assert build_plan(request, machine, timings, BuildProgress(), print).built
    return folder


@pytest.fixture(scope="module")
def backend(plans):
    return TensorRTBackend(BUNDLE, plans=plans)


@pytest.fixture(scope="module")
def reference():
    return OnnxRuntimeBackend(BUNDLE)


def canvas(seed, size_px=BUNDLE.canvases_px[0]):
    return np.random.default_rng(seed).integers(0, 256, (1, size_px[1], size_px[0], 3), dtype=np.uint8)


def test_depth_agrees_at_every_canvas_in_plain_and_replayed_runs(backend, reference):
    for size_px in BUNDLE.canvases_px:
        for seed in range(4):
            ours, theirs = (model.look([canvas(seed, size_px)]).depth_m for model in (backend, reference))
            np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_replies_are_equal_token_for_token(backend, reference):
    looks = [model.look([canvas(1)]) for model in (backend, reference)]
    queries = [Query(list(range(5, 5 + n)), NEVER, 8) for n in (4, 9, 2, 30, 7, 7)]
    for _ in range(3):
        ours, theirs = (
            generate(model, look, queries, WATCHED) for model, look in zip((backend, reference), looks, strict=True)
        )
        assert [reply.ids for reply in ours] == [reply.ids for reply in theirs]
        for left, right in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(left.log_probability, right.log_probability, atol=1e-3)
            np.testing.assert_allclose(left.watched, right.watched, atol=1e-2)


def test_runs_are_recorded(backend, caplog):
    """A graph that cannot be recorded is run without recording, with a warning."""
    look = backend.look([canvas(1)])
    generate(backend, look, [Query([5, 6], NEVER, 8)], WATCHED)
    assert "without a CUDA graph" not in caplog.text


def test_a_second_build_finds_the_plan_and_the_timings(plans, device):
    facts = device.facts()
    machine = machine_of(facts, tensorrt.__version__)
    timings = timing_cache_path(plans, machine)
    assert timings.stat().st_size > 0
    limits = StepLimits(rows=4, tokens=64, slots=96, watched=8)
    for request in plan_requests(BUNDLE, plans, "fp32", min(default_workspace(facts), 4 << 30), limits):
        assert not build_plan(request, machine, timings, BuildProgress(), print).built


def test_a_stale_plan_is_refused(plans, tmp_path):
    shutil.copytree(plans, tmp_path / "old")
    for path in (tmp_path / "old").glob("*.plan.json"):
        content = json.loads(path.read_text())
        content["key"]["machine"]["tensorrt"] = "9.9.9"
        path.write_text(json.dumps(content))
    with pytest.raises(BadBundle, match=r"built for 9\.9\.9"):
        TensorRTBackend(BUNDLE, plans=tmp_path / "old")


def test_a_cut_plan_is_refused(plans, tmp_path):
    shutil.copytree(plans, tmp_path / "cut")
    plan = tmp_path / "cut" / "step.plan"
    plan.write_bytes(plan.read_bytes()[:-100])
    with pytest.raises(BadBundle, match="cut short"):
        TensorRTBackend(BUNDLE, plans=tmp_path / "cut")


def test_a_file_that_is_not_a_plan_is_refused_with_the_message_of_tensorrt(plans, tmp_path):
    from depthlm_ros.backends.tensorrt.plan_file import read_key, write_plan

    shutil.copytree(plans, tmp_path / "bad")
    plan = tmp_path / "bad" / "look_256x192.plan"
    write_plan(plan, b"not a plan" * 100, read_key(key_path(plan)))
    with pytest.raises(BackendFailed, match=r"cannot load .*look_256x192\.plan"):
        TensorRTBackend(BUNDLE, plans=tmp_path / "bad").look([canvas(1)])


def test_a_graph_that_the_parser_refuses_is_named(device, tmp_path):
    """The parser itself finds it: the support table does not know sizes."""
    import onnx
    from onnx import TensorProto, helper

    node = helper.make_node("MatMul", ["x", "x"], ["y"], name="/odd")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy"]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "g.onnx")
    request = replace(plan_requests(BUNDLE, tmp_path, "fp32", 1 << 30)[0], graph=tmp_path / "g.onnx", prepare=())
    with pytest.raises(BackendFailed, match=r"g\.onnx"):
        build_plan(
            request,
            machine_of(device.facts(), tensorrt.__version__),
            tmp_path / "timings.cache",
            BuildProgress(),
            print,
        )
    assert not request.plan.exists()


@pytest.fixture(params=[CudaPythonDevice, TorchDevice])
def memory(request, device):
    try:
        return request.param(0)
    except ImportError as exc:
        pytest.skip(f"not installed: {exc}")


def test_slots_are_copied_recorded_and_replayed(memory):
    """With both libraries, a copy into slots of a larger array can be recorded and replayed."""
    memory.activate()
    source, into = memory.zeros((2, 3, 4, 5), 4), memory.zeros((2, 3, 9, 5), 4)
    sent, back = memory.pinned((2, 3, 4, 5), np.float32), memory.pinned((2, 3, 9, 5), np.float32)
    sent[:] = np.random.default_rng(1).random(sent.shape)
    memory.upload(source, sent)
    memory.synchronize()
    replay = memory.record(lambda: memory.copy_slots(into, source, 3))
    replay()
    memory.download(back, into)
    memory.synchronize()
    np.testing.assert_array_equal(back[:, :, 3:7], sent)
    assert not back[:, :, :3].any() and not back[:, :, 7:].any()
    memory.clear(into)
    memory.download(back, into)
    memory.synchronize()
    assert not back.any()


def test_too_large_an_array_is_out_of_memory(memory):
    with pytest.raises(OutOfMemory):
        memory.zeros((1 << 50,), 1)
    assert memory.zeros((1 << 20,), 1).nbytes == 1 << 20


def test_the_facts_of_the_device_are_complete(memory):
    facts = memory.facts()
    assert facts.name and facts.sm.count(".") == 1 and facts.driver.startswith("CUDA ")
    assert 0 < facts.free_bytes <= facts.total_bytes

# SPDX-License-Identifier: Apache-2.0
"""Backend onnxruntime: its devices, its errors (with real errors of ONNX Runtime), and the images that it refuses."""

import types

import numpy as np
import pytest

onnxruntime = pytest.importorskip("onnxruntime")

from depthlm_ros.backends.onnx_runtime import (  # noqa: E402
    PROVIDERS,
    OnnxRuntimeBackend,
    is_out_of_memory,
    parse_device,
    pick_most_probable,
)
from depthlm_ros.core import Frame  # noqa: E402
from depthlm_ros.errors import BackendFailed, BadQuestion, OutOfMemory  # noqa: E402
from depthlm_ros.geometry.pinhole import centred_camera  # noqa: E402
from depthlm_ros.model import load_model  # noqa: E402
from depthlm_ros.model_files.bundle import find_bundle, load_bundle  # noqa: E402

BUNDLE = load_bundle(find_bundle("tiny"))
# A float32 array of this many values is larger than any address space that a process can have.
TOO_MANY = {"x": np.zeros(1, np.float32), "shape": np.array([1 << 45])}
IN_ARENA = "bfc_arena.cc:360 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) "


@pytest.fixture(scope="module")
def backend():
    return OnnxRuntimeBackend(BUNDLE, 1)


def one_node(operator, inputs, name="node", arena=True):
    """A session for a graph of one node. inputs: name -> ONNX type; the output is one float axis."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    given = [helper.make_tensor_value_info(key, kind, ["n"]) for key, kind in inputs.items()]
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["m"])
    graph = helper.make_graph([helper.make_node(operator, list(inputs), ["y"], name=name)], "g", given, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena, options.log_severity_level = arena, 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def growing(arena):
    """A session whose output has as many values as its input `shape` says."""
    return one_node("Expand", {"x": 1, "shape": 7}, arena=arena)


@pytest.mark.torch
@pytest.mark.parametrize("arena", [True, False], ids=["arena", "malloc"])
def test_an_allocation_that_fails_is_out_of_memory(backend, arena):
    with pytest.raises(OutOfMemory, match="ONNX Runtime failed to run the model"):
        backend._run(growing(arena), TOO_MANY)


@pytest.mark.torch
@pytest.mark.parametrize("arena", [True, False], ids=["arena", "malloc"])
def test_an_allocation_that_fails_is_recognised_whatever_its_error_code(arena):
    """run() gives code 1 or 6, run_with_iobinding() none."""
    with pytest.raises(Exception, match="ONNXRuntimeError") as error:
        growing(arena).run(None, TOO_MANY)
    assert is_out_of_memory(error.value)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["alloc", "/decoder/bad_alloc", "BFCArena::AllocateRaw", "CUDA failure 2:"])
def test_another_failure_in_a_node_with_such_a_name_is_not_out_of_memory(backend, name):
    session = one_node("Gather", {"x": 1, "i": 7}, name)
    with pytest.raises(BackendFailed, match="out of data bounds") as error:
        backend._run(session, {"x": np.zeros(3, np.float32), "i": np.array([7])})
    assert not isinstance(error.value, OutOfMemory)
    assert name in str(error.value)


@pytest.mark.parametrize(
    "cause",
    [
        IN_ARENA + "Failed to allocate memory for requested buffer of size 4294967296\n",
        IN_ARENA + "Available memory of 4194304 is smaller than requested bytes of 16777216\n",
        "std::bad_alloc",
        "CUDA failure 2: out of memory ; GPU=0 ; hostname=orin ; expr=cudaMalloc((void**)&p, size);",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; hostname=orin ; expr=cublasCreate(&handle);",
    ],
)
def test_every_cause_of_a_failed_allocation_is_recognised(cause):
    message = f"Non-zero status code returned while running MatMul node. Name:'/m' Status Message: {cause}"
    assert is_out_of_memory(RuntimeError(f"[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : {message}"))
    assert is_out_of_memory(RuntimeError(cause))


@pytest.mark.parametrize(
    "message",
    [
        "[ONNXRuntimeError] : 3 : NO_SUCHFILE : Load model from /data/alloc/look.onnx failed",
        "CUDA failure 700: an illegal memory access was encountered ; GPU=0",
        "Non-zero status code returned while running If node. Name:'std::bad_alloc' Status Message: Non-zero status "
        "code returned while running Gather node. Name:'std::bad_alloc' Status Message: indices element out of bounds",
    ],
)
def test_other_errors_are_not_out_of_memory(message):
    assert not is_out_of_memory(RuntimeError(message))


def test_memory_error_is_out_of_memory():
    assert is_out_of_memory(MemoryError("std::bad_alloc"))


def test_no_memory_for_an_input_on_the_gpu_is_out_of_memory(backend, monkeypatch):
    def refuse(*_):
        raise RuntimeError("CUDA failure 2: out of memory ; GPU=0")

    ort_value = types.SimpleNamespace(ortvalue_from_numpy=refuse)
    monkeypatch.setattr(backend, "_runtime", types.SimpleNamespace(OrtValue=ort_value))
    with pytest.raises(OutOfMemory, match="CUDA failure 2"):
        backend._run(backend._step, {"ids": np.zeros((1, 1), np.int64)})


@pytest.mark.parametrize(
    ("device", "providers", "expected"),
    [
        ("", ["cpu"], ("cpu", 0)),
        ("", ["cuda", "cpu"], ("cuda", 0)),
        ("cpu", ["cuda", "cpu"], ("cpu", 0)),
        ("cuda", ["cuda", "cpu"], ("cuda", 0)),
        ("cuda:1", ["cuda", "cpu"], ("cuda", 1)),
        ("", ["openvino", "cpu"], ("cpu", 0)),
        ("openvino", ["openvino", "cpu"], ("openvino", 0)),
    ],
)
def test_the_device_is_the_named_one_or_the_best(device, providers, expected):
    assert parse_device(device, [PROVIDERS[name] for name in providers]) == expected


def test_a_gpu_that_this_onnx_runtime_cannot_use_is_refused():
    with pytest.raises(BackendFailed, match=r"'cuda:1': it offers only CPUExecutionProvider.*onnxruntime-gpu"):
        parse_device("cuda:1", [PROVIDERS["cpu"]])


def test_openvino_is_refused_where_this_onnx_runtime_lacks_it():
    with pytest.raises(BackendFailed, match=r"'openvino': it offers only CPUExecutionProvider.*onnxruntime-openvino"):
        parse_device("openvino", [PROVIDERS["cpu"]])


def test_openvino_gives_the_same_depth_and_words():
    """Runs where onnxruntime-openvino is installed in the place of onnxruntime."""
    if PROVIDERS["openvino"] not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no OpenVINO: pip install onnxruntime-openvino in place of onnxruntime")
    frame = Frame(np.random.default_rng(0).integers(0, 256, (192, 256, 3), np.uint8), centred_camera((256, 192), 204.0))
    views = [load_model("tiny", "onnxruntime", 1, device).look(frame) for device in ("cpu", "openvino")]
    np.testing.assert_allclose(views[1].depth().depth_m, views[0].depth().depth_m, rtol=1e-4)
    question = "How far is the point at the middle of the image?"
    assert views[1].ask(question, [(128, 96)]).text == views[0].ask(question, [(128, 96)]).text


@pytest.mark.parametrize("device", ["gpu", "cpu:0", "cuda:x", "openvino:1"])
def test_an_unknown_device_is_refused_by_name(device):
    with pytest.raises(BackendFailed, match=f"cannot use device '{device}'"):
        parse_device(device, list(PROVIDERS.values()))


def canvas(size_px=BUNDLE.canvases_px[0]):
    return np.zeros((1, size_px[1], size_px[0], 3), np.uint8)


def test_images_that_the_bundle_cannot_look_at_together_are_refused_every_time(backend):
    """The sizes are checked when they come for the first time: a refusal must not be remembered as accepted."""
    for _ in range(2):
        with pytest.raises(BadQuestion, match=r"look at 2 image\(s\) at a time"):
            backend.look([canvas()] * 3)
        with pytest.raises(BadQuestion, match=r"look at 2 image\(s\) at a time"):
            backend.look([canvas().repeat(2, axis=0)])
        with pytest.raises(BadQuestion, match="in one size; use images of one camera"):
            backend.look([canvas(), canvas(BUNDLE.canvases_px[1])])


def test_the_position_after_a_look_is_that_of_its_size(backend):
    for size_px in [*BUNDLE.canvases_px[:2]] * 2:
        assert backend.look([canvas(size_px)]).next_position == BUNDLE.next_position(size_px)


def test_the_most_probable_token_and_its_log_probabilities():
    logits = np.array([[1.0, 3.0, 2.0], [0.0, -1.0, 5.0]], np.float32)
    output = pick_most_probable(logits, np.array([2, 0]))
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert output.chosen.tolist() == [1, 2]
    np.testing.assert_allclose(output.log_probability, [expected[0, 1], expected[1, 2]], rtol=1e-6)
    np.testing.assert_allclose(output.watched, expected[:, [2, 0]], rtol=1e-6)

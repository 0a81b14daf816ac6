# SPDX-License-Identifier: Apache-2.0
"""Weights whose numbers overflow: every backend names graph and precision, and none gives a map or an answer."""

import gc
import json
import shutil
import struct
from hashlib import sha256

import numpy as np
import pytest
from support.depth_networks import write_network
from support.paths import TINY

pytest.importorskip("onnxruntime")

from depthlm_ros.backends.registry import open_backend
from depthlm_ros.core import Frame
from depthlm_ros.errors import BackendFailed
from depthlm_ros.geometry.pinhole import centred_camera
from depthlm_ros.model import Model, load_model
from depthlm_ros.model_files.bundle import MANIFEST, load_bundle, manifest_text, read_manifest

if not TINY.is_dir():
    pytest.skip("engines/tiny is not here: `make train` makes it", allow_module_level=True)

FRAME = Frame(np.full((192, 256, 3), 90, np.uint8), centred_camera((256, 192), 204.0))
TEXTS = ((1310, 84, 307, 198, 1312), (1313, 1312), (1313,))


def damage(folder, tensor):
    """Copies tiny with NaN in one tensor of its weights, as if it had overflowed when they were converted."""
    shutil.copytree(TINY, folder)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    header_bytes = struct.unpack("<Q", content[:8])[0]
    begin, end = json.loads(content[8 : 8 + header_bytes])[tensor]["data_offsets"]
    values = np.frombuffer(content, np.float16)[(8 + header_bytes + begin) // 2 : (8 + header_bytes + end) // 2]
    values[:] = np.nan
    weights.write_bytes(content)
    fields = read_manifest(folder)
    fields["files"] = fields["files"] | {weights.name: sha256(content).hexdigest()}
    (folder / MANIFEST).write_text(manifest_text(fields))
    return load_bundle(folder)


@pytest.fixture(scope="module")
def broken_eyes(tmp_path_factory):
    return damage(tmp_path_factory.mktemp("eyes") / "tiny", "decoder.to_bins.weight")


@pytest.fixture(scope="module")
def broken_words(tmp_path_factory):
    return damage(tmp_path_factory.mktemp("words") / "tiny", "vlm.model.layers.3.mlp.down_proj.weight")


@pytest.fixture(
    params=[
        "onnxruntime",
        pytest.param("torch", marks=pytest.mark.torch),
        pytest.param("tensorrt", marks=pytest.mark.torch),
    ]
)
def opened(request, monkeypatch, tmp_path):
    """Gives a function that makes a model of a bundle with one backend."""

    def make(bundle) -> Model:
        if request.param == "tensorrt":
            pytest.importorskip("onnx")
            from support import tensorrt_double

            from depthlm_ros.backends.tensorrt.backend import TensorRTBackend
            from depthlm_ros.backends.tensorrt.cuda_device import open_device
            from depthlm_ros.backends.tensorrt.plan_file import machine_of
            from depthlm_ros.export.build_progress import BuildProgress
            from depthlm_ros.export.trt_builder import StepLimits, build_plan, plan_requests

            tensorrt_double.install(monkeypatch)
            limits = StepLimits(rows=4, tokens=64, slots=96, watched=16)
            for plan in plan_requests(bundle, tmp_path, "fp16", 1 << 28, limits):
                machine = machine_of(open_device().facts(), "10.3.0")
                build_plan(plan, machine, tmp_path / "timings.cache", BuildProgress(), print)
            backend = TensorRTBackend(bundle, plans=tmp_path)
        else:
            backend = open_backend(request.param, bundle, TEXTS, 1, "cpu")
        whole = load_model("tiny", threads=1)
        return Model(whole.spec, whole.family, whole.chat, backend, whole.tokenizer)

    yield make
    gc.collect()


def test_depth_that_is_no_number_is_a_failure_that_names_graph_and_precision(opened, broken_eyes):
    with pytest.raises(BackendFailed, match=r"(look_256x192|graph for images).* gave depth .*precision (fp|float)32"):
        opened(broken_eyes).look(FRAME)


def test_words_that_are_no_numbers_are_a_failure_that_names_graph_and_precision(opened, broken_words):
    view = opened(broken_words).look(FRAME)
    assert np.isfinite(view.depth().depth_m).all()  # only the words are damaged
    with pytest.raises(BackendFailed, match=r"(step|graph for text).* gave logits .*precision (fp|float)32"):
        view.ask("How far is the chair?")


def test_a_network_for_depth_without_any_number_fails_but_may_leave_pixels_unknown(tmp_path):
    fields = {
        "image": {"input": "image", "fit": "squeeze", "size_px": [32, 32]},
        "depth": {"output": "depth", "kind": "metres"},
    }
    broken = load_model(str(write_network(tmp_path / "broken", fields, gain=float("nan"))), threads=1)
    with pytest.raises(BackendFailed, match=r"net\.onnx gave depth .* 100 % .*precision float32"):
        broken.look(FRAME)
    dark = load_model(str(write_network(tmp_path / "dark", fields, gain=-1.0)), threads=1)  # behind the camera
    assert np.isnan(dark.look(FRAME).depth().depth_m).all()

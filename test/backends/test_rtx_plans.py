# SPDX-License-Identifier: Apache-2.0
"""How backend tensorrt runs plans of TensorRT for RTX: which GPUs it takes them to, and the kernels that it keeps.

TensorRT for RTX and CUDA are doubles (tensorrt_double.py). Real plans are built in test_rtx_builder.py.
"""

import gc
import io
import logging
import math
import shutil
import sys

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from support import tensorrt_double
from support.depth_first_bundle import grey_image, write_one_pass_bundle

from depthlm_ros.backends.generation import Query, generate
from depthlm_ros.backends.onnx_runtime import OnnxRuntimeBackend
from depthlm_ros.backends.tensorrt import kernel_cache
from depthlm_ros.backends.tensorrt.backend import TensorRTBackend
from depthlm_ros.backends.tensorrt.flavour import TENSORRT_RTX
from depthlm_ros.backends.tensorrt.plan_file import kernel_cache_path, key_path, read_key
from depthlm_ros.errors import BackendFailed, BadPlans
from depthlm_ros.export.build_progress import BuildProgress
from depthlm_ros.export.trt_builder import BuilderOptions, StepLimits, build_plans
from depthlm_ros.model_files.bundle import load_bundle

pytestmark = pytest.mark.torch
VERSION = "1.7.1.116"
LIMITS = StepLimits(rows=4, tokens=24, slots=40, watched=8)
QUESTION = Query([5, 6, 7], np.zeros(1536, bool), 3)
WATCHED = np.array([3, 7])


def install(monkeypatch, version=VERSION, sm="8.9"):
    """Returns the double of TensorRT for RTX, on a GPU of a compute capability."""
    return tensorrt_double.install(monkeypatch, version, "tensorrt_rtx", sm)[0]


def build(bundle, capabilities=()):
    options = BuilderOptions(limits=LIMITS, flavour=TENSORRT_RTX, capabilities=capabilities)
    return build_plans(bundle, options, BuildProgress(io.StringIO()), print)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with a bundle and its plans for compute capability 8.0 and later."""
    folder = tmp_path_factory.mktemp("bundles") / "mine"
    with pytest.MonkeyPatch.context() as monkeypatch:
        install(monkeypatch)
        build(write_one_pass_bundle(folder))
    return folder


@pytest.fixture
def bundle(built, tmp_path):
    shutil.copytree(built, tmp_path / "mine")
    return load_bundle(tmp_path / "mine")


def look_plan(bundle):
    return bundle.graphs[0].with_suffix(".plan")


def test_plan_runs_on_every_gpu_of_its_capabilities_as_the_graph_does(bundle, monkeypatch):
    for sm in ("8.0", "8.9", "12.0", "13.0"):
        install(monkeypatch, sm=sm)
        backends = TensorRTBackend(bundle), OnnxRuntimeBackend(bundle, 1)
        looks = [backend.look([grey_image(100)]) for backend in backends]
        np.testing.assert_allclose(looks[0].depth_m, looks[1].depth_m, rtol=1e-6)
        ids = [generate(b, look, [QUESTION], WATCHED)[0].ids for b, look in zip(backends, looks, strict=True)]
        assert ids[0] == ids[1]
        gc.collect()


def test_kernels_are_compiled_once_and_kept_beside_the_plan(bundle, monkeypatch):
    monkeypatch.setattr(kernel_cache, "_SECONDS", [])
    assert math.isnan(kernel_cache.compile_seconds())
    double, kept = install(monkeypatch), kernel_cache_path(look_plan(bundle))
    backend = TensorRTBackend(bundle)
    for brightness in (100, 120, 140):  # the first run compiles, the second is recorded, the third is replayed
        np.testing.assert_allclose(backend.look([grey_image(brightness)]).depth_m, 1 + brightness / 100, rtol=1e-6)
    assert len(double.compiled) == 1 and kept.read_bytes() == tensorrt_double.KERNELS
    assert kernel_cache.compile_seconds() >= 0
    again = install(monkeypatch)
    TensorRTBackend(bundle).look([grey_image(100)])
    assert again.compiled == []


def test_kernels_of_another_gpu_are_replaced_and_those_of_an_old_plan_are_removed(bundle, monkeypatch):
    double, kept = install(monkeypatch), kernel_cache_path(look_plan(bundle))
    kept.write_bytes(b"kernels for another GPU")
    TensorRTBackend(bundle).look([grey_image(100)])
    assert len(double.compiled) == 1 and kept.read_bytes() == tensorrt_double.KERNELS
    build(bundle, ("8.9",))
    assert not kept.exists()


def test_long_compiling_stands_in_the_log(bundle, monkeypatch, caplog):
    install(monkeypatch)
    monkeypatch.setattr(kernel_cache, "NOTICED_S", 0.0)
    TensorRTBackend(bundle).look([grey_image(100)])
    assert "kernels for this GPU took" in caplog.text and "without those of an earlier start" in caplog.text


def test_kernels_that_cannot_be_written_cost_only_time(bundle, monkeypatch, caplog):
    install(monkeypatch)

    def full(path, content):
        raise BackendFailed(f"cannot write {path}: no space is left for 1.0 MB. Free some space.")

    monkeypatch.setattr(kernel_cache, "write_engine_file", full)
    backend = TensorRTBackend(bundle)
    assert backend.look([grey_image(100)]).depth_m.size and "compiled again at every start" in caplog.text


def test_plan_that_cannot_be_recorded_runs_without_recording(bundle, monkeypatch, caplog):
    install(monkeypatch).can_record = False
    backend = TensorRTBackend(bundle)
    with caplog.at_level(logging.WARNING):
        depths = [backend.look([grey_image(100)]).depth_m for _ in range(3)]
    np.testing.assert_array_equal(depths[0], depths[2])
    assert "runs without a CUDA graph" in caplog.text


@pytest.mark.parametrize(
    ("built_for", "sm", "said", "options"),
    [
        ((), "7.5", "compute capability is 7.5, but the plan was built for 8.0 and later", "--compute-capability 7.5"),
        (("8.6", "12.0"), "8.9", "compute capability is 8.9, but the plan was built for 8.6 12.0", ""),
        (("8.6",), "7.5", "compute capability is 7.5, but the plan was built for 8.6", "--compute-capability 7.5"),
    ],
)
def test_plan_for_other_gpus_is_refused_with_the_command_for_this_one(
    bundle, monkeypatch, built_for, sm, said, options
):
    install(monkeypatch, sm=sm)
    build(bundle, built_for)
    with pytest.raises(BadPlans, match=said) as error:
        TensorRTBackend(bundle)
    command = f"depthlm engine build --model {bundle.folder} --backend tensorrt --target rtx {options}".strip()
    assert error.value.rebuild == command


def test_gpu_that_is_too_old_for_portable_plans_is_refused_with_another_backend(bundle, monkeypatch):
    install(monkeypatch, sm="6.1")
    with pytest.raises(BackendFailed, match=r"compute capability 6\.1, and TensorRT for RTX needs 7\.5.* onnxruntime"):
        TensorRTBackend(bundle)


@pytest.mark.parametrize("version", ["1.7.0.1", "1.8.2"])
def test_plan_of_an_older_or_newer_tensorrt_for_rtx_is_refused(bundle, monkeypatch, version):
    install(monkeypatch, version)
    words = f"TensorRT for RTX is {version}, but the plan was built for {VERSION}".replace(".", r"\.")
    with pytest.raises(BadPlans, match=rf"{words}.*depthlm engine build .* --target rtx$"):
        TensorRTBackend(bundle)


@pytest.mark.parametrize("version", ["1.5.0", "2.1"])
def test_tensorrt_for_rtx_outside_the_supported_versions_is_named_with_its_package(bundle, monkeypatch, version):
    install(monkeypatch, version)
    with pytest.raises(BackendFailed, match=rf"{version} is installed; .* 1\.7 and later, below 2\.0: pip install"):
        TensorRTBackend(bundle)


def test_missing_tensorrt_for_rtx_is_named_with_its_package(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(BackendFailed, match=r"TensorRT for RTX cannot be loaded here .*tensorrt-rtx-cu12"):
        TensorRTBackend(bundle)


def test_stale_plans_keep_the_capabilities_that_were_named(bundle, monkeypatch):
    install(monkeypatch)
    build(bundle, ("8.6", "8.9"))
    install(monkeypatch, "1.8.0")
    with pytest.raises(BadPlans) as error:
        TensorRTBackend(bundle)
    assert error.value.rebuild.endswith("--target rtx --compute-capability 8.6 8.9")


def test_description_of_an_unknown_kind_of_tensorrt_is_refused(bundle, monkeypatch):
    install(monkeypatch)
    path = key_path(look_plan(bundle))
    path.write_text(path.read_text().replace("tensorrt_rtx", "tensorrt_tx"))
    assert read_key(key_path(bundle.step_path.with_suffix(".plan"))).machine.sm == "8.0 and later"
    with pytest.raises(BadPlans, match=r"'tensorrt_tx' is not a kind of TensorRT"):
        TensorRTBackend(bundle)

# SPDX-License-Identifier: Apache-2.0
"""The node builds TensorRT plans itself: real builds in their own processes, with doubles of TensorRT."""

import os
import shutil
import threading
import time

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import numpy as np
from support import tensorrt_double

from depthlm_ros.backends.tensorrt.plan_file import key_path, read_key, write_plan
from depthlm_ros.errors import SetupError
from depthlm_ros.model import load_model
from depthlm_ros.model_files.bundle import find_bundle
from depthlm_ros.ros.model_loading import BuildCancelled, ModelLoader
from depthlm_ros.ros.parameters import Parameters

pytestmark = pytest.mark.torch
CANVAS = np.random.default_rng(0).integers(0, 256, (1, 192, 256, 3), dtype=np.uint8)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The folder of a model without plans; a double replaces TensorRT."""
    tensorrt_double.install(monkeypatch)
    tensorrt_double.install_for_processes(monkeypatch, tmp_path / "doubles")
    folder = tmp_path / "tiny"
    shutil.copytree(find_bundle("tiny"), folder)
    return folder


def parameters_for(folder, **others):
    return Parameters(model=str(folder), backend="tensorrt", rebuild_engine=True, num_threads=1, **others)


class Log(list):
    def __call__(self, line):
        self.append(line)


def loader(log=None, is_stopping=lambda: False):
    return ModelLoader(Log() if log is None else log, is_stopping)


def test_missing_plans_are_built_and_give_the_results_of_onnx_runtime(tiny):
    log = Log()
    model = loader(log).load(parameters_for(tiny))
    assert "has no look_256x192.plan" in log[0] and "the plans are built" in log
    expected = load_model(str(tiny), "onnxruntime", 1).backend.look([CANVAS])
    np.testing.assert_allclose(model.backend.look([CANVAS]).depth_m, expected.depth_m, rtol=1e-5)
    assert model.backend_name == "tensorrt"


def test_nothing_is_built_unless_the_parameter_allows_it(tiny):
    with pytest.raises(SetupError, match=r"depthlm engine build --model .*rebuild_engine"):
        loader().load(Parameters(model=str(tiny), backend="tensorrt"))
    assert not list(tiny.glob("*.plan*"))


def test_only_plans_that_do_not_fit_are_built_again(tiny):
    loader().load(parameters_for(tiny))
    untouched, stale = tiny / "look_384x288.plan", tiny / "step.plan"
    before = untouched.stat().st_mtime_ns
    stale.write_bytes(stale.read_bytes()[:-10])
    log = Log()
    loader(log).load(parameters_for(tiny))
    assert "step.plan does not fit" in log[0]
    assert untouched.stat().st_mtime_ns == before


def test_failed_build_reports_both_reasons_and_keeps_the_old_plans(tiny, monkeypatch):
    loader().load(parameters_for(tiny))
    (tiny / ".building").unlink()
    before = {path.name: path.read_bytes() for path in tiny.iterdir()}
    monkeypatch.setenv("DOUBLE_VERSION", "10.9.0")
    monkeypatch.setenv("DOUBLE_REFUSAL", "could not find any implementation for node MatMul")
    tensorrt_double.install(monkeypatch, "10.9.0")
    with pytest.raises(SetupError) as error:
        loader().load(parameters_for(tiny))
    for words in ("TensorRT is 10.9.0, but the plan was built for 10.3.0", "and failed", "node MatMul", str(tiny)):
        assert words in str(error.value)
    (tiny / ".building").unlink()
    assert {path.name: path.read_bytes() for path in tiny.iterdir()} == before


def test_plans_that_still_do_not_fit_after_a_build_are_refused(tiny, monkeypatch):
    """A machine with two GPUs can have this: a plan that is built for the first does not fit the second."""
    tensorrt_double.install(monkeypatch, "10.9.0")
    log = Log()
    with pytest.raises(SetupError, match=r"TensorRT is 10\.9\.0, but the plan was built for 10\.3\.0"):
        loader(log).load(parameters_for(tiny))
    assert len([line for line in log if "the node does that now" in line]) == 1


def test_damaged_model_is_reported_and_not_built(tiny):
    (tiny / "manifest.json").write_text((tiny / "manifest.json").read_text().replace('"tiny"', '"big"', 1))
    log = Log()
    with pytest.raises(SetupError, match="was edited after it was written"):
        loader(log).load(parameters_for(tiny))
    assert not log


def test_stopping_node_cancels_the_build_and_leaves_no_plan(tiny, monkeypatch):
    monkeypatch.setenv("DOUBLE_SECONDS", "300")
    stopping = threading.Event()
    slow = loader(is_stopping=stopping.is_set)
    raised = []

    def load():
        try:
            slow.load(parameters_for(tiny))
        except BuildCancelled as error:
            raised.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    give_up_s = time.monotonic() + 60
    lock = tiny / ".building"
    while not (lock.exists() and lock.read_text()) and time.monotonic() < give_up_s:
        time.sleep(0.05)
    builder = int(lock.read_text())
    assert "building TensorRT plans for" in slow.progress
    stopping.set()
    thread.join(30)
    assert raised and not slow.progress
    with pytest.raises(ProcessLookupError):
        os.kill(builder, 0)
    assert not list(tiny.glob("*.plan*"))


def test_complete_plan_that_tensorrt_refuses_fails_when_it_is_used(tiny):
    """Only TensorRT itself can tell it from a good plan."""
    loader().load(parameters_for(tiny))
    plan = tiny / "look_256x192.plan"
    write_plan(plan, b"not a plan", read_key(key_path(plan)))
    model = loader().load(parameters_for(tiny))
    with pytest.raises(SetupError, match="magic tag does not match"):
        model.backend.look([CANVAS])

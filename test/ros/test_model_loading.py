"""The node's own building of TensorRT plans, by real builds in processes of their own, on doubles of TensorRT."""

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
from depthlm_ros.ros.model_loading import BrokenOff, Loader
from depthlm_ros.ros.parameters import Parameters

pytestmark = pytest.mark.torch
CANVAS = np.random.default_rng(0).integers(0, 256, (1, 96, 128, 3), dtype=np.uint8)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Folder of a model without plans, in a world with a TensorRT."""
    tensorrt_double.install(monkeypatch)
    tensorrt_double.install_for_processes(monkeypatch, tmp_path / "doubles")
    folder = tmp_path / "tiny"
    shutil.copytree(find_bundle("tiny"), folder)
    return folder


def wanted(folder, **others):
    return Parameters(model=str(folder), backend="tensorrt", rebuild_engine=True, num_threads=1, **others)


class Log(list):
    def __call__(self, line):
        self.append(line)


def loader(log=None, is_ending=lambda: False):
    return Loader(Log() if log is None else log, is_ending)


def test_plans_that_are_missing_are_built_and_the_model_is_that_of_onnx_runtime(tiny):
    log = Log()
    model = loader(log).load(wanted(tiny))
    assert "has no look_128x96.plan" in log[0] and "the plans are built" in log
    expected = load_model(str(tiny), "onnxruntime", 1).backend.look([CANVAS])
    np.testing.assert_allclose(model.backend.look([CANVAS]).depth_m, expected.depth_m, rtol=1e-5)
    assert model.backend_name == "tensorrt"


def test_nothing_is_built_unless_the_parameter_allows_it(tiny):
    with pytest.raises(SetupError, match=r"depthlm engine build --model .*rebuild_engine"):
        loader().load(Parameters(model=str(tiny), backend="tensorrt"))
    assert not list(tiny.glob("*.plan*"))


def test_only_what_does_not_fit_is_built_anew(tiny):
    loader().load(wanted(tiny))
    untouched, stale = tiny / "look_192x128.plan", tiny / "step.plan"
    before = untouched.stat().st_mtime_ns
    stale.write_bytes(stale.read_bytes()[:-10])
    log = Log()
    loader(log).load(wanted(tiny))
    assert "step.plan does not fit" in log[0]
    assert untouched.stat().st_mtime_ns == before


def test_a_build_that_fails_tells_why_beside_the_first_refusal_and_leaves_what_was_there(tiny, monkeypatch):
    loader().load(wanted(tiny))
    (tiny / ".building").unlink()
    before = {path.name: path.read_bytes() for path in tiny.iterdir()}
    monkeypatch.setenv("DOUBLE_VERSION", "10.9.0")
    monkeypatch.setenv("DOUBLE_REFUSAL", "could not find any implementation for node MatMul")
    tensorrt_double.install(monkeypatch, "10.9.0")
    with pytest.raises(SetupError) as error:
        loader().load(wanted(tiny))
    for words in ("TensorRT is 10.9.0, but the plan was built for 10.3.0", "in vain", "node MatMul", str(tiny)):
        assert words in str(error.value)
    (tiny / ".building").unlink()
    assert {path.name: path.read_bytes() for path in tiny.iterdir()} == before


def test_plans_that_still_do_not_fit_after_a_build_are_refused_and_not_built_for_ever(tiny, monkeypatch):
    """As on a machine with two GPUs: what is built for the first does not fit the second."""
    tensorrt_double.install(monkeypatch, "10.9.0")
    log = Log()
    with pytest.raises(SetupError, match=r"TensorRT is 10\.9\.0, but the plan was built for 10\.3\.0"):
        loader(log).load(wanted(tiny))
    assert len([line for line in log if "this is done now" in line]) == 1


def test_a_damaged_model_is_told_and_not_built(tiny):
    (tiny / "manifest.json").write_text((tiny / "manifest.json").read_text().replace('"tiny"', '"big"', 1))
    log = Log()
    with pytest.raises(SetupError, match="was edited after it was written"):
        loader(log).load(wanted(tiny))
    assert not log


def test_a_node_that_ends_breaks_the_build_off_and_leaves_nothing_that_loads(tiny, monkeypatch):
    monkeypatch.setenv("DOUBLE_SECONDS", "300")
    ending = threading.Event()
    slow = loader(is_ending=ending.is_set)
    raised = []

    def load():
        try:
            slow.load(wanted(tiny))
        except BrokenOff as error:
            raised.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    give_up_s = time.monotonic() + 60
    lock = tiny / ".building"
    while not (lock.exists() and lock.read_text()) and time.monotonic() < give_up_s:
        time.sleep(0.05)
    builder = int(lock.read_text())
    assert "building TensorRT plans for" in slow.doing
    ending.set()
    thread.join(30)
    assert raised and not slow.doing
    with pytest.raises(ProcessLookupError):
        os.kill(builder, 0)
    assert not list(tiny.glob("*.plan*"))


def test_a_whole_plan_that_tensorrt_does_not_take_costs_looks_not_the_node(tiny):
    """Nothing tells it from a good one but TensorRT itself."""
    loader().load(wanted(tiny))
    plan = tiny / "look_128x96.plan"
    write_plan(plan, b"not a plan", read_key(key_path(plan)))
    model = loader().load(wanted(tiny))
    with pytest.raises(SetupError, match="magic tag does not match"):
        model.backend.look([CANVAS])

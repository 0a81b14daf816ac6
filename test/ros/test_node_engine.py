# SPDX-License-Identifier: Apache-2.0
"""A node whose engine does not fit: it says why, keeps running, and works when the engine is repaired.

A double replaces TensorRT (tensorrt_double.py). Plans are checked as on a robot; if onnx is installed they are also
built and run.
"""

import importlib.util
import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")
pytest.importorskip("depthlm_ros.srv")

from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from support import tensorrt_double  # noqa: E402
from support.paths import TINY  # noqa: E402
from support.ros_rig import CAMERA, depth_of, new_rig, picture  # noqa: E402

from depthlm_ros.backends.tensorrt.plan_file import Machine, PlanKey, write_plan  # noqa: E402
from depthlm_ros.core import Frame, Intrinsics  # noqa: E402
from depthlm_ros.model import load_model  # noqa: E402
from depthlm_ros.model_files.bundle import MANIFEST, file_digest, load_bundle, manifest_text, read_manifest  # noqa: E402  # noqa: E402
from depthlm_ros.ros.camera_info_sync import stamp_ns  # noqa: E402
from depthlm_ros.ros.message_out import colour_image  # noqa: E402

if not TINY.is_dir():
    pytest.skip("engines/tiny is not here: `make train` makes it", allow_module_level=True)

# The machine that the doubles report.
HERE = Machine("10.3.0", "Double GPU", "8.7", "CUDA 12.6")
CONFIGURE, CLEANUP = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CLEANUP
CONFIGURING = ChangeState.Request(transition=Transition(id=CONFIGURE))
needs_onnx = pytest.mark.skipif(importlib.util.find_spec("onnx") is None, reason="plans are built with onnx")


def put_plans(folder, machine=HERE, content=b"a plan"):
    """Writes plans whose descriptions say that they were built for a machine."""
    digests = read_manifest(folder)["files"]
    for graph in load_bundle(folder).graphs:
        key = PlanKey({graph.name: digests[graph.name]}, machine, "fp16", (), ("strongly typed",))
        write_plan(graph.with_suffix(".plan"), content, key)


def change_graph(folder):
    """Changes a graph and the manifest that holds its checksum, as a new export does."""
    graph, manifest = folder / "step.onnx", read_manifest(folder)
    graph.write_bytes(graph.read_bytes() + bytes([6 << 3 | 2, 0]))  # an empty doc_string of ONNX's ModelProto
    manifest["files"]["step.onnx"] = file_digest(graph)
    (folder / MANIFEST).write_text(manifest_text(manifest))


def edit_manifest(folder):
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"focal_px": 500.0}))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-2])


COMMAND = "depthlm engine build --model {folder} --backend tensorrt"
# For each fault of an engine: what is done to its folder, and words of the message.
FAULTS = {
    "TensorRT": (
        lambda folder: put_plans(folder, replace(HERE, tensorrt="10.9.0")),
        ("TensorRT is 10.3.0, but the plan was built for 10.9.0", COMMAND),
    ),
    "GPU": (
        lambda folder: put_plans(folder, replace(HERE, gpu="Thor", sm="11.0")),
        ("GPU is Double GPU, but the plan was built for Thor", "compute capability is 8.7", COMMAND),
    ),
    "driver": (
        lambda folder: put_plans(folder, replace(HERE, driver="CUDA 13.0")),
        ("driver is CUDA 12.6, but the plan was built for CUDA 13.0", COMMAND),
    ),
    "graph": (change_graph, ("step.onnx has changed since the plan was built", COMMAND)),
    "truncated plan": (
        lambda folder: truncate(folder / "look_256x192.plan"),
        ("look_256x192.plan does not fit: it has 4 bytes instead of 6", COMMAND),
    ),
    "damaged description": (
        lambda folder: truncate(folder / "step.plan.json"),
        ("step.plan.json is damaged", COMMAND),
    ),
    "missing plan": (lambda folder: (folder / "step.plan").unlink(), ("has no step.plan", COMMAND)),
    "edited manifest": (edit_manifest, ("manifest.json was edited after it was written", "restore the folder")),
    "missing weights": (lambda folder: (folder / "model.safetensors").unlink(), ("model.safetensors is missing",)),
    "no folder": (shutil.rmtree, ("not a known model",)),
}


@pytest.fixture(scope="module")
def managed(tmp_path_factory):
    """A rig with a node that a lifecycle manager configures, and the folder of its engine."""
    with pytest.MonkeyPatch.context() as monkeypatch, new_rig(tmp_path_factory.mktemp("managed")) as made:
        tensorrt_double.install_for_processes(monkeypatch, tmp_path_factory.mktemp("doubles"))
        made.engine = tmp_path_factory.mktemp("engines") / "mine"
        made.start(
            *(
                "-p",
                "autostart:=false",
                "-p",
                "backend:=tensorrt",
                "-p",
                f"model:={made.engine}",
                "-p",
                "num_threads:=1",
            ),
            watched=(),
        )
        yield made


@pytest.mark.parametrize("fault", FAULTS)
def test_engine_that_does_not_fit_is_refused_with_the_reason_until_it_is_repaired(managed, fault):
    shutil.rmtree(managed.engine, ignore_errors=True)
    shutil.copytree(TINY, managed.engine)
    put_plans(managed.engine)
    change, words = FAULTS[fault]
    change(managed.engine)
    before = len(managed.log)
    assert not managed.transition(CONFIGURE) and managed.state() == "unconfigured"
    logged = managed.log[before:]
    for part in words:
        assert part.format(folder=managed.engine) in logged, logged
    assert logged.count("[FATAL]") == 1 and "Traceback" not in logged and "report it" not in logged
    health = managed.newest_health()
    assert health["level"] == DiagnosticStatus.ERROR and words[0] in health["message"]
    assert not managed.ask("query_depth", managed.clients["query_depth"].srv_type.Request()).success

    shutil.rmtree(managed.engine, ignore_errors=True)
    shutil.copytree(TINY, managed.engine)
    put_plans(managed.engine)
    assert managed.transition(CONFIGURE) and managed.state() == "inactive"
    assert managed.newest_health()["level"] == DiagnosticStatus.OK
    assert managed.transition(CLEANUP)


def test_other_camera_than_the_engine_s_is_reported_and_loses_frames_only_if_it_cannot_be_served(tmp_path):
    engine, command = tmp_path / "tiny-160x120", "depthlm engine build --model tiny"
    shutil.copytree(TINY, engine)
    changes = {"canvases_px": [[256, 192]], "built_by": command, "rebuild": f"{command} --size 160x120 --focal 131"}
    (engine / MANIFEST).write_text(manifest_text(read_manifest(engine) | changes))
    own, long_lens, wide = (Intrinsics(f, f, 79.5, 59.5, 160, 120) for f in (131.0, 300.0, 60.0))
    with new_rig(tmp_path) as rig:
        rig.start("-p", f"model:={engine}", "-p", "num_threads:=1")
        rig.shoot_until("depth/image", lambda: rig.shoot(camera=own))
        assert "built for" not in rig.log
        for camera in (long_lens, own):
            rig.shoot_until("depth/image", lambda camera=camera: rig.shoot(camera=camera))
        assert rig.log.count("sees 100 %, on 110 x ") == 1
        assert f"{command} --size 160x120 --focal 300" in rig.log

        words = "seen as 544 x 408 pixels, but this engine was built for a camera that is seen as 256 x 192"
        refused = set()

        def shoot_and_read():
            refused.add(rig.shoot(camera=wide))
            return words in rig.newest_health()["last_trouble"]

        rig.wait(shoot_and_read, "refusal")
        assert f"{command} --size 160x120 --focal 60" in rig.log
        rig.shoot_until("depth/image", lambda: rig.shoot(camera=own))
        assert not refused & {stamp_ns(message.header) for message in rig.received["depth/image"]}


@pytest.fixture
def building(tmp_path, monkeypatch):
    """A rig that can start a node which builds its engine, and the folder of the engine."""
    tensorrt_double.install_for_processes(monkeypatch, tmp_path / "doubles")
    with new_rig(tmp_path) as made:
        made.engine = tmp_path / "mine"
        shutil.copytree(TINY, made.engine)

        def start(*args, watched=()):
            made.start(
                *("-p", "rebuild_engine:=true", "-p", "backend:=tensorrt", "-p", f"model:={made.engine}", *args),
                watched=watched,
            )

        made.start_building = start
        yield made


def test_failed_build_leaves_the_node_unconfigured_with_both_reasons(building, monkeypatch):
    monkeypatch.setenv("DOUBLE_REFUSAL", "could not find any implementation")
    put_plans(building.engine, replace(HERE, tensorrt="10.9.0"), b"works elsewhere")
    building.start_building("-p", "autostart:=false")
    assert not building.transition(CONFIGURE) and building.state() == "unconfigured"
    why = "could not find any implementation" if importlib.util.find_spec("onnx") else "'onnx' is missing"
    for words in ("the plan was built for 10.9.0", COMMAND.format(folder=building.engine), "and failed", why):
        assert words in building.newest_health()["message"]
    assert (building.engine / "step.plan").read_bytes() == b"works elsewhere"
    put_plans(building.engine)
    assert building.transition(CONFIGURE) and building.state() == "inactive"


@needs_onnx
def test_engine_is_built_and_then_used(building):
    building.start_building(watched=("depth/image",))
    rgb = picture(3)
    building.shoot_until("depth/image")
    depth = building.of_stamp("depth/image", building.shoot(colour_image(building.header(), rgb)))
    expected_m = load_model("tiny", "onnxruntime", threads=1).look(Frame(rgb, CAMERA)).depth().depth_m
    assert np.allclose(depth_of(depth), expected_m, rtol=1e-4, equal_nan=True)
    assert "on tensorrt" in building.log and building.newest_health()["backend"] == "tensorrt"


@needs_onnx
def test_node_answers_and_reports_progress_while_an_engine_is_built(building, monkeypatch):
    monkeypatch.setenv("DOUBLE_SECONDS", "1")
    building.start_building("-p", "autostart:=false")
    change = building.begin("depth_node/change_state", CONFIGURING)
    building.wait(lambda: building.state() == "configuring", "state configuring")
    health = building.wait(
        lambda: (health := building.newest_health())["level"] == DiagnosticStatus.WARN and health, "level WARN"
    )
    assert "building TensorRT plans for" in health["message"]
    assert not building.transition(CONFIGURE)
    assert building.finish(change).success and building.state() == "inactive"
    assert building.newest_health()["level"] == DiagnosticStatus.OK


@needs_onnx
@pytest.mark.parametrize("autostart", ["true", "false"])
def test_signal_while_an_engine_is_built_ends_node_and_build_with_code_0(building, monkeypatch, autostart):
    monkeypatch.setenv("DOUBLE_SECONDS", "300")
    building.start_building("-p", f"autostart:={autostart}")
    if autostart == "false":
        building.begin("depth_node/change_state", CONFIGURING)
    lock = building.engine / ".building"
    building.wait(lambda: lock.exists() and lock.read_text(), "build")
    builder = int(lock.read_text())
    assert building.stop(signal.SIGINT) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(builder, 0)
    assert "Traceback" not in building.log and "[FATAL]" not in building.log
    assert not list(building.engine.glob("*.plan*"))

# SPDX-License-Identifier: Apache-2.0
"""The life of a node: it starts, pauses, stops, says why it cannot start, and survives bad messages of a camera."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")
pytest.importorskip("depthlm_ros.srv")

from builtin_interfaces.msg import Time  # noqa: E402
from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from geometry_msgs.msg import Point  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from support.paths import ROOT, TINY  # noqa: E402
from support.ros_rig import CAMERA, new_rig, picture  # noqa: E402

from depthlm_ros.core import Intrinsics  # noqa: E402
from depthlm_ros.model_files.bundle import manifest_text  # noqa: E402
from depthlm_ros.ros.camera_info_sync import stamp_ns  # noqa: E402
from depthlm_ros.ros.child_process import graph_environment, module_command  # noqa: E402
from depthlm_ros.ros.message_out import colour_image, rectified_camera_info  # noqa: E402
from depthlm_ros.srv import QueryDepth  # noqa: E402

if not TINY.is_dir():
    pytest.skip("engines/tiny is not here: `make train` makes it", allow_module_level=True)

ONE_PIXEL = QueryDepth.Request(pixels=[Point(x=1.0, y=1.0)])


@pytest.fixture
def rig(tmp_path):
    with new_rig(tmp_path) as rig:
        yield rig


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A rig with one node for several tests."""
    with new_rig(tmp_path_factory.mktemp("running")) as rig:
        rig.start("-p", "stale_after_s:=4", watched=("depth/image",))
        rig.shoot_until("depth/image")
        yield rig


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_images_arrive_ends_the_node_with_code_0(rig, number):
    rig.start()
    rig.shoot_until("depth/image")
    for _ in range(5):
        rig.shoot()
    assert rig.stop(number) == 0
    assert "Traceback" not in rig.log and "terminate" not in rig.log


def test_signal_while_questions_wait_ends_the_node_with_code_0(rig):
    rig.start()
    rig.shoot_until("depth/image")
    for _ in range(3):
        rig.begin("query_depth", QueryDepth.Request(pixels=ONE_PIXEL.pixels, fresh=True, timeout_s=60.0))
    time.sleep(0.3)
    assert rig.stop() == 0


def test_node_waits_for_a_lifecycle_manager_without_autostart(rig):
    rig.start("-p", "autostart:=false", watched=())
    assert rig.state() == "unconfigured" == rig.newest_health()["state"]
    refused = rig.ask("query_depth", ONE_PIXEL)
    assert not refused.success and "not active" in refused.message
    assert rig.transition(Transition.TRANSITION_CONFIGURE) and rig.state() == "inactive"
    assert rig.newest_health()["state"] == "inactive"
    rig.listen("depth/image")
    assert rig.node.count_subscribers(f"{rig.namespace}/image") == 0
    assert rig.transition(Transition.TRANSITION_ACTIVATE)
    rig.shoot_until("depth/image")


def test_node_can_be_deactivated_and_configured_again_while_the_camera_runs(rig):
    rig.start()
    rig.shoot_until("depth/image")
    for _ in range(3):
        for _ in range(4):
            rig.shoot()
        assert rig.transition(Transition.TRANSITION_DEACTIVATE)
        assert "not active" in rig.ask("query_depth", ONE_PIXEL).message
        time.sleep(0.2)
        before = len(rig.received["depth/image"])
        for _ in range(5):
            rig.shoot()
            time.sleep(0.02)
        assert len(rig.received["depth/image"]) == before
        assert rig.transition(Transition.TRANSITION_ACTIVATE)
        rig.shoot_until("depth/image")
    assert rig.transition(Transition.TRANSITION_DEACTIVATE) and rig.transition(Transition.TRANSITION_CLEANUP)
    assert rig.state() == "unconfigured"
    assert rig.transition(Transition.TRANSITION_CONFIGURE) and rig.transition(Transition.TRANSITION_ACTIVATE)
    rig.shoot_until("depth/image")
    assert rig.transition(Transition.TRANSITION_ACTIVE_SHUTDOWN) and rig.state() == "finalized"
    assert rig.stop() == 0


def test_transitions_requested_at_the_same_time_run_one_after_another(rig):
    rig.start()
    rig.shoot_until("depth/image")
    down_and_up = [
        rig.begin("depth_node/change_state", ChangeState.Request(transition=Transition(id=number)))
        for number in (
            Transition.TRANSITION_DEACTIVATE,
            Transition.TRANSITION_CLEANUP,
            Transition.TRANSITION_CONFIGURE,
            Transition.TRANSITION_ACTIVATE,
        )
    ]
    assert all(rig.finish(each).success for each in down_and_up) and rig.state() == "active"
    rig.shoot_until("depth/image")


def test_two_nodes_in_one_process_are_independent():
    """One is cleaned up, then destroyed, while the camera runs, as in a process that a user composes."""
    program = str(ROOT / "test" / "support" / "two_nodes.py")
    env = graph_environment() | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=120, env=env)
    assert done.stdout.split("\n")[:4] == ["left right", "right", "left right", "left"], done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_node_runs_on_without_the_model_s_folder_but_needs_it_to_be_configured_again(rig, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    rig.start("-p", f"model:={folder}")
    rig.shoot_until("depth/image")
    shutil.rmtree(folder)
    rig.shoot_until("depth/image")
    assert rig.ask("query_depth", ONE_PIXEL).success
    wide = Intrinsics(70.0, 70.0, 79.5, 59.5, 160, 120)  # needs a graph that was not read yet
    rig.wait(lambda: rig.shoot(camera=wide) and "look_384x288.onnx" in rig.newest_health()["last_trouble"], "message")
    rig.shoot_until("depth/image")
    assert rig.transition(Transition.TRANSITION_DEACTIVATE) and rig.transition(Transition.TRANSITION_CLEANUP)
    assert not rig.transition(Transition.TRANSITION_CONFIGURE) and str(folder) in rig.newest_health()["message"]
    shutil.copytree(TINY, folder)
    assert rig.transition(Transition.TRANSITION_CONFIGURE) and rig.transition(Transition.TRANSITION_ACTIVATE)
    rig.shoot_until("depth/image")


def test_managed_node_stays_unconfigured_and_says_why_if_the_model_cannot_be_loaded(rig):
    rig.start("-p", "autostart:=false", "-p", "model:=no-such-model", watched=())
    assert not rig.transition(Transition.TRANSITION_CONFIGURE)
    assert rig.state() == "unconfigured" and "'no-such-model'" in rig.log


def damaged(folder: Path) -> Path:
    copy = folder / "damaged"
    shutil.copytree(TINY, copy)
    graph = next(copy.glob("look_*.onnx"))
    graph.write_bytes(graph.read_bytes()[:-100])
    return copy


def headless(folder: Path) -> Path:
    """Returns a model that tells depth only in words."""
    copy = folder / "headless"
    shutil.copytree(TINY, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(manifest_text(manifest | {"head": ""}))
    return copy


SETTINGS = [
    (("-p", "model:=no-such-model"), "no-such-model"),
    (("-p", "backend:=magic"), "auto, onnxruntime, tensorrt, torch"),
    (("-p", "device:=gpu0"), "use cpu, openvino, cuda or cuda:1"),
    (("-p", "device:=cpu", "-p", "backend:=tensorrt"), "TensorRT"),
    (("-p", "num_threads:=-1"), "Min: 0"),
    (("-p", "num_threads:=10000"), "Max: 1024"),
    (("-p", "rebuild_engine:=maybe"), "rebuild_engine"),
    (("-p", "mode:=fast"), "dense, sparse"),
    (("-p", "cloud_stride:=0"), "cloud_stride"),
    (("-p", "max_depth_m:=far"), "max_depth_m"),
    (("-p", "sparse_grid:=[]"), "Rows and columns"),
    (("-p", "use_sim_time:=maybe"), "use_sim_time"),
    (("-p", "qos_overrides./image.subscription.reliability:=5"), "reliable or best_effort"),
    (("-p", "qos_overrides./depth/points.publisher.history:=all"), "keep_last or keep_all"),
    (("-p", "qos_overrides./depth/image.publisher.depth:=0"), "depth a whole number from 1"),
    (("-p", "model:=/DAMAGED"), "is damaged"),
    (("-p", "model:=/EMPTY"), "manifest.json"),
    (("-p", "model:=/HEADLESS"), "`mode: sparse`"),
]


# One of each kind: a name, a range, an override, a damaged and an unfit model. The others are slow together.
QUICK_SETTINGS = {"no-such-model", "Min: 0", "keep_last or keep_all", "is damaged", "`mode: sparse`"}


@pytest.mark.parametrize(
    ("args", "words"),
    [pytest.param(*each, marks=() if each[1] in QUICK_SETTINGS else pytest.mark.slow) for each in SETTINGS],
    ids=[words for _, words in SETTINGS],
)
def test_unusable_settings_end_the_node_with_code_1_and_one_line(tmp_path, args, words):
    (tmp_path / "empty").mkdir()
    makers = {"/DAMAGED": damaged, "/EMPTY": lambda folder: folder / "empty", "/HEADLESS": headless}
    for mark, make in makers.items():
        args = tuple(arg.replace(mark, str(make(tmp_path))) if mark in arg else arg for arg in args)
    command = module_command("depthlm_ros.ros.node", "--ros-args", *args)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 1 and words in output
    assert output.count("[FATAL]") == 1 and "Traceback" not in output and "report it" not in output


def image_of(rig, **fields):
    image = colour_image(rig.header(frame_id=fields.pop("frame_id", "camera")), picture())
    for name, value in fields.items():
        setattr(image, name, value)
    return image


def info_of(image, **fields):
    info = rectified_camera_info(image.header, CAMERA)
    for name, value in fields.items():
        setattr(info, name, value)
    return info


def k(fx):
    return np.array([fx, 0, 80, 0, 150, 60, 0, 0, 1], dtype=np.float64)


# For each fault: fields of the image, fields of its calibration, the reason that is counted, words of the message.
BAD_FRAMES = {
    "unknown encoding": ({"encoding": "rgb99"}, {}, "bad image", "'rgb99'"),
    "short buffer": ({"height": 121}, {}, "bad image", "needs 58080 bytes but holds 57600"),
    "short step": ({"step": 100}, {}, "bad image", "step 100"),
    "no pixels": ({"width": 0, "height": 0, "step": 0}, {}, "bad image", "0 x 0"),
    "other size": ({}, {"width": 320, "height": 240}, "bad camera_info", "320 x 240"),
    "zero focal length": ({}, {"k": k(0.0)}, "bad camera_info", "fx = 0.0"),
    "NaN focal length": ({}, {"k": k(np.nan)}, "bad camera_info", "fx = nan"),
    "unknown lens": ({}, {"distortion_model": "wobbly", "d": [1.0]}, "bad camera_info", "'wobbly'"),
    "absurd distortion": ({}, {"d": [np.nan] * 5}, "bad camera_info", "D ="),
    "uncalibrated": ({}, {"width": 0, "height": 0, "k": k(0.0)}, "bad camera_info", "0 x 0"),
    "other camera": ({"frame_id": "no_such_camera"}, {"header": None}, "bad camera_info", "another camera"),
}


@pytest.mark.parametrize("kind", BAD_FRAMES)
def test_bad_frame_is_counted_and_reported_and_the_next_good_one_works(running, kind):
    image_fields, info_fields, reason, words = BAD_FRAMES[kind]
    before = int(running.newest_health().get(f"count: {reason}", "0"))
    image = image_of(running, **image_fields)
    if "header" in info_fields:
        info_fields = {"header": running.header(frame_id="camera")}
    running.shoot(image, info_of(image, **info_fields))

    def counted():
        health = running.newest_health()
        return int(health.get(f"count: {reason}", "0")) > before and health

    assert words in running.wait(counted, f"count of {kind}")["last_trouble"]
    good = running.shoot()
    running.of_stamp("depth/image", good)
    assert stamp_ns(image.header) not in {stamp_ns(message.header) for message in running.received["depth/image"]}


def test_late_image_is_left_out_and_a_restarted_camera_is_followed(running):
    at_ns = running.shoot()
    running.of_stamp("depth/image", at_ns)
    late = colour_image(running.header(at_ns - 300_000_000), picture())
    running.shoot(late)
    running.wait(lambda: running.newest_health().get("count: late image") == "1", "count of late images")
    restart_ns = at_ns - 3_600_000_000_000
    running.shoot(colour_image(running.header(restart_ns), picture()))
    running.of_stamp("depth/image", restart_ns)
    assert "went back" in running.log
    running.shoot(colour_image(running.header(restart_ns + 10_000_000), picture()))
    running.of_stamp("depth/image", restart_ns + 10_000_000)


def test_node_forgets_its_frames_when_simulated_time_jumps_back(rig):
    clock = rig.node.create_publisher(Clock, "/clock", 10)

    def shoot_at(second):
        clock.publish(Clock(clock=Time(sec=second)))
        return rig.shoot(colour_image(rig.header(second * 1_000_000_000), picture()))

    rig.start("-p", "use_sim_time:=true")
    second = itertools.count(1000)
    rig.shoot_until("depth/image", lambda: shoot_at(next(second)))
    assert rig.ask("query_depth", ONE_PIXEL).success
    clock.publish(Clock(clock=Time(sec=10)))
    rig.wait(lambda: "clock went back" in rig.log, "note of the jump")
    assert rig.ask("query_depth", ONE_PIXEL).status == QueryDepth.Response.NO_IMAGE
    rig.shoot_until("depth/image", lambda: shoot_at(next(second) - 990))
    assert rig.ask("query_depth", ONE_PIXEL).header.stamp.sec < 1000


def test_images_without_camera_info_are_reported_with_both_topics(rig):
    rig.start("-p", "stale_after_s:=0.3", watched=("depth/image",))
    rig.wait(lambda: rig.node.count_subscribers(f"{rig.namespace}/image"), "subscriber")

    def reported():
        rig.publishers["image"].publish(colour_image(rig.header(), picture()))
        return f"no camera_info on {rig.namespace}/camera_info" in rig.log and f"{rig.namespace}/image" in rig.log

    rig.wait(reported, "warning")
    rig.wait(lambda: reported() and rig.health and rig.health[-1].level == DiagnosticStatus.ERROR, "level ERROR")
    refused = rig.ask("query_depth", ONE_PIXEL)
    assert not refused.success and "no camera_info" in refused.message
    rig.shoot_until("depth/image")
    assert rig.newest_health()["level"] != DiagnosticStatus.ERROR


def test_topic_whose_name_says_rectified_is_reported(rig):
    rig.start("-r", "image:=left/image_rect_color", watched=())
    rig.wait(lambda: "left/image_rect_color is named" in rig.log and "rectified_input" in rig.log, "warning")


@pytest.mark.parametrize("args", [("-p", "rectified_input:=true", "-r", "image:=image_rect"), ("-r", "image:=direct")])
def test_other_topics_are_not_reported_as_rectified(rig, args):
    rig.start(*args, watched=())
    rig.wait(lambda: "waiting for" in rig.log, "start")
    assert "is named as" not in rig.log


def test_image_topic_with_the_wrong_message_type_is_reported(rig):
    rig.start("-p", "stale_after_s:=0.2", "-r", "image:=image/compressed", watched=())
    rig.wait(lambda: "carries sensor_msgs/msg/CompressedImage" in rig.log and "image_transport" in rig.log, "warning")
    assert rig.newest_health()["level"] == DiagnosticStatus.STALE


def test_camera_that_stops_is_shown_as_stale(running):
    running.shoot_until("depth/image")
    health = running.wait(
        lambda: (health := running.newest_health())["level"] == DiagnosticStatus.STALE and health, "stale"
    )
    assert health["message"] == "images stopped" and float(health["last_image_age_s"]) > 4
    answer = running.ask("query_depth", ONE_PIXEL)
    assert answer.success and "s ago" in answer.message


def test_model_that_fails_repeatedly_is_shown_as_an_error_and_the_node_goes_on(rig, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(TINY, copy)
    graphs = {path: path.read_bytes() for path in copy.glob("look_*.onnx")}
    rig.start("-p", f"model:={copy}", watched=())
    rig.wait(lambda: "waiting for" in rig.log, "start")
    for path in graphs:
        path.write_bytes(b"broken")  # a graph is read when it is first needed
    rig.listen("depth/image")

    def shoot_and_see():
        rig.shoot()
        return rig.health and rig.health[-1].level == DiagnosticStatus.ERROR and rig.health[-1]

    status = rig.wait(shoot_and_see, "level ERROR")
    assert "failed" in status.message and ".onnx" in status.message
    assert rig.log.count("cannot load") <= 5
    for path, graph in graphs.items():
        path.write_bytes(graph)
    rig.shoot_until("depth/image")
    assert rig.newest_health()["failures_in_a_row"] == "0"


def test_diagnostics_hold_all_keys(running):
    running.shoot_until("depth/image")
    health = running.newest_health()
    expected = {"model": "tiny", "backend": "onnxruntime", "state": "active"}
    assert {name: health[name] for name in expected} == expected
    for name in ("rate_hz", "total_p50_ms", "total_p99_ms", "look_ms", "outside_ms", "last_look_age_s"):
        assert float(health[name]) >= 0
    for name in ("frames_received", "frames_dropped", "frames_looked_at", "questions_answered", "failures_in_a_row"):
        assert int(health[name]) >= 0


def test_importing_the_node_loads_neither_torch_nor_transformers_nor_numba():
    code = (
        "import sys, depthlm_ros.ros.node; print([m for m in ('torch', 'transformers', 'numba') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]"

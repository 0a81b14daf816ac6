# SPDX-License-Identifier: Apache-2.0
"""Takes one depth node through rounds of deactivate, cleanup, configure and activate, under load; prints one JSON line.

    python test/support/life_rounds.py ROUNDS

A camera sends images, all outputs are subscribed to, and questions of every kind are asked all the time: ones that are
answered, ones that are refused, and ones that still wait when the node is deactivated. The line holds, for each round,
the process's threads and file descriptors while the node works; and after the cleanup its memory (MB), and whether the
model is gone. A test runs this script.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import weakref
from pathlib import Path

import rclpy
from geometry_msgs.msg import Point
from rclpy.action import ActionClient
from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

# Python puts only the folder of this script on its path, but `support` lies in the folder above.
sys.path.insert(0, str(Path(__file__).parents[1]))

from depthlm_ros.action import AskSpatial
from depthlm_ros.ros import process_memory
from depthlm_ros.ros.node import SWITCH_INTERVAL_S, DepthNode, start
from depthlm_ros.ros.ros_process import Spinner
from depthlm_ros.srv import QueryDepth, RelativePose, SpatialQuery
from support.ros_rig import CAMERA, OUTPUTS, colour_image, picture, rectified_camera_info

PERIOD_S = 0.1
PATIENCE_S = 60.0
# A thread may still be about to leave a function that has used the model.
GONE_WITHIN_S = 2.0
PIXEL = [Point(x=20.0, y=20.0)]
REQUESTS = {
    "spatial_query": [
        SpatialQuery.Request(question="How far is the red box?", timeout_s=5.0),
        SpatialQuery.Request(question="How far is this point?", pixels=PIXEL, fresh=True, timeout_s=5.0),
        SpatialQuery.Request(question="How far is this point?", pixels=[Point(x=-5.0)], timeout_s=5.0),
    ],
    "query_depth": [QueryDepth.Request(pixels=PIXEL), QueryDepth.Request(pixels=PIXEL, fresh=True, timeout_s=0.05)],
    "relative_pose": [RelativePose.Request(timeout_s=5.0), RelativePose.Request(seconds_back=0.5, timeout_s=5.0)],
}
GOAL = AskSpatial.Goal(question="What is in front of me?", timeout_s=5.0)
TYPES = {"spatial_query": SpatialQuery, "query_depth": QueryDepth, "relative_pose": RelativePose}


class Load:
    """Another node of the same process: a camera, subscribers, and clients that ask again as soon as they can."""

    def __init__(self) -> None:
        self.node = rclpy.create_node("load")
        self.depth_images = self.answers = 0
        for name, kind in OUTPUTS.items():
            self.node.create_subscription(kind, name, lambda message, name=name: self._count(name), 2)
        self._info, self._image = (
            self.node.create_publisher(kind, name, 2) for kind, name in ((CameraInfo, "camera_info"), (Image, "image"))
        )
        self._clients = {name: self.node.create_client(kind, name) for name, kind in TYPES.items()}
        self._pictures = [picture(seed) for seed in range(3)]
        self._goals = ActionClient(self.node, AskSpatial, "ask_spatial")
        self._goal: Future | None = None
        self._waiting: dict[tuple[str, int], object] = {}
        self._turn = 0
        self.node.create_timer(PERIOD_S, self._work)

    def _count(self, name: str) -> None:
        self.depth_images += name == "depth/image"

    def _work(self) -> None:
        self._turn += 1
        header = Header(frame_id="camera", stamp=self.node.get_clock().now().to_msg())
        self._info.publish(rectified_camera_info(header, CAMERA))
        self._image.publish(colour_image(header, self._pictures[self._turn % len(self._pictures)]))
        if self._goals.server_is_ready() and (self._goal is None or self._goal.done()):
            self._goal = self._goals.send_goal_async(GOAL)
        for name, requests in REQUESTS.items():
            for number, request in enumerate(requests):
                future = self._waiting.get((name, number))
                if future is None or future.done():
                    self.answers += bool(future and future.result().success)
                    self._waiting[name, number] = self._clients[name].call_async(request)


def wait(until, what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not until():
        if time.monotonic() > deadline_s:
            raise AssertionError(f"no {what} within {PATIENCE_S:g} s")
        time.sleep(0.02)


def process_state() -> dict[str, float]:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"threads": int(status["Threads"]), "descriptors": len(list(Path("/proc/self/fd").iterdir()))}


def process_memory_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def one_round(node: DepthNode, load: Load) -> dict[str, float]:
    """Returns the state of the process while the node works, and what is left after the cleanup."""
    images, answers = load.depth_images, load.answers
    wait(lambda: load.depth_images >= images + 2 and load.answers >= answers + 3, "depth and answers")
    state = process_state()
    model = weakref.ref(node._model)
    collect, gc.collect = gc.collect, lambda: 0  # the model must go without the collector's help
    node.trigger_deactivate()
    node.trigger_cleanup()
    give_up_s = time.monotonic() + GONE_WITHIN_S
    while model() is not None and time.monotonic() < give_up_s:
        time.sleep(0.01)
    state["model_is_gone"] = model() is None
    gc.collect = collect
    node.release()  # again, with the collector
    state["memory_mb"] = process_memory_mb()  # while nothing is loaded; with a model it varies with the questions
    assert start(node)
    return state


def main(rounds: int) -> None:
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    process_memory.use_few_heaps()
    process_memory.keep_large_buffers_apart()
    rclpy.init()
    node = DepthNode(parameter_overrides=[rclpy.Parameter("num_threads", value=1)])
    load = Load()
    executors = [MultiThreadedExecutor(12), SingleThreadedExecutor()]
    executors[0].add_node(node)
    executors[1].add_node(load.node)
    spinners = [Spinner(each, print) for each in executors]
    try:
        assert start(node)
        for spinner in spinners:
            spinner.start()
        states = [one_round(node, load) for _ in range(rounds)]
    finally:
        node.release()
        for spinner in spinners:
            spinner.end()
        rclpy.shutdown()
    print(json.dumps({name: [state[name] for state in states] for name in states[0]}))


if __name__ == "__main__":
    main(int(sys.argv[1]))

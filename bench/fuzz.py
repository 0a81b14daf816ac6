# SPDX-License-Identifier: Apache-2.0
"""Sends hostile messages and requests to two real nodes, one with raw and one with compressed images. One JSON line.

After each case the node must live, the next good image must get its depth, no finite depth may come of unusable input,
and every request must be answered. Exit code 1 if any of this fails; the case is repeated by its seed and number:

    . ./env.sh && python bench/fuzz.py [--seed 0] [--cases 1000] [--first 0]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import rclpy
from hostile_messages import Hostile, good_messages, good_packed, hostile_case
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from depthlm_ros.action import AskSpatial
from depthlm_ros.errors import SetupError
from depthlm_ros.progress import progress_bar
from depthlm_ros.ros.camera_info_sync import stamp_ns
from depthlm_ros.ros.long_questions import ACTION
from depthlm_ros.ros.tools.process_graph import ProcessGraph, handshake
from depthlm_ros.srv import MatchPixels, QueryDepth, RelativePose, SpatialQuery

SERVICES = {
    "spatial_query": SpatialQuery,
    "query_depth": QueryDepth,
    "match_pixels": MatchPixels,
    "relative_pose": RelativePose,
}
START_S, PATIENCE_S = 120.0, 40.0
# How long the node has a hostile image alone, before the good one comes that would replace it in the queue.
ALONE_S = 0.04
AGAIN_S = 0.5
# Images that are odd but usable, such as a mono8 one: they show that hostile images reach the model.
WITH_DEPTH = "with depth"


class Target:
    """One depth node and this process's side of it: what is sent to it, and the depth that comes of it."""

    def __init__(self, graph: ProcessGraph, name: str, transport: str) -> None:
        self.node: Node = rclpy.create_node("fuzz", namespace=f"/{name}")
        self._graph, self._good = graph, good_packed if transport == "compressed" else good_messages
        graph.add(self.node)
        self.depths: list[Image] = []
        self.good_stamps: set[int] = set()
        reliable = QoSProfile(depth=20, reliability=ReliabilityPolicy.RELIABLE)
        types = {"camera_info": CameraInfo, "image": Image, "image/compressed": CompressedImage}
        self.publishers = {topic: self.node.create_publisher(kind, topic, reliable) for topic, kind in types.items()}
        self.clients = {service: self.node.create_client(kind, service) for service, kind in SERVICES.items()}
        self.actions = ActionClient(self.node, AskSpatial, ACTION)
        self.node.create_subscription(Image, "depth/image", self.depths.append, reliable)
        arguments = ("--ros-args", "-r", f"__ns:=/{name}", "-p", f"image_transport:={transport}")
        self.process = graph.start(f"{name} node", "depthlm_ros.ros.node", *arguments, "-p", "stale_after_s:=3600.0")

    def wait_until_ready(self) -> None:
        """Waits for the first depth and for all services. Raises SetupError."""
        self.send_good(START_S)
        for service, kind in SERVICES.items():
            self._graph.wait(handshake(self.clients[service], kind.Request()), f"service {service}", START_S)
        as_service = SimpleNamespace(
            service_is_ready=self.actions.server_is_ready, call_async=self.actions.send_goal_async
        )
        self._graph.wait(handshake(as_service, AskSpatial.Goal()), f"action {ACTION}", START_S)

    def ask(self, case: Hostile) -> Any:
        """Returns the response of a service, or the result of the action. Raises SetupError if there is none."""
        if case.service != ACTION:
            return self._wait(self.clients[case.service].call_async(case.request), case)
        goal = self._wait(self.actions.send_goal_async(case.request), case)
        return self._wait(goal.get_result_async(), case).result

    def _wait(self, future: Future, case: Hostile) -> Any:
        self._graph.wait(future.done, f"response of {case.service}", PATIENCE_S)
        return future.result()

    def send(self, messages: tuple[tuple[str, Any], ...]) -> None:
        """Publishes messages, or bytes as they are."""
        for topic, message in messages:
            self.publishers[topic].publish(message)

    def send_good(self, patience_s: float = PATIENCE_S) -> None:
        """Sends good images until one of them has depth. Raises SetupError if the node ends or gives none."""
        sent_s, stamps = -math.inf, set[int]()

        def has_depth() -> bool:
            nonlocal sent_s
            if time.monotonic() - sent_s > AGAIN_S:
                sent_s, header = time.monotonic(), header_now(self.node)
                stamps.add(stamp_ns(header))
                self.good_stamps.add(stamp_ns(header))
                self.send(self._good(header))
            return any(stamp_ns(depth.header) in stamps and finite_share(depth) > 0.5 for depth in self.depths)

        self._graph.wait(has_depth, "depth of a good image", patience_s)

    def other_depths(self) -> list[Image]:
        """Returns the depth of images that were not good ones, and forgets all."""
        found = [depth for depth in self.depths if stamp_ns(depth.header) not in self.good_stamps]
        self.depths.clear()
        return found


def header_now(node: Node) -> Header:
    """Returns the header of an image that is taken now."""
    return Header(stamp=node.get_clock().now().to_msg(), frame_id="camera")


def finite_share(depth: Image) -> float:
    """Returns the share of known pixels."""
    values = np.frombuffer(depth.data, "<f4")
    return float(np.isfinite(values).mean()) if values.size else 0.0


def try_case(graph: ProcessGraph, target: Target, case: Hostile) -> tuple[list[str], bool]:
    """Sends a case, and returns what went wrong and whether it had finite depth.

    Raises SetupError if the node has ended or gives no depth any more.
    """
    wrong: list[str] = []
    if case.service:
        wrong += faults_of(case.request, target.ask(case))
    else:
        target.send(case.messages)
        graph.spin(ALONE_S)
    target.send_good()
    share = max(map(finite_share, target.other_depths()), default=0.0)
    if share > 0 and not case.may_be_deep:
        wrong.append(f"finite depth in {100 * share:.3g} % of the pixels of unusable input")
    return wrong, share > 0


def faults_of(request: Any, response: Any) -> list[str]:
    """Returns what is wrong with a response: numbers without success, depth where no pixel is, a failure inside."""
    wrong = []
    if response.status == type(response).INTERNAL:
        wrong.append(f"the node failed: {response.message}")
    if not response.success and not response.message:
        wrong.append(f"status {response.status} without a message")
    if isinstance(response, (SpatialQuery.Response, AskSpatial.Result)) and math.isfinite(response.value):
        is_answer = response.status in (response.OK, response.INCONSISTENT)
        wrong += [] if is_answer else [f"value {response.value} without success"]
    if isinstance(response, QueryDepth.Response):
        for point, depth_m in zip(request.pixels, response.depth, strict=False):
            inside = -0.5 <= point.x <= 159.5 and -0.5 <= point.y <= 119.5
            if math.isfinite(depth_m) and not inside:
                wrong.append(f"depth {depth_m} at ({point.x}, {point.y}), outside the image")
    return wrong


def run_cases(graph: ProcessGraph, seed: int, numbers: range) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Tries the cases and returns the failures and how many cases of each kind were tried."""
    targets = {name: Target(graph, name, transport) for name, transport in (("raw", "raw"), ("packed", "compressed"))}
    failures: list[dict[str, Any]] = []
    kinds: Counter[str] = Counter()
    for target in targets.values():
        target.wait_until_ready()
        target.other_depths()
    with progress_bar("fuzz", len(numbers), unit="cases") as bar:
        for number in numbers:
            target = targets["raw"]
            case = hostile_case(seed, number, target.node.get_clock().now().nanoseconds)
            target = targets["packed"] if case.kind == "packed" else target
            kinds[case.kind] += 1
            try:
                wrong, is_deep = try_case(graph, target, case)
                kinds[WITH_DEPTH] += is_deep
            except SetupError as exc:
                failures.append(failure(number, case, f"{exc}"))
                break  # the node has ended or is stuck: later cases would tell nothing
            failures += [failure(number, case, what) for what in wrong]
            bar.update()
    for target in targets.values():
        log = target.process.log.read_text(encoding="utf-8", errors="replace")
        if "Traceback" in log:
            failures.append({"case": None, "kind": "log", "what": log[log.index("Traceback") :][:2000]})
    return failures, kinds


def failure(number: int, case: Hostile, what: str) -> dict[str, Any]:
    """Returns one failure as JSON values."""
    return {"case": number, "kind": case.kind, "input": case.text, "what": what[-2000:]}


def main() -> int:
    """Runs the cases, prints the failures and one JSON line; returns 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--cases", type=int, default=1000, metavar="N", help="number of cases (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, metavar="K", help="number of the first case, to repeat one")
    args = parser.parse_args()
    begin_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ProcessGraph(Path(folder)) as graph:
        try:
            failures, kinds = run_cases(graph, args.seed, range(args.first, args.first + args.cases))
        except SetupError as exc:
            print(f"fuzz: {exc}", file=sys.stderr)
            return 1
    for one in failures:
        print(f"fuzz: case {one['case']} ({one['kind']}): {one.get('input', '')}: {one['what']}", file=sys.stderr)
    deep = kinds.pop(WITH_DEPTH, 0)
    report = {"seed": args.seed, "first": args.first, "cases": sum(kinds.values()), WITH_DEPTH: deep, "kinds": kinds}
    print(json.dumps(report | {"failures": failures, "seconds": round(time.monotonic() - begin_s, 1)}))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Runs two cameras and two nodes for long under changing load, and says whether anything leaks, slows down or fails.

Two replay cameras (640 x 480) with a depth node each, all in their own processes; this process listens, asks at random,
takes the nodes through their life cycle, restarts cameras, changes parameters, and lets the clock of one pair jump.
Every kind of event comes equally often. One JSON line at the end; exit code 1 if the verdict is not kept:

    . ./env.sh && python bench/soak.py [--minutes 30] [--warm-up 5] [--rate 5] [--seed 0]

After the warm-up: memory grows by 30 MB at most, threads and descriptors do not grow, the 99th percentile of the
latency in the last third is at most 1.2 times that of the first, no traceback, no request without response, no process
that ends.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import Point
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, PointCloud2
from soak_verdict import Measured, Sample, verdict

from depthlm_ros.action import AskSpatial
from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import SetupError
from depthlm_ros.image_io import write_rgb
from depthlm_ros.progress import progress_bar
from depthlm_ros.ros.camera_info_sync import stamp_ns
from depthlm_ros.ros.child_process import ChildProcess, graph_environment, module_command
from depthlm_ros.ros.long_questions import ACTION
from depthlm_ros.ros.tools.process_graph import ProcessGraph, handshake
from depthlm_ros.srv import MatchPixels, QueryDepth, RelativePose, SpatialQuery

CAMERA = Intrinsics(512.0, 512.0, 319.5, 239.5, 640, 480)
PICTURES = 8
START_S, PATIENCE_S = 120.0, 60.0
CLOCK_PERIOD_S, SAMPLE_PERIOD_S, EVENT_PERIOD_S = 0.02, 1.0, 1.0
# After a change of state, caches fill again; a sample taken meanwhile says nothing about leaks.
SETTLE_S = 5.0
ROUND = (
    Transition.TRANSITION_DEACTIVATE,
    Transition.TRANSITION_CLEANUP,
    Transition.TRANSITION_CONFIGURE,
    Transition.TRANSITION_ACTIVATE,
)
QUESTIONS = (
    "How far is the red box?",
    "What is the nearest object?",
    "Is there a person?",
    "What is the distance between the table and the chair?",
    "Describe the room.",
    "",
)
PARAMETERS = (
    ("max_depth_m", (5.0, 20.0, 100.0)),
    ("min_depth_m", (0.0, 0.3, 1.0)),
    ("cloud_stride", (1, 2, 4)),
    ("query_timeout_s", (5.0, 10.0)),
    ("stale_after_s", (2.0, 5.0)),
)


class Pair:
    """A camera and its node, and this process's side of them.

    jumps: whether they live in simulated time, which this process publishes and lets jump.
    """

    def __init__(self, graph: ProcessGraph, name: str, images: Path, logs: Path, rate_hz: float, jumps: bool) -> None:
        self.name, self.measured = name, Measured()
        self._graph, self._exit, self._logs, self._cameras = graph, ExitStack(), logs, 0
        self.node: Node = rclpy.create_node("soak", namespace=f"/{name}")
        graph.add(self.node)
        self._time = ("-p", f"use_sim_time:={str(jumps).lower()}")
        lens = ("--fx", CAMERA.fx_px, "--fy", CAMERA.fy_px, "--cx", CAMERA.cx_px, "--cy", CAMERA.cy_px)
        self._camera_options = ("--images", str(images), "--rate", str(rate_hz), *map(str, lens))
        self._sent_s: dict[int, float] = {}
        self._settled_s = math.inf
        reliable = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
        self.node.create_subscription(Image, "image", self._keep_sent, reliable)
        self.node.create_subscription(Image, "depth/image", self._keep_depth, reliable)
        self._cloud: Any = None
        self.depths = 0
        services = {
            "spatial_query": SpatialQuery,
            "query_depth": QueryDepth,
            "match_pixels": MatchPixels,
            "relative_pose": RelativePose,
            "depth_node/change_state": ChangeState,
            "depth_node/set_parameters": SetParameters,
        }
        self.clients = {service: self.node.create_client(kind, service) for service, kind in services.items()}
        self.actions = ActionClient(self.node, AskSpatial, ACTION)
        self.process = graph.start(f"{name} node", "depthlm_ros.ros.node", *self._ros_arguments())
        self.start_camera()

    def _ros_arguments(self) -> tuple[str, ...]:
        return ("--ros-args", "-r", f"__ns:=/{self.name}", *self._time)

    def start_camera(self) -> None:
        """Starts the camera, or starts it anew."""
        self._exit.close()
        self._cameras += 1
        command = module_command("depthlm_ros.ros.tools.replay_camera", *self._camera_options, *self._ros_arguments())
        log = self._logs / f"{self.name}_camera_{self._cameras % 2}.log"
        self._exit.enter_context(ChildProcess(f"{self.name} camera", command, log, graph_environment()))

    def close(self) -> None:
        """Ends the camera."""
        self._exit.close()

    def _keep_sent(self, image: Image) -> None:
        self._sent_s[stamp_ns(image.header)] = time.monotonic()
        while len(self._sent_s) > 300:
            del self._sent_s[next(iter(self._sent_s))]

    def _keep_depth(self, depth: Image) -> None:
        now_s = time.monotonic()
        self.depths += 1
        sent_s = self._sent_s.pop(stamp_ns(depth.header), None)
        if sent_s is not None and now_s > self._settled_s:
            self.measured.latencies.append((now_s, now_s - sent_s))

    def wait_until_ready(self) -> None:
        """Waits for depth and for all services. Raises SetupError."""
        self.wait_for_depth(START_S)
        for service, client in self.clients.items():
            harmless = client.srv_type.Request()
            if client.srv_type is ChangeState:
                harmless.transition.label = "none"
            self._graph.wait(handshake(client, harmless), f"service {self.name}/{service}", START_S)
        as_service = SimpleNamespace(
            service_is_ready=self.actions.server_is_ready, call_async=self.actions.send_goal_async
        )
        self._graph.wait(handshake(as_service, AskSpatial.Goal()), f"action {self.name}/{ACTION}", START_S)

    def wait_for_depth(self, timeout_s: float = PATIENCE_S) -> None:
        """Waits for one more depth image. Raises SetupError."""
        before = self.depths
        self._graph.wait(lambda: self.depths > before, f"depth of {self.name}", timeout_s)
        self._settled_s = time.monotonic() + SETTLE_S

    def call(self, service: str, request: Any) -> Any:
        """Calls a service; an absent response is an error of the run. Returns None then."""
        begin_s = time.monotonic()
        response = self._wait(self.clients[service].call_async(request), service)
        self.measured.answers.append((time.monotonic(), time.monotonic() - begin_s))
        return response

    def _wait(self, future: Future, service: str) -> Any:
        try:
            self._graph.wait(future.done, f"response of {self.name}/{service}", PATIENCE_S)
        except SetupError as exc:
            self.process.check()
            self.measured.errors.append(f"unanswered: {str(exc).splitlines()[0]}")
            return None
        return future.result()

    def ask_long(self, question: str, cancel_after_s: float | None) -> Any:
        """Asks through the action, and cancels the goal after a while if that is wanted. Returns the result or None."""
        goal = self._wait(self.actions.send_goal_async(AskSpatial.Goal(question=question)), ACTION)
        if goal is None:
            return None
        outcome = goal.get_result_async()
        if cancel_after_s is not None:
            self._graph.spin(cancel_after_s)
            self._wait(goal.cancel_goal_async(), f"{ACTION} (cancel)")
        found = self._wait(outcome, ACTION)
        return None if found is None else found.result

    def sample(self) -> None:
        """Keeps memory, threads and descriptors of the node if it has been active for a while."""
        now_s = time.monotonic()
        if now_s < self._settled_s:
            return
        folder = Path(f"/proc/{self.process.pid}")
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
        memory_mb, threads = float(status["VmRSS"].split()[0]) * 1024 / 1e6, int(status["Threads"])
        self.measured.samples.append(Sample(now_s, memory_mb, threads, len(list((folder / "fd").iterdir()))))

    def toggle_cloud(self) -> None:
        """Begins or ends to listen to the cloud."""
        if self._cloud is not None:
            self.node.destroy_subscription(self._cloud)
            self._cloud = None
        else:
            self._cloud = self.node.create_subscription(PointCloud2, "depth/points", lambda cloud: None, 1)

    def life_round(self) -> None:
        """Takes the node through deactivate, cleanup, configure, activate."""
        self._settled_s = math.inf
        for number in ROUND:
            response = self.call("depth_node/change_state", ChangeState.Request(transition=Transition(id=number)))
            if response is not None and not response.success:
                self.measured.errors.append(f"transition {number} of {self.name} failed")
        self.wait_for_depth()

    def restart_camera(self) -> None:
        """Ends the camera and starts a new one."""
        self._settled_s = math.inf
        self.start_camera()
        self.wait_for_depth()


class SimulatedClock:
    """Publishes /clock and lets it jump."""

    def __init__(self, graph: ProcessGraph) -> None:
        self._node = rclpy.create_node("soak_clock")
        graph.add(self._node)
        self._publisher = self._node.create_publisher(Clock, "/clock", 10)
        self._begin_s, self._offset_s = time.monotonic(), 1000.0
        self._node.create_timer(CLOCK_PERIOD_S, self._publish)

    def _publish(self) -> None:
        at_ns = int(1e9 * (time.monotonic() - self._begin_s + self._offset_s))
        clock = Clock()
        clock.clock.sec, clock.clock.nanosec = divmod(at_ns, 1_000_000_000)
        self._publisher.publish(clock)

    def jump(self, by_s: float) -> None:
        """Moves the clock; it stays positive."""
        self._offset_s = max(1.0, self._offset_s + by_s)


def ask(pair: Pair, rng: np.random.Generator) -> None:
    """Calls one of the four services with a random request."""
    service = ("spatial_query", "spatial_query", "query_depth", "match_pixels", "relative_pose")[int(rng.integers(5))]
    request = pair.clients[service].srv_type.Request()
    pixels = [Point(x=float(u), y=float(v)) for u, v in rng.uniform((0, 0), (639, 479), (int(rng.integers(1, 4)), 2))]
    if service == "spatial_query":
        request.question = QUESTIONS[int(rng.integers(len(QUESTIONS)))]
        request.pixels = pixels[: int(rng.integers(0, 3))]
    elif hasattr(request, "pixels"):
        request.pixels = pixels
    if hasattr(request, "seconds_back"):
        request.seconds_back = 0.5
    request.fresh = bool(rng.integers(2))
    response = pair.call(service, request)
    if response is not None:
        pair.measured.statuses[f"{service} {response.status}"] += 1
        if response.status == type(response).INTERNAL:
            pair.measured.errors.append(f"{service}: {response.message}")


def ask_long(pair: Pair, rng: np.random.Generator) -> None:
    """Asks through the action; every other goal is cancelled."""
    cancel_after_s = float(rng.uniform(0, 0.5)) if rng.random() < 0.5 else None
    result = pair.ask_long(QUESTIONS[int(rng.integers(len(QUESTIONS)))], cancel_after_s)
    if result is not None:
        pair.measured.statuses[f"{ACTION} {result.status}"] += 1


def set_parameter(pair: Pair, rng: np.random.Generator) -> None:
    """Changes one parameter of the node."""
    name, values = PARAMETERS[int(rng.integers(len(PARAMETERS)))]
    value = values[int(rng.integers(len(values)))]
    stated = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=float(value))
    if isinstance(value, int):
        stated = ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=value)
    response = pair.call(
        "depth_node/set_parameters", SetParameters.Request(parameters=[Parameter(name=name, value=stated)])
    )
    if response is not None and not response.results[0].successful:
        pair.measured.errors.append(f"parameter {name} = {value}: {response.results[0].reason}")


def make_events(clock: SimulatedClock, rng: np.random.Generator) -> dict[str, Callable[[Pair], None]]:
    """Returns the kinds of events by name. Each takes the pair that it concerns."""
    return {
        "question": lambda pair: ask(pair, rng),
        "questions": lambda pair: [ask(pair, rng) for _ in range(5)] and None,
        "long question": lambda pair: ask_long(pair, rng),
        "parameter": lambda pair: set_parameter(pair, rng),
        "cloud": lambda pair: pair.toggle_cloud(),
        "life round": lambda pair: pair.life_round(),
        "camera restart": lambda pair: pair.restart_camera(),
        "clock back": lambda pair: clock.jump(-float(rng.uniform(1, 60))),
        "clock forward": lambda pair: clock.jump(float(rng.uniform(1, 600))),
    }


def soak(graph: ProcessGraph, folder: Path, args: argparse.Namespace) -> tuple[list[Pair], float]:
    """Runs the events until the time is over. Returns the pairs and the moment when the warm-up ended."""
    rng = np.random.default_rng(args.seed)
    images = write_pictures(folder / "images")
    clock = SimulatedClock(graph)
    pairs = [Pair(graph, name, images, folder, args.rate, name == "left") for name in ("left", "right")]
    events, deck = make_events(clock, rng), list[tuple[str, Pair]]()
    begin_s = time.monotonic()
    try:
        for pair in pairs:
            pair.wait_until_ready()
        begin_s = time.monotonic()
        end_s, next_event_s, next_sample_s = begin_s + 60 * args.minutes, begin_s, begin_s
        with progress_bar("soak", int(60 * args.minutes), unit="s") as bar:
            while (now_s := time.monotonic()) < end_s:
                graph.spin(max(0.01, min(next_event_s, next_sample_s, end_s) - now_s))
                now_s = time.monotonic()
                if now_s >= next_sample_s:
                    next_sample_s = now_s + SAMPLE_PERIOD_S
                    for pair in pairs:
                        pair.sample()
                    bar.update(int(now_s - begin_s) - bar.n)
                if now_s >= next_event_s:
                    deck = deck or shuffled([(name, pair) for name in events for pair in pairs], rng)
                    name, pair = deck.pop()
                    pair.measured.events[name] += 1
                    events[name](pair)
                    next_event_s = time.monotonic() + EVENT_PERIOD_S
    except SetupError as exc:
        pairs[0].measured.errors.append(str(exc))
    finally:
        for pair in pairs:
            pair.close()
    return pairs, begin_s + 60 * args.warm_up


def shuffled(items: Sequence[Any], rng: np.random.Generator) -> list[Any]:
    """Returns the items in a random order."""
    return [items[int(index)] for index in rng.permutation(len(items))]


def write_pictures(folder: Path) -> Path:
    """Writes coarse coloured noise as the pictures of the cameras."""
    folder.mkdir()
    coarse = np.random.default_rng(0).integers(0, 255, (PICTURES, 12, 16, 3), dtype=np.uint8)
    for number, rgb in enumerate(coarse.repeat(40, axis=1).repeat(40, axis=2)):
        write_rgb(folder / f"{number:02d}.bmp", rgb)
    return folder


def main() -> int:
    """Runs the soak, prints what is not kept and one JSON line; returns 1 if anything is not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="after the start (default: %(default)g)")
    parser.add_argument(
        "--warm-up", type=float, default=5.0, metavar="MINUTES", help="not judged (default: %(default)g)"
    )
    parser.add_argument("--rate", type=float, default=5.0, metavar="HZ", help="of each camera (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of events (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ProcessGraph(Path(folder)) as graph:
        try:
            pairs, from_s = soak(graph, Path(folder), args)
        except SetupError as exc:
            print(f"soak: {exc}", file=sys.stderr)
            return 1
        results = {pair.name: verdict(pair.measured, pair.process.log, from_s) for pair in pairs}
    broken = [f"{name}: {what}" for name, result in results.items() for what in result["broken"]]
    for what in broken:
        print(f"soak: {what}", file=sys.stderr)
    print(
        json.dumps({"minutes": args.minutes, "warm_up": args.warm_up, "seed": args.seed, "kept": not broken, **results})
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

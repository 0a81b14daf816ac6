# SPDX-License-Identifier: Apache-2.0
"""A ROS graph of its own: starts processes, and lets nodes of this process exchange messages with them.

ProcessGraph starts modules of this package as processes, spins the nodes of this process, calls services, and ends
everything. The demo and the benchmarks use it, so that their messages pass through real topics between real processes.
handshake waits until a client and a server have found each other; the test rig uses it too.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import rclpy
from geometry_msgs.msg import Point
from rclpy.client import Client
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future

from depthlm_ros.errors import SetupError
from depthlm_ros.ros.child_process import ChildProcess, graph_environment, module_command
from depthlm_ros.ros.ros_process import init_ros
from depthlm_ros.srv import SpatialQuery

# How often a running process is checked for failure.
CHECK_INTERVAL_S = 0.5
# A busy machine may need this long for the first response; a repeated request does no harm.
HANDSHAKE_INTERVAL_S = 1.0


class ProcessGraph:
    """Processes and nodes of one graph.

    A context manager: at the end of the block it ends all processes and nodes, also after SIGTERM or Ctrl-C.
    """

    def __init__(self, log_folder: Path) -> None:
        self._log_folder = log_folder
        self._exit = ExitStack()
        self._processes: list[ChildProcess] = []

    def __enter__(self) -> ProcessGraph:
        self._env = graph_environment()
        os.environ.update(self._env)
        previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        self._exit.callback(signal.signal, signal.SIGTERM, previous)
        # With Python's own signal handlers Ctrl-C raises KeyboardInterrupt here, so the processes end in order.
        init_ros()
        self._exit.callback(rclpy.shutdown)
        self._executor = SingleThreadedExecutor()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def start(self, name: str, module_name: str, *args: str, root: Path | None = None) -> ChildProcess:
        """Starts a module of this package as a process. Its output goes to a log file with the process's name.

        root: of another checkout, whose code runs instead of this one's.
        """
        env = self._env if root is None else self._env | {"PYTHONPATH": f"{root}{os.pathsep}{os.environ['PYTHONPATH']}"}
        log = self._log_folder / f"{name.replace(' ', '_')}.log"
        # A signal between the start and the registration would leave a process that nobody ends.
        with deferred_signals(signal.SIGINT, signal.SIGTERM):
            process = self._exit.enter_context(ChildProcess(name, module_command(module_name, *args), log, env, root))
        self._processes.append(process)
        return process

    def add(self, node: Node) -> None:
        """Adds a node of this process to the graph; it is destroyed at the end of the block."""
        self._executor.add_node(node)
        self._exit.callback(node.destroy_node)

    def wait(self, until: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Handles messages until `until` returns True.

        what: name of the awaited thing, for the error message. Raises SetupError, with the ends of the logs, if a
        process fails or the time runs out.
        """
        deadline_s, check_s = time.monotonic() + timeout_s, 0.0
        while not until():
            self._executor.spin_once(timeout_sec=0.1)
            now_s = time.monotonic()
            if now_s > check_s:
                check_s = now_s + CHECK_INTERVAL_S
                for process in self._processes:
                    process.check()
            if now_s > deadline_s:
                logs = "\n".join(f"The end of {p.log}:\n{p.log_tail()}" for p in self._processes)
                raise SetupError(f"no {what} within {timeout_s:g} s.\n{logs}")

    def spin(self, seconds: float) -> None:
        """Handles messages for this long. Raises SetupError if a process fails."""
        end_s = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() >= end_s, "end", 2 * seconds + 1.0)

    def call(self, client: Any, request: Any, timeout_s: float, harmless: Any) -> Any:
        """Calls a service and returns its response. Raises SetupError as `wait` does.

        client: an rclpy Client. harmless: a request that changes nothing, for the handshake before the call.
        """
        self.wait(handshake(client, harmless), f"service {client.srv_name}", timeout_s)
        future: Future = client.call_async(request)
        self.wait(future.done, f"response of {client.srv_name}", timeout_s)
        return future.result()

    def ask(
        self, node: Node, question: str, uv_px: Iterable[tuple[float, float]] = (), timeout_s: float = 30.0
    ) -> SpatialQuery.Response:
        """Asks about the latest image through the service spatial_query.

        uv_px: the pixels that the question is about. Raises SetupError as `wait` does.
        """
        pixels = [Point(x=float(u), y=float(v), z=0.0) for u, v in uv_px]
        request = SpatialQuery.Request(question=question, pixels=pixels, timeout_s=float(timeout_s))
        client: Client = node.create_client(SpatialQuery, "spatial_query")
        try:
            return self.call(client, request, timeout_s, SpatialQuery.Request())  # an empty question is refused
        finally:
            node.destroy_client(client)


def handshake(client: Any, harmless: Any) -> Callable[[], bool]:
    """Returns a function to call repeatedly; it returns True as soon as the server has answered `harmless`.

    client: an rclpy Client whose node is being spun. harmless: a request that changes nothing, however often the server
    receives it. It is sent again until a response arrives.

    A client knows when it has found the server. But the server may find the client's reader of responses later than
    its writer of requests; its response is then lost (rmw_fastrtps: "client will not receive response"). Only a
    response proves that both have found each other.
    """
    sent: list[Any] = []
    last_s = -HANDSHAKE_INTERVAL_S

    def is_answered() -> bool:
        nonlocal last_s
        if client.service_is_ready() and time.monotonic() - last_s >= HANDSHAKE_INTERVAL_S:
            last_s = time.monotonic()
            sent.append(client.call_async(harmless))
        return any(future.done() for future in sent)

    return is_answered


@contextmanager
def deferred_signals(*numbers: signal.Signals) -> Iterator[None]:
    """Handles signals that arrive during the block only after it. Works in the main thread only."""
    received: list[int] = []
    previous = {number: signal.signal(number, lambda arrived, _: received.append(arrived)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for arrived in received:
            signal.raise_signal(arrived)

"""A ROS graph of one's own: other processes, and this one listening to what they publish.

The demo and the benchmarks run in it, so that what they show has passed through real topics between real processes.

A client and a server that have not met yet: what is asked too early is done, but its response is lost.

A client knows when it has found the server. The server may find the client's reader of responses later than its writer
of requests, and answers into the void then (rmw_fastrtps: "client will not receive response"). Only an answer proves
that both have met.
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
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from depthlm_ros.errors import SetupError
from depthlm_ros.ros.child_process import Process, module, own_graph
from depthlm_ros.srv import SpatialQuery

# An answer to the first may take as long on a busy machine; a repetition does no harm.
REPEAT_S = 1.0


def handshake(client: Any, harmless: Any) -> Callable[[], bool]:
    """To be called again and again: whether the server has answered `harmless`, which is sent until it has.

    client: an rclpy Client whose node is being spun. harmless: a request that changes nothing, however often it comes.
    """
    sent: list[Any] = []
    last_s = -REPEAT_S

    def has_met() -> bool:
        nonlocal last_s
        if client.service_is_ready() and time.monotonic() - last_s >= REPEAT_S:
            last_s = time.monotonic()
            sent.append(client.call_async(harmless))
        return any(future.done() for future in sent)

    return has_met


CHECK_S = 0.5


@contextmanager
def held_back(*numbers: signal.Signals) -> Iterator[None]:
    """Signals that come during the block are handled after it. In the main thread only."""
    came: list[int] = []
    handlers: dict[int, Any] = {
        number: signal.signal(number, lambda came_now, _: came.append(came_now)) for number in numbers
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


class Graph:
    """Processes and nodes of one graph. A context manager: leaving it ends them all, also on SIGTERM and Ctrl-C."""

    def __init__(self, log_folder: Path) -> None:
        self._log_folder = log_folder
        self._exit = ExitStack()
        self._processes: list[Process] = []

    def __enter__(self) -> Graph:
        self._env = own_graph()
        os.environ.update(self._env)
        previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        self._exit.callback(signal.signal, signal.SIGTERM, previous)
        # Python's own handlers: Ctrl-C is a KeyboardInterrupt here, and the processes are ended in order.
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        self._exit.callback(rclpy.shutdown)
        self._executor = SingleThreadedExecutor()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def start(self, name: str, module_name: str, *args: str) -> Process:
        """Run a module of this package as a process; its output goes to a log named after it."""
        log = self._log_folder / f"{name.replace(' ', '_')}.log"
        with held_back(signal.SIGINT, signal.SIGTERM):  # else one could leave a process that nobody knows of
            process = self._exit.enter_context(Process(name, module(module_name, *args), log, self._env))
        self._processes.append(process)
        return process

    def add(self, node: Node) -> None:
        """Let a node of this process take part."""
        self._executor.add_node(node)
        self._exit.callback(node.destroy_node)

    def wait(self, until: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Take messages until it is so. Raises SetupError, with logs, if a process fails or it takes too long."""
        deadline_s, check_s = time.monotonic() + timeout_s, 0.0
        while not until():
            self._executor.spin_once(timeout_sec=0.1)
            now_s = time.monotonic()
            if now_s > check_s:
                check_s = now_s + CHECK_S
                for process in self._processes:
                    process.check()
            if now_s > deadline_s:
                logs = "\n".join(f"The end of {p.log}:\n{p.log_tail()}" for p in self._processes)
                raise SetupError(f"no {what} within {timeout_s:g} s.\n{logs}")

    def spin(self, seconds: float) -> None:
        """Take messages for so long. Raises SetupError if a process fails."""
        end_s = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() >= end_s, "end", 2 * seconds + 1.0)

    def call(self, client: Any, request: Any, timeout_s: float, harmless: Any) -> Any:
        """Call a service and wait for its response. Raises SetupError as `wait` does.

        harmless: a request that changes nothing, by which it is known that the service's answers arrive.
        """
        self.wait(handshake(client, harmless), f"service {client.srv_name}", timeout_s)
        future: Future = client.call_async(request)
        self.wait(future.done, f"response of {client.srv_name}", timeout_s)
        return future.result()

    def ask(
        self, node: Node, question: str, uv_px: Iterable[tuple[float, float]] = (), timeout_s: float = 30.0
    ) -> SpatialQuery.Response:
        """Ask through the service spatial_query about the latest look."""
        pixels = [Point(x=float(u), y=float(v), z=0.0) for u, v in uv_px]
        request = SpatialQuery.Request(question=question, pixels=pixels, timeout_s=float(timeout_s))
        client: Client = node.create_client(SpatialQuery, "spatial_query")
        try:
            return self.call(client, request, timeout_s, SpatialQuery.Request())  # an empty question is refused
        finally:
            node.destroy_client(client)

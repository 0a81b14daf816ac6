# SPDX-License-Identifier: Apache-2.0
"""handshake: a client sends its real request only after a response of the server has arrived."""

import time
from contextlib import ExitStack

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")

import rclpy  # noqa: E402
from lifecycle_msgs.srv import GetState  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402

from depthlm_ros.ros.tools.process_graph import handshake  # noqa: E402

PATIENCE_S = 20.0


@pytest.fixture
def side():
    """Returns a function that makes a node with its own executor, which the test spins."""
    with ExitStack() as ends:
        context = rclpy.Context()
        rclpy.init(context=context)
        ends.callback(context.try_shutdown)

        def make(name):
            node = rclpy.create_node(name, namespace="/handshake", context=context)
            executor = SingleThreadedExecutor(context=context)
            executor.add_node(node)
            ends.callback(node.destroy_node)
            return node, executor

        yield make


def test_handshake_needs_a_response_and_repeats_a_request_whose_response_was_lost(side):
    asker, asking = side("asker")
    client = asker.create_client(GetState, "state")
    is_answered = handshake(client, GetState.Request())
    assert not is_answered()  # there is no server yet
    server, serving = side("server")
    requests = []

    def answer(request, response):
        requests.append(request)
        if len(requests) == 1:  # simulates a lost response
            client._pending_requests.clear()
        return response

    server.create_service(GetState, "state", answer)
    deadline_s = time.monotonic() + PATIENCE_S
    while not client.service_is_ready():
        assert time.monotonic() < deadline_s
    assert not is_answered()  # the server is ready, but has not answered
    while not is_answered():
        assert time.monotonic() < deadline_s
        serving.spin_once(timeout_sec=0.02)
        asking.spin_once(timeout_sec=0.02)
    assert len(requests) >= 2

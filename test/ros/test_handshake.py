"""A client goes to work only after its server's answers reach it."""

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
    """Makes a node with an executor that spins when it is told to."""
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


def test_an_answer_and_nothing_less_makes_them_met_and_a_lost_request_is_repeated(side):
    asker, asking = side("asker")
    client = asker.create_client(GetState, "state")
    has_met = handshake(client, GetState.Request())
    assert not has_met()  # nobody serves
    server, serving = side("server")
    asked = []

    def answer(request, response):
        asked.append(request)
        if len(asked) == 1:  # as if its response were lost
            client._pending_requests.clear()
        return response

    server.create_service(GetState, "state", answer)
    deadline_s = time.monotonic() + PATIENCE_S
    while not client.service_is_ready():
        assert time.monotonic() < deadline_s
    assert not has_met()  # it serves, but does not answer
    while not has_met():
        assert time.monotonic() < deadline_s
        serving.spin_once(timeout_sec=0.02)
        asking.spin_once(timeout_sec=0.02)
    assert len(asked) >= 2

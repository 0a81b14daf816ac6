# SPDX-License-Identifier: Apache-2.0
"""The node in the process of the test: callbacks that interleave with a transition, and groups of callbacks."""

from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")
pytest.importorskip("depthlm_ros.srv")

import rclpy  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402

from depthlm_ros.ros import node as node_module  # noqa: E402
from depthlm_ros.ros.node import DepthNode  # noqa: E402


@pytest.fixture
def context():
    context = rclpy.Context()
    rclpy.init(context=context)
    yield context
    context.try_shutdown()


class NodeThatIsDeactivatedMeanwhile(DepthNode):
    """Its session disappears after it was read once, as if another thread had deactivated the node just then."""

    @property
    def _session(self):
        session, self._present_session = self._present_session, None
        return session

    @_session.setter
    def _session(self, session):
        self._present_session = session


def test_clock_jump_while_the_node_is_deactivated_does_not_fail(context):
    node = NodeThatIsDeactivatedMeanwhile(context=context)
    restarts = []
    node._session = SimpleNamespace(restart=restarts.append)
    node._clock_went_back(None)
    node._clock_went_back(None)
    assert restarts == ["the node's clock went back"]
    node.destroy_node()


def test_services_read_the_session_once(context, monkeypatch):
    contexts = []
    monkeypatch.setattr(
        node_module, "create_services", lambda node, current_context, why: contexts.append(current_context)
    )
    node = NodeThatIsDeactivatedMeanwhile(context=context)
    node._session = SimpleNamespace(service_context="active")
    assert contexts[0]() == "active" and contexts[0]() is None
    node.destroy_node()


def test_diagnostics_read_the_session_once(context):
    node = NodeThatIsDeactivatedMeanwhile(context=context)
    node._session = SimpleNamespace(check_inputs=lambda timeout_s: "inputs", scale_values=dict)
    assert (node._health().state, node._health().state) == ("active", "unconfigured")
    node.destroy_node()


def test_lifecycle_services_run_at_the_same_time_but_each_of_them_one_call_at_a_time(context):
    node = DepthNode(context=context)
    groups = {service.srv_type: service.callback_group for service in node.services}
    change, get = groups[ChangeState], groups[GetState]
    change_service = next(service for service in node.services if service.srv_type is ChangeState)
    get_service = next(service for service in node.services if service.srv_type is GetState)
    assert change.beginning_execution(change_service) and not change.can_execute(change_service)
    assert get.can_execute(get_service) and get is not node.default_callback_group
    change.ending_execution(change_service)
    assert change.can_execute(change_service)
    node.destroy_node()

# SPDX-License-Identifier: Apache-2.0
"""The policy of SROS 2 allows a running node what it uses, and a client no more than to ask."""

from xml.etree import ElementTree

import pytest
from support.paths import ROOT, needs_tiny

pytestmark = [pytest.mark.ros, needs_tiny]
pytest.importorskip("rclpy")

from support.ros_rig import new_rig  # noqa: E402

POLICY = ROOT / "config" / "sros2_policy.xml"
CAMERA_TOPICS = {"image": "camera/image_raw", "camera_info": "camera/camera_info"}
# What a node of rclpy takes part in without asking, in every process.
COMMON = {"/rosout", "/parameter_events"}


def allowed(enclave: str, kind: str, right: str) -> set[str]:
    """Returns the names that an enclave may use, ~ written out. kind: topics, services or actions."""
    (profile,) = ElementTree.parse(POLICY).findall(f".//enclave[@path='/depthlm/{enclave}']//profile")
    names = {element.text for group in profile.findall(kind) if group.get(right) == "ALLOW" for element in group}
    return {name.replace("~", f"/{profile.get('node')}") for name in names}


def names(found, namespace: str) -> set[str]:
    """Returns the names of topics or services as in a node without namespace; those of actions are left out."""
    return {name.removeprefix(namespace) for name, _ in found if "/_action/" not in name}


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """The graph of a running node on the camera of the policy: topics and services by role."""
    with new_rig(tmp_path_factory.mktemp("policy")) as rig:
        remaps = [word for name, topic in CAMERA_TOPICS.items() for word in ("-r", f"{name}:={topic}")]
        rig.start(*remaps)
        about = ("depth_node", rig.namespace)

        def roles():
            found = {
                "publish": rig.node.get_publisher_names_and_types_by_node(*about),
                "subscribe": rig.node.get_subscriber_names_and_types_by_node(*about),
                "reply": rig.node.get_service_names_and_types_by_node(*about),
            }
            seen = {role: names(entries, rig.namespace) for role, entries in found.items()}
            complete = "/depth/image" in seen["publish"] and "/camera/image_raw" in seen["subscribe"]
            return seen if complete and "/spatial_query" in seen["reply"] else None

        yield rig.wait(roles, "graph of the node")


@pytest.mark.parametrize(("kind", "right"), [("topics", "publish"), ("topics", "subscribe"), ("services", "reply")])
def test_the_policy_allows_every_name_that_a_running_node_uses(node, kind, right):
    assert node[right]
    assert not node[right] - allowed("depth_node", kind, right)


def test_a_client_may_ask_and_nothing_else(node):
    assert allowed("client", "services", "request") <= node["reply"]
    assert not {name for name in allowed("client", "services", "request") if "depth_node" in name}
    assert allowed("client", "topics", "publish") | allowed("client", "topics", "subscribe") == COMMON
    assert not allowed("client", "services", "reply")

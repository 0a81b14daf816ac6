# SPDX-License-Identifier: Apache-2.0
"""The Fast DDS profile is large enough, named correctly, and does not override the user's choice."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from depthlm_ros.ros.fastdds import (
    PROFILE,
    PUBLICATION_MODE,
    USER_SETTINGS,
    send_in_background,
    use_large_shared_memory,
)

IMAGE_DEPTH_AND_CLOUD_BYTES = 640 * 480 * (3 + 4 + 16)
# Default size of /dev/shm in a container.
CONTAINER_BYTES = 64 << 20


def test_shared_memory_holds_two_frames_and_fits_three_times_into_a_container():
    sizes = [int(node.text) for node in ElementTree.parse(PROFILE).iter() if node.tag.endswith("segment_size")]
    assert len(sizes) == 1
    assert 2 * IMAGE_DEPTH_AND_CLOUD_BYTES <= sizes[0] <= 0.3 * CONTAINER_BYTES


@pytest.mark.parametrize(
    ("distribution", "name"),
    [
        ("humble", "FASTRTPS_DEFAULT_PROFILES_FILE"),
        ("jazzy", "FASTRTPS_DEFAULT_PROFILES_FILE"),
        ("kilted", "FASTDDS_DEFAULT_PROFILES_FILE"),
    ],
)
def test_profile_is_set_in_the_variable_that_this_version_of_fast_dds_reads(distribution, name):
    environment = {"ROS_DISTRO": distribution}
    use_large_shared_memory(environment)
    assert environment == {"ROS_DISTRO": distribution, name: str(PROFILE)} and Path(environment[name]).is_file()


@pytest.mark.parametrize("name", USER_SETTINGS)
def test_choice_of_the_user_is_kept(name):
    environment = {name: "mine"}
    use_large_shared_memory(environment)
    assert environment == {name: "mine"}


def test_a_thread_of_the_middleware_sends_unless_the_user_has_chosen():
    environment = {}
    send_in_background(environment)
    assert environment == {PUBLICATION_MODE: "ASYNCHRONOUS"}
    chosen = {PUBLICATION_MODE: "SYNCHRONOUS"}
    send_in_background(chosen)
    assert chosen == {PUBLICATION_MODE: "SYNCHRONOUS"}

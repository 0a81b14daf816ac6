"""Which transport the package's processes choose, and when they leave the choice to the user."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from depthlm_ros.ros.fastdds import PROFILE, USER_DECIDES, use_large_shared_memory

IMAGE_DEPTH_AND_CLOUD_BYTES = 640 * 480 * (3 + 4 + 16)
# /dev/shm of a container, unless it is told otherwise.
CONTAINER_BYTES = 64 << 20


def test_shared_memory_holds_two_frames_and_fits_three_times_into_that_of_a_container():
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
def test_the_profile_is_named_as_this_version_of_fast_dds_reads_it(distribution, name):
    environment = {"ROS_DISTRO": distribution}
    use_large_shared_memory(environment)
    assert environment == {"ROS_DISTRO": distribution, name: str(PROFILE)} and Path(environment[name]).is_file()


@pytest.mark.parametrize("name", USER_DECIDES)
def test_a_user_s_own_choice_stays(name):
    environment = {name: "mine"}
    use_large_shared_memory(environment)
    assert environment == {name: "mine"}

"""Shared memory large enough for images and clouds, for the processes of this package on Fast DDS, ROS 2's default."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

PROFILE = Path(__file__).with_name("fastdds.xml")
# Any of these set means that the user has decided how Fast DDS transports.
USER_DECIDES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS")
# Fast DDS 2 reads the old name only (ros2/ros2_documentation issue 6098); Fast DDS 3 warns about it.
DISTRIBUTIONS_OF_FAST_DDS_2 = ("humble", "iron", "jazzy")


def use_large_shared_memory(environment: MutableMapping[str, str] = os.environ) -> None:
    """To be called before rclpy.init. Leaves a user's own choice alone; other middleware does not read it."""
    if any(environment.get(name) for name in USER_DECIDES) or not PROFILE.is_file():
        return
    old = environment.get("ROS_DISTRO") in DISTRIBUTIONS_OF_FAST_DDS_2
    environment["FASTRTPS_DEFAULT_PROFILES_FILE" if old else "FASTDDS_DEFAULT_PROFILES_FILE"] = str(PROFILE)

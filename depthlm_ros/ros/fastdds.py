"""Gives Fast DDS, the default middleware of ROS 2, shared memory that is large enough for images and clouds."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

PROFILE = Path(__file__).with_name("fastdds.xml")
# If any of these is set, the user has decided how Fast DDS transports data.
USER_SETTINGS = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS")
# Fast DDS 2 reads only the old name (ros2/ros2_documentation issue 6098); Fast DDS 3 warns about it.
DISTRIBUTIONS_OF_FAST_DDS_2 = ("humble", "iron", "jazzy")


def use_large_shared_memory(environment: MutableMapping[str, str] = os.environ) -> None:
    """Names the profile in the environment, unless the user has made a choice. Call it before rclpy.init.

    Other middleware does not read the variable.
    """
    if any(environment.get(name) for name in USER_SETTINGS) or not PROFILE.is_file():
        return
    is_old = environment.get("ROS_DISTRO") in DISTRIBUTIONS_OF_FAST_DDS_2
    environment["FASTRTPS_DEFAULT_PROFILES_FILE" if is_old else "FASTDDS_DEFAULT_PROFILES_FILE"] = str(PROFILE)

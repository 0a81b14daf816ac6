# SPDX-License-Identifier: Apache-2.0
"""Settings of Fast DDS, the default middleware of ROS 2, for images and clouds: room in shared memory, a thread that
sends."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

PROFILE = Path(__file__).with_name("fastdds.xml")
# If any of these is set, the user has decided how Fast DDS transports data.
USER_SETTINGS = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS")
# Fast DDS 2 reads only the old name (ros2/ros2_documentation issue 6098); Fast DDS 3 warns about it.
DISTRIBUTIONS_OF_FAST_DDS_2 = ("humble", "iron", "jazzy")
PUBLICATION_MODE = "RMW_FASTRTPS_PUBLICATION_MODE"


def use_large_shared_memory(environment: MutableMapping[str, str] = os.environ) -> None:
    """Names the profile in the environment, unless the user has made a choice. Call it before rclpy.init.

    Other middleware does not read the variable.
    """
    if any(environment.get(name) for name in USER_SETTINGS) or not PROFILE.is_file():
        return
    is_old = environment.get("ROS_DISTRO") in DISTRIBUTIONS_OF_FAST_DDS_2
    environment["FASTRTPS_DEFAULT_PROFILES_FILE" if is_old else "FASTDDS_DEFAULT_PROFILES_FILE"] = str(PROFILE)


def send_in_background(environment: MutableMapping[str, str] = os.environ) -> None:
    """Lets a thread of Fast DDS send what is published, unless the user has made a choice. Call it before rclpy.init.

    `publish` then only hands a message over. Otherwise it copies megabytes to the receivers and wakes them, while it
    holds Python's interpreter and the next image waits.
    """
    environment.setdefault(PUBLICATION_MODE, "ASYNCHRONOUS")

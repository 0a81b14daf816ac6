#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# colcon build of this package into build/ and install/, in the environment that scripts/setup.sh made.
# Further arguments go to colcon. Python files are linked, not copied: an edit needs no build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

ros=$(cat .venv/ros)
if [ "$ros" = wheels ]; then
    export AMENT_PREFIX_PATH=$PWD/.venv CMAKE_PREFIX_PATH=$PWD/.venv
    unset COLCON_PREFIX_PATH ROS_DISTRO
else
    set +u
    # shellcheck disable=SC1091
    . "$ros/setup.bash"
    set -u
fi
export PATH=$PWD/.venv/bin:$PATH
exec colcon build --symlink-install --base-paths . --packages-select depthlm_ros --event-handlers console_cohesion+ \
    --cmake-args -DPython3_EXECUTABLE="$PWD/.venv/bin/python" -DBUILD_TESTING=OFF "$@"

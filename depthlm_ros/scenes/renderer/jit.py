# SPDX-License-Identifier: Apache-2.0
"""Options with which the kernels are compiled, and the cache of compiled code on disk (`cached_kernel`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit

# Not the full fastmath set: infinities and comparisons with them must keep their meaning.
FASTMATH = {"nsz", "arcp", "contract", "reassoc"}
# For functions that make arrays.
JIT_ALLOCATING: dict[str, Any] = {"nogil": True, "fastmath": FASTMATH, "error_model": "numpy"}
# For functions that run per pixel and make no arrays: without numba's reference counting they are a third faster.
JIT: dict[str, Any] = {**JIT_ALLOCATING, "_nrt": False}


def digest_of_sources(folder: Path) -> str:
    """Returns a digest of the path and content of every Python file under the folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


# All of depthlm_ros/scenes, because kernels call functions from several of its folders.
DIGEST = digest_of_sources(Path(__file__).parents[1])


def cached_kernel(function: Callable) -> Callable:
    """Compiles a kernel that Python calls, and keeps the compiled code on disk.

    numba's cache checks only the file that contains the function, not the functions that it calls. So the functions
    below it are never cached on their own, and the name of this one in the cache changes with every edit of a source
    file of depthlm_ros/scenes.
    """
    function.__qualname__ = f"{function.__qualname__}_{DIGEST}"
    return njit(cache=True, **JIT_ALLOCATING)(function)

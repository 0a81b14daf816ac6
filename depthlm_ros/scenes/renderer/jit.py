"""How the kernels are compiled, and when compiled code on disk is out of date."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit

# Not the full fastmath set: infinities and comparisons with them must keep their meaning.
FASTMATH = {"nsz", "arcp", "contract", "reassoc"}
MAKER: dict[str, Any] = {"nogil": True, "fastmath": FASTMATH, "error_model": "numpy"}
# What runs per pixel makes no arrays: without numba's counting of references it is a third faster.
JIT: dict[str, Any] = {**MAKER, "_nrt": False}


def _digest_of_sources() -> str:
    """Digest of every source file of the room: kernels of the renderer call functions of other folders of it."""
    room = Path(__file__).parents[1]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(room.rglob("*.py")))).hexdigest()[:16]


DIGEST = _digest_of_sources()


def cached(function: Callable) -> Callable:
    """Compile a kernel that Python calls, and keep the code on disk.

    numba's cache looks only at the file that the function is in, not at what it calls. So the functions below it are
    never cached on their own, and this one is filed under a name that changes with any source file of the room.
    """
    function.__qualname__ = f"{function.__qualname__}_{DIGEST}"
    return njit(cache=True, **MAKER)(function)

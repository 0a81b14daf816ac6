# SPDX-License-Identifier: Apache-2.0
"""The memory of the node's process: what a released model held goes back to the system.

A model is loaded, used and freed in many threads. The allocator of Linux (glibc) keeps a heap for each of them, up to
eight times the number of cores, and a freed block stays in the heap of its thread: with each round of the life cycle
the process would grow, though nothing is lost. Other allocators have no such calls; then nothing happens.
"""

from __future__ import annotations

import ctypes
import gc
import os
from typing import Any

# mallopt(3), malloc.h of glibc.
M_ARENA_MAX, M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -8, -1, -3
FEW_ARENAS = 2
# Buffers from this size on get pages of their own, which return to the system when they are freed. Smaller ones, like
# those of an image of 640 x 480 pixels, are used again without new pages.
OWN_PAGES_BYTES = 16 << 20
USER_SETTINGS = ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")


def use_few_heaps() -> None:
    """Makes all threads share a few heaps, unless the user has chosen. To be called before threads start."""
    if any(name in os.environ for name in USER_SETTINGS):
        return
    if mallopt := _allocator_call("mallopt"):
        mallopt(M_ARENA_MAX, FEW_ARENAS)


def keep_large_buffers_apart() -> None:
    """Fixes the size from which buffers get pages of their own. glibc raises it, and holes grow."""
    if mallopt := _allocator_call("mallopt"):
        mallopt(M_MMAP_THRESHOLD, OWN_PAGES_BYTES)
        mallopt(M_TRIM_THRESHOLD, 2 * OWN_PAGES_BYTES)  # as glibc has it beside that size


def give_back() -> None:
    """Frees what only refers to itself in circles, as what ROS made for topics does, and returns unused memory."""
    gc.collect()
    if malloc_trim := _allocator_call("malloc_trim"):
        malloc_trim(0)


def _allocator_call(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except OSError:
        return None

# SPDX-License-Identifier: Apache-2.0
"""Settings of the C library's allocator that keep a process small in which large buffers come and go in many threads.

Its own way is to raise the size from which a buffer gets pages of its own, and to keep what is freed. Then the holes
between the buffers of many threads grow: by 60 MB in 50 rounds of configuring and cleaning up, 5 with these settings
(test/support/life_rounds.py). Without glibc nothing happens.
"""

from __future__ import annotations

import ctypes

# Buffers from this size on return to the system when they are freed. Smaller ones, such as those of an image with
# 640 x 480 pixels, are used again without new pages.
OWN_PAGES_BYTES = 16 << 20
# mallopt's names for the settings (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_large_buffers_apart() -> None:
    """Fixes the size from which buffers get pages of their own. Call it once, at the start of the process."""
    if set_option := _function("mallopt"):
        set_option(_M_MMAP_THRESHOLD, OWN_PAGES_BYTES)
        set_option(_M_TRIM_THRESHOLD, 2 * OWN_PAGES_BYTES)  # as glibc has it beside that size


def return_free_memory() -> None:
    """Returns to the system what was freed, such as the memory of a model. Takes some milliseconds."""
    if trim := _function("malloc_trim"):
        trim(0)


def _function(name: str) -> ctypes._FuncPointer | None:
    return getattr(ctypes.CDLL(None), name, None)

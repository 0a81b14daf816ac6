"""Memory of a process that makes the same few large messages again and again."""

from __future__ import annotations

import ctypes

# <malloc.h> of glibc.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_BLOCK_BYTES = 32 << 20  # the most that glibc takes
KEPT_BYTES = 256 << 20


def keep_freed_memory() -> bool:
    """Let malloc keep what is freed instead of handing it back to the kernel; True if it could be told so.

    A cloud of 640 x 480 points is 5 MB. Where several such blocks are freed together, glibc returns them to the kernel,
    which has to find and clear 1,200 pages for each when they are wanted again. The node fills its messages anew and
    hardly has that pattern: bench/node.py shows no difference at 640 x 480 and 1280 x 720. Other C libraries are left
    alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK_BYTES) and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))

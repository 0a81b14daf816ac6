"""Memory of a process that makes the same few large messages again and again."""

from __future__ import annotations

import ctypes

# <malloc.h> of glibc.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_BLOCK_BYTES = 32 << 20  # the most that glibc takes
KEPT_BYTES = 256 << 20


def keep_freed_memory() -> bool:
    """Let malloc keep what is freed instead of handing it back to the kernel; True if it could be told so.

    A cloud of 640 x 480 points is 5 MB, and is copied several times on its way out. By default glibc returns such
    blocks to the kernel, which has to find and clear 1,200 pages for each at the next frame: more than half of the
    time of publishing (measured with bench/node.py: 9 ms a frame, 3.5 ms with this). Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK_BYTES) and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))

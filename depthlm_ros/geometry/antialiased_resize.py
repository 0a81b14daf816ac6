# SPDX-License-Identifier: Apache-2.0
"""Resizes images as Pillow does, without Pillow: each pixel of the result is a weighted mean of all that it covers.

Published checkpoints were trained on such images, so an approximation would cost accuracy. `filter_image` resizes with
numba, where it is installed, bit for bit as Pillow (src/libImaging/Resample.c); otherwise with products of matrices, in
twice the time, at most one grey level off in each pass.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np

# Pillow's weights are whole numbers, in units of 2 ** -22.
_WEIGHT_BITS = 22
# Rows of a result that are computed in one product of matrices: fewer rows waste calls, more rows waste zeros.
_ROWS_AT_ONCE = 12
# Rows that are filtered across at once: fewer fill no vectors, more leave the cache between the two transpositions.
_STRIP_ROWS = 128
# Exact halves are rounded up, and float32 does not always reach them from above.
_ROUNDING = 1 / 4096


def _bilinear(distance: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1.0 - np.abs(distance))


def _bicubic(distance: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution (1981) with a = -0.5, as in Pillow and in torch with antialias; OpenCV's a is -0.75."""
    x, a = np.abs(distance), -0.5
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


# Name -> the filter's weight at a distance in pixels, and the largest distance with a weight.
FILTERS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "bilinear": (_bilinear, 1.0),
    "bicubic": (_bicubic, 2.0),
}


class _Scratch(threading.local):
    """Memory of each thread for images between two passes: the system would have to clear new memory every time."""

    def __init__(self) -> None:
        self._memory = [np.empty(0, np.uint8), np.empty(0, np.uint8)]

    def image(self, turn: int, shape: tuple[int, ...]) -> np.ndarray:
        """Returns one of two images in turns, with any content."""
        size = math.prod(shape)
        if len(self._memory[turn % 2]) < size:
            self._memory[turn % 2] = np.empty(size, np.uint8)
        return self._memory[turn % 2][:size].reshape(shape)


_scratch = _Scratch()


def filter_image(image: np.ndarray, *steps: tuple[tuple[int, int], str]) -> np.ndarray:
    """Returns uint8 (h, w, 3): the image uint8 (H, W, 3), resized step by step: each across, then down.

    steps: the size (width, height) and the name of the filter. An image that has the size is not filtered.
    """
    passes: list[tuple[int, int, str]] = []
    sides = [image.shape[1], image.shape[0]]
    for size, name in steps:
        passes += [(axis, size[axis], name) for axis in range(2) if size[axis] != sides[axis]]
        sides = list(size)
    for turn, (axis, count, name) in enumerate(passes):
        shape = (count, *image.shape[1:]) if axis else (len(image), count, *image.shape[2:])
        is_last = turn == len(passes) - 1
        filtered = np.empty(shape, np.uint8) if is_last else _scratch.image(turn, shape)
        (_filter_rows if axis else _filter_columns)(image, name, filtered)
        image = filtered
    return image


def _filter_columns(image: np.ndarray, name: str, filtered: np.ndarray) -> None:
    """Fills `filtered` (H, W', 3) from the image (H, W, 3). Strips of rows stay in the cache."""
    for top in range(0, len(image), _STRIP_ROWS):
        strip = cv2.transpose(image[top : top + _STRIP_ROWS])
        across = np.empty((filtered.shape[1], *strip.shape[1:]), np.uint8)
        _filter_rows(strip, name, across)
        cv2.transpose(across, dst=filtered[top : top + _STRIP_ROWS])


def _filter_rows(image: np.ndarray, name: str, filtered: np.ndarray) -> None:
    """Fills `filtered` (H', W, 3) from the image (H, W, 3)."""
    rows, made = image.reshape(len(image), -1), filtered.reshape(len(filtered), -1)
    kernel = compiled_kernel()
    if kernel is not None:
        kernel(rows, *_whole_weights(len(rows), len(made), name), made)
    else:
        _multiply_rows(rows, _weight_blocks(len(rows), len(made), name), made)


@lru_cache(maxsize=1)
def compiled_kernel() -> Callable[..., None] | None:
    """Returns the compiled kernel, or None where numba is missing or cannot compile.

    It is kept on disk where numba finds a folder that it may write to; otherwise each process compiles it, in a second.
    """
    try:
        from numba import njit
    except ImportError:
        return None
    try:
        return njit(cache=True, nogil=True)(_add_weighted_rows)
    except RuntimeError:  # no folder for the cache
        return njit(nogil=True)(_add_weighted_rows)


def _add_weighted_rows(rows: np.ndarray, first: np.ndarray, weights: np.ndarray, filtered: np.ndarray) -> None:
    """Fills `filtered` (n, M) with weighted sums of `rows` (N, M): from row first[i] on, with weights[i].

    The number of weights is even. Two rows are added at once, in 32 bits: numba would multiply in 64, half as fast.
    """
    length, last = filtered.shape[1], len(rows) - 1
    total = np.empty(length, np.int32)
    half, bits = np.int32(1 << (_WEIGHT_BITS - 1)), np.int32(_WEIGHT_BITS)
    least, most = np.int32(0), np.int32(255)
    for y in range(len(filtered)):
        out = filtered[y]
        for tap in range(0, weights.shape[1], 2):
            a, b = weights[y, tap], weights[y, tap + 1]
            if tap > 0 and a == 0 and b == 0:
                continue
            upper, lower = rows[first[y] + tap], rows[min(first[y] + tap + 1, last)]
            if tap == 0:
                for x in range(length):
                    total[x] = half + np.int32(np.int32(upper[x]) * a) + np.int32(np.int32(lower[x]) * b)
            else:
                for x in range(length):
                    total[x] += np.int32(np.int32(upper[x]) * a) + np.int32(np.int32(lower[x]) * b)
        for x in range(length):
            out[x] = np.uint8(min(max(np.int32(total[x] >> bits), least), most))


def _multiply_rows(rows: np.ndarray, blocks: tuple[tuple[int, np.ndarray], ...], filtered: np.ndarray) -> None:
    source = np.empty((max(weights.shape[1] for _, weights in blocks), rows.shape[1]), np.float32)
    product = np.empty((_ROWS_AT_ONCE, rows.shape[1]), np.float32)
    for (start, weights), top in zip(blocks, range(0, len(filtered), _ROWS_AT_ONCE), strict=True):
        out, taps = weights.shape
        np.copyto(source[:taps], rows[start : start + taps])
        np.matmul(weights, source[:taps], out=product[:out])
        # convertScaleAbs rounds and limits to 255 in one pass, but takes negative values for positive ones.
        cv2.threshold(product[:out], 0.0, 0.0, cv2.THRESH_TOZERO, dst=product[:out])
        cv2.convertScaleAbs(product[:out], dst=filtered[top : top + out], beta=_ROUNDING)


def _weights(rows: int, count: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns, for each row of the result, its first source row (count,) and float64 weights (count, taps).

    Weights of rows beyond the last one are zero.
    """
    weigh, reach = FILTERS[name]
    scale = rows / count
    width = max(scale, 1.0)
    centre = (np.arange(count) + 0.5) * scale
    first = np.maximum((centre - reach * width + 0.5).astype(int), 0)
    end = np.minimum((centre + reach * width + 0.5).astype(int), rows)
    row = first[:, None] + np.arange((end - first).max())
    weights = weigh((row - centre[:, None] + 0.5) / width) * (row < end[:, None])
    return first, weights / weights.sum(1, keepdims=True)


@lru_cache(maxsize=64)
def _whole_weights(rows: int, count: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns _weights with the weights as Pillow rounds them, int32: an even number, none of which is 0 at first."""
    first, weights = _weights(rows, count, name)
    scaled = weights * (1 << _WEIGHT_BITS)
    whole = np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int32)
    skipped = (whole != 0).argmax(1)
    taps = np.arange(-(-whole.shape[1] // 2) * 2) + skipped[:, None]
    begun = np.take_along_axis(np.pad(whole, ((0, 0), (0, whole.shape[1] + 1))), taps, 1)
    return first + skipped, np.ascontiguousarray(begun)


@lru_cache(maxsize=64)
def _weight_blocks(rows: int, count: int, name: str) -> tuple[tuple[int, np.ndarray], ...]:
    """Returns, for each _ROWS_AT_ONCE rows of the result, the first source row and float32 weights (n, taps)."""
    first, weights = _weights(rows, count, name)
    blocks = []
    for top in range(0, count, _ROWS_AT_ONCE):
        part = slice(top, top + _ROWS_AT_ONCE)
        start = int(first[top])
        span = int(first[part][-1]) - start + weights.shape[1]
        block = np.zeros((len(first[part]), min(span, rows - start)), np.float32)
        for line, begin, row_weights in zip(block, first[part] - start, weights[part], strict=True):
            inside = line[begin : begin + weights.shape[1]]
            inside[:] = row_weights[: len(inside)]
        blocks.append((start, block))
    return tuple(blocks)

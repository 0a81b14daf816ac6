"""A contact sheet: some records of a file with their points in the colours of their depth, and their depth maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Generic, TypeVar

import cv2
import numpy as np

from depthlm_ros.data.depthfile import read_depth
from depthlm_ros.data.records import Record
from depthlm_ros.errors import BadImage
from depthlm_ros.image_io import read_rgb
from depthlm_ros.visualization import BACKGROUND_RGB, depth_range_m, depth_rgb, write

T = TypeVar("T")
CELL_PX = (320, 240)
COLUMNS = 4
CAPTION_PX = 22
DOT_PX = 4
GAP_PX = 4


def contact_sheet(records: Sequence[Record]) -> np.ndarray:
    """uint8 (H, W, 3): one cell a record, those with a depth map beside the picture. What cannot be read is black."""
    return sheet_of([_cell(record) for record in records], COLUMNS)


def sheet_of(cells: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Cells of one height in rows of so many, the narrow ones padded, with gaps between them."""
    width = max(cell.shape[1] for cell in cells)
    padded = [_padded(cell, width) for cell in cells]
    columns = min(columns, len(padded))
    padded += [np.full_like(padded[0], BACKGROUND_RGB)] * (-len(padded) % columns)
    return np.vstack([np.hstack(padded[row : row + columns]) for row in range(0, len(padded), columns)])


def thumbnail(path: Path) -> np.ndarray:
    """A picture at the size of a cell, black if it cannot be read."""
    try:
        return _fit(read_rgb(path), cv2.INTER_AREA)
    except BadImage:
        return np.zeros((CELL_PX[1], CELL_PX[0], 3), np.uint8)


class Spread(Generic[T]):
    """Keeps at most so many of the things that it is offered, evenly over a file whose length nobody knows."""

    def __init__(self, most: int) -> None:
        self._most, self._every, self._offered = most, 1, 0
        self._kept: list[T] = []

    def offer(self, thing: T) -> None:
        if self._offered % self._every == 0:
            self._kept.append(thing)
        self._offered += 1
        if len(self._kept) == 2 * self._most:
            self._kept, self._every = self._kept[::2], 2 * self._every

    @property
    def kept(self) -> list[T]:
        """Those to show."""
        step = max(len(self._kept) / self._most, 1)
        return [self._kept[int(i * step)] for i in range(min(self._most, len(self._kept)))]


def _cell(record: Record) -> np.ndarray:
    dense_m = _depth(record)
    known_m = record.depth_m if dense_m is None else dense_m
    near_m, far_m = depth_range_m(np.asarray(known_m, np.float32))
    panels = [_dotted(record, near_m, far_m)]
    if dense_m is not None:
        panels.append(_fit(depth_rgb(dense_m, near_m, far_m), cv2.INTER_NEAREST))
    caption = np.full((CAPTION_PX, CELL_PX[0] * len(panels), 3), BACKGROUND_RGB, np.uint8)
    write(caption, f"{record.image.name}  {record.depth_type} {near_m:.1f} to {far_m:.1f} m", (4, 15), 0.4)
    return np.vstack([np.hstack(panels), caption])


def _depth(record: Record) -> np.ndarray | None:
    if record.depth is None:
        return None
    try:
        return read_depth(record.depth)
    except BadImage:
        return np.full((1, 1), np.nan, np.float32)


def _dotted(record: Record, near_m: float, far_m: float) -> np.ndarray:
    picture = thumbnail(record.image)
    scale = np.array(CELL_PX) / np.array(record.intrinsics.size_px)
    colours = (
        depth_rgb(np.asarray(record.depth_m, np.float32).reshape(1, -1), near_m, far_m)[0] if len(record.uv_px) else []
    )
    for (u, v), colour in zip((record.uv_px + 0.5) * scale - 0.5, colours, strict=True):
        centre = round(float(u)), round(float(v))
        cv2.circle(picture, centre, DOT_PX, (0, 0, 0), -1, cv2.LINE_AA)
        cv2.circle(picture, centre, DOT_PX - 1, [int(c) for c in colour], -1, cv2.LINE_AA)
    return picture


def _fit(picture: np.ndarray, interpolation: int) -> np.ndarray:
    return cv2.resize(picture, CELL_PX, interpolation=interpolation)


def _padded(cell: np.ndarray, width: int) -> np.ndarray:
    padded = np.full((cell.shape[0] + GAP_PX, width + GAP_PX, 3), BACKGROUND_RGB, np.uint8)
    padded[: cell.shape[0], : cell.shape[1]] = cell
    return padded

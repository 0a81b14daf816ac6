# SPDX-License-Identifier: Apache-2.0
"""What a public data set provides (`DataSet`): one `SourceView` per image, before points are drawn from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.records import NO_CAPS_M, DepthFile, Z


@dataclass(frozen=True)
class ReadOptions:
    """How a data set is read.

    as_released: reproduce the defects of the released scripts, on which published numbers rest (the module of each data
    set names them). split: name of a split, "" for the usual one. format: whose release is reproduced where they
    differ, "depthlm" or "depthvlm".
    """

    as_released: bool = False
    split: str = ""
    format: str = "depthlm"


@dataclass(frozen=True)
class SourceView:
    """One image of a data set with its depth.

    key: a relative path without suffix, unique within the data set; names the files that are written for the view.
    image: the file if it can be used unchanged, else the pixels, uint8 (H, W, 3), red first.
    depth_m: float32 (h, w), along the optical axis, NaN unknown. It covers the whole image, but may have another size.
    depth_file: the depth map on disk, if it means exactly the same as depth_m.
    label: depth type of the labels that are written: z, range or mixed.
    caps_m: (nearest, farthest) depth from which points are drawn.
    margin_px: points keep this distance to the border of the image.
    least_points: with fewer known pixels the view is left out.
    pose: float64 (4, 4), camera (optical frame) to world; None if it is unknown.
    image_key: key of the image in DepthLM's line.
    truncate: points of a shrunk image are cut to whole pixels, as the releases do.
    """

    key: str
    image: Path | np.ndarray
    intrinsics: Intrinsics
    depth_m: np.ndarray
    depth_file: DepthFile | None = None
    label: str = Z
    caps_m: tuple[float, float] = NO_CAPS_M
    margin_px: int = 0
    least_points: int = 1
    scene: str = ""
    camera: str = ""
    split: str = ""
    pose: np.ndarray | None = None
    image_key: str = "image"
    truncate: bool = False


# Name of a view, for messages, and a function that loads it. An error of the data in this function costs only the view.
LazyView: TypeAlias = tuple[str, Callable[[], SourceView]]


@dataclass(frozen=True)
class DataSet:
    """A public data set.

    layout: what its folder must contain, for messages.
    items(root, options): names of the units of work (a drive, a scan, a room) in a fixed order.
    views(root, item, options): yields the views of an item, not loaded yet.
    corrections: defects of the released scripts that are corrected here, and that `as_released` reproduces.
    focal_px: images of a longer focal length are shrunk to it (0: never).
    depth_scale: scale of depth maps that are written.
    """

    name: str
    title: str
    layout: str
    items: Callable[[Path, ReadOptions], Sequence[str]]
    views: Callable[[Path, str, ReadOptions], Iterator[LazyView]]
    corrections: tuple[str, ...]
    caps_m: tuple[float, float]
    focal_px: float = 0.0
    depth_scale: float = 256.0

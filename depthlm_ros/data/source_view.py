"""What a data set gives for one image, before points are drawn from it, and what a data set is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.records import NO_CAPS_M, DepthFile, Z


@dataclass(frozen=True)
class Choice:
    """How a data set is to be read.

    as_released: with the defects on which published numbers rest (each data set's file names them). split: "" for the
    usual one. format: whose release is meant where they differ, "depthlm" or "depthvlm".
    """

    as_released: bool = False
    split: str = ""
    format: str = "depthlm"


@dataclass(frozen=True)
class View:
    """One image with its depth.

    key: unique within the data set, a relative path without suffix; names what is written for it. image: the file if
    it can be used as it is, else the pixels, uint8 (H, W, 3), red first. depth_m: float32 (h, w), along the optical
    axis, NaN unknown; it may be of another size than the image, whose whole area it covers. depth_file: the same on
    disk, if what is there means just that. label: what is written of it, one of z, range, mixed. caps_m: what is
    nearer or farther is not drawn from. margin_px: points keep off the image's border by so much. least_points: with
    fewer known pixels the view is left out. pose: float64 (4, 4), camera (optical frame) to world, None unknown.
    image_key: what the image is called in DepthLM's line. truncate: points of a shrunk image are cut to whole pixels,
    as the release does.
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


# The name of one view, for messages, and what makes it. Whatever it raises because of the data costs that view only.
Maker = tuple[str, Callable[[], View]]


@dataclass(frozen=True)
class DataSet:
    """A public data set.

    items(root, choice): names of what is worked on as one, in a fixed order: a drive, a scan, a room. views(root, item,
    choice): makers of its views. focal_px: images of a longer focal length are shrunk to it (0: never).
    depth_scale: of depth maps that are written. corrections: defects of the released curation that are mended, and
    that `as_released` brings back. layout: what the folder has to look like, for messages.
    """

    name: str
    title: str
    layout: str
    items: Callable[[Path, Choice], Sequence[str]]
    views: Callable[[Path, str, Choice], Iterator[Maker]]
    corrections: tuple[str, ...]
    caps_m: tuple[float, float]
    focal_px: float = 0.0
    depth_scale: float = 256.0

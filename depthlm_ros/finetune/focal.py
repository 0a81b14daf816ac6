"""A camera for an image without one: a focal length estimated from the single image.

VLM3 takes a learned model for this (AnyCalib, Tirado-Garin and Civera 2025). None is shipped here: the file's Exif data
are asked, then the lines in the image (vanishing.py); name a learned one in a recipe (focal.estimator). What none of
them tells is a fixed guess.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.imagesize import image_size
from depthlm_ros.errors import SetupError
from depthlm_ros.finetune import exif
from depthlm_ros.finetune.settings import FocalSettings
from depthlm_ros.finetune.vanishing import focal_from_lines
from depthlm_ros.imagefile import read_rgb


class FocalEstimator(Protocol):
    """What stands in for a calibration."""

    def focal_px(self, image: Path, size_px: tuple[int, int]) -> float:
        """Focal length, pixels, the same on both axes, of an image file of this size (width, height)."""
        ...


# Focal length in pixels of an image file of this size; None where it does not tell.
Told = Callable[[Path, tuple[int, int]], float | None]


class FirstTold:
    """What the first of several ways tells; where none does, a fixed field of view, with a warning."""

    def __init__(self, ways: Sequence[Told], fallback_fov_deg: float) -> None:
        if not 0 < fallback_fov_deg < 180:
            raise SetupError(f"focal.fallback_fov_deg is {fallback_fov_deg:g}: it must be between 0 and 180.")
        self.ways, self.fallback_fov_deg = ways, fallback_fov_deg
        self._warned = False

    def focal_px(self, image: Path, size_px: tuple[int, int]) -> float:
        for way in self.ways:
            told = way(image, size_px)
            if told is not None:
                return told
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{image} has no intrinsics, and nothing in it tells its focal length: a field of view of "
                f"{self.fallback_fov_deg:g} degrees is assumed for it and all further such ones. Metric depth learnt "
                "from them is a guess; give intrinsics, or a learned estimator (focal.estimator).",
                stacklevel=2,
            )
        return max(size_px) / 2 / math.tan(math.radians(self.fallback_fov_deg) / 2)


@lru_cache(maxsize=1 << 16)
def lines_focal_px(image: Path, size_px: tuple[int, int]) -> float | None:
    """By vanishing points (vanishing.py); kept, since an image is shown many times. Raises BadImage."""
    return focal_from_lines(read_rgb(image))


# Settings of a recipe -> what is asked, in this order.
WAYS: dict[str, tuple[Told, ...]] = {"auto": (exif.focal_px, lines_focal_px), "exif": (exif.focal_px,)}


def make_estimator(settings: FocalSettings) -> FocalEstimator:
    """The estimator that a recipe names. Raises SetupError if package.module:name cannot be had."""
    if settings.estimator in WAYS:
        return FirstTold(WAYS[settings.estimator], settings.fallback_fov_deg)
    module_name, _, name = settings.estimator.partition(":")
    try:
        made = getattr(importlib.import_module(module_name), name)()
    except (ImportError, AttributeError, TypeError, ValueError) as exc:
        raise SetupError(
            f"focal.estimator is {settings.estimator!r}, which cannot be made ({exc}): write auto, exif, or "
            "package.module:name of a callable without arguments that gives an object with focal_px(image, size_px)."
        ) from exc
    if not callable(getattr(made, "focal_px", None)):
        raise SetupError(f"focal.estimator {settings.estimator!r} gave a {type(made).__name__} without focal_px().")
    return made


def estimated_camera(image: Path, estimator: FocalEstimator) -> Intrinsics:
    """The camera of an image file: estimated focal length, principal point in the middle. Raises BadImage, and
    BadIntrinsics for an estimate that is no focal length."""
    width, height = image_size(image)
    focal_px = float(estimator.focal_px(image, (width, height)))
    return Intrinsics(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2, width, height)

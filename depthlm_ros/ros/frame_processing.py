"""The work on one frame, without any ROS call: message and calibration in, what was seen out.

Everything that depends on the camera only (rectification maps, rays) is kept until the calibration changes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from depthlm_ros.core import Frame, Intrinsics
from depthlm_ros.errors import BadIntrinsics
from depthlm_ros.geometry.point_cloud import CloudBuilder, sparse_cloud
from depthlm_ros.geometry.rectify import Rectifier
from depthlm_ros.model import Model
from depthlm_ros.ros.camera_info_sync import Arrival, Pair, stamp_ns
from depthlm_ros.ros.message_in import camera_from_info, compressed_to_rgb, image_to_rgb, info_key
from depthlm_ros.ros.statistics import Troubles
from depthlm_ros.view import View

CLOUD_FIELDS = ("x", "y", "z", "rgb")
SPARSE_FIELDS = ("x", "y", "z", "std")
# Seeing a smaller share of the image than this is worth a warning.
LEAST_COVERAGE = 0.9


class Stopwatch:
    """Milliseconds spent in each stage of a frame."""

    def __init__(self) -> None:
        self._last_s = time.perf_counter()
        self.stages_ms: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """Book the time since the last lap to a stage."""
        now_s = time.perf_counter()
        self.stages_ms[stage] = self.stages_ms.get(stage, 0.0) + 1e3 * (now_s - self._last_s)
        self._last_s = now_s

    def move(self, stage: str, to: str, span_ms: float) -> None:
        """Book a part of one stage to another."""
        self.stages_ms[stage] -= span_ms
        self.stages_ms[to] = self.stages_ms.get(to, 0.0) + span_ms


@dataclass(frozen=True, eq=False)
class Seen:
    """One look and the image it was taken at."""

    view: View
    image: Arrival
    watch: Stopwatch = field(default_factory=Stopwatch)

    @property
    def header(self) -> Any:
        """The image's header, unchanged."""
        return self.image.message.header

    @property
    def camera(self) -> Intrinsics:
        """The rectified camera, to which all pixels refer."""
        return self.view.frame.intrinsics


class Eye:
    """Turns images into looks. Used by one thread."""

    def __init__(self, model: Model, compressed: bool, rectified: bool, troubles: Troubles) -> None:
        self._model, self._rectified, self._troubles = model, rectified, troubles
        self._to_rgb: Callable[[Any], np.ndarray] = compressed_to_rgb if compressed else image_to_rgb
        self._key: tuple | None = None
        self._rectifier: Rectifier | None = None

    def look(self, pair: Pair) -> Seen:
        """Decode, rectify, look. Raises BadInput for an unusable image or calibration, BackendFailed."""
        watch, message = Stopwatch(), pair.image.message
        rectifier = self._rectifier_of(pair)
        watch.lap("rectify")
        rgb = self._to_rgb(message)
        watch.lap("decode")
        rgb = rectifier.rectify(rgb)
        frame = Frame(rgb, rectifier.intrinsics, pair.image.stamp_ns, message.header.frame_id, rectifier.valid)
        watch.lap("rectify")
        view = self._model.look(frame)
        watch.lap("normalise")
        watch.move("normalise", "look", 1e3 * view.backend_s)
        return Seen(view, pair.image, watch)

    def _rectifier_of(self, pair: Pair) -> Rectifier:
        if pair.info is None:
            raise BadIntrinsics(
                f"the image is of camera frame {pair.image.message.header.frame_id!r} but camera_info is of "
                f"{pair.other_frame_id!r}: it is a CameraInfo of another camera; remap camera_info to the one that "
                "belongs to the images."
            )
        key = info_key(pair.info)
        if key != self._key or self._rectifier is None:
            before, self._key, self._rectifier = self._rectifier, key, None
            self._rectifier = Rectifier(camera_from_info(pair.info), self._rectified)
            self._tell_change(before)
            self._tell_coverage(self._rectifier.intrinsics)
        return self._rectifier

    def _tell_change(self, before: Rectifier | None) -> None:
        if before is None or self._rectifier is None:
            return
        same = before.intrinsics == self._rectifier.intrinsics
        same_lens = ", with another distortion (D, R or the distortion model)" if same else ""
        self._troubles.note(
            "intrinsics changed",
            f"the camera's calibration has changed from {_in_words(before.intrinsics)} to "
            f"{_in_words(self._rectifier.intrinsics)}{same_lens}; the new one is used. If this is no zoom lens and no "
            "new resolution, two sources publish on camera_info.",
        )

    def _tell_coverage(self, camera: Intrinsics) -> None:
        if misfit := self._model.misfit(camera):
            self._troubles.note("engine of another camera", misfit)
            return
        share = self._model.coverage(camera)
        if share >= LEAST_COVERAGE:
            return
        angle_deg = 2.0 * math.degrees(math.atan(camera.width_px / 2.0 / camera.fx_px))
        self._troubles.note(
            "narrow view",
            f"the model sees {100.0 * share:.3g} % of this camera's image, the rest has no depth (NaN): "
            f"{_in_words(camera)} means a field of view of {angle_deg:.0f} degrees, wider than the model's. Check that "
            "the focal length is right and in pixels of this size; if it is, use a longer lens, or P of camera_info "
            "for a narrower view.",
        )


def frame_of(message: Any, info: Any, rectified: bool) -> Frame:
    """A single image, raw or compressed, rectified by its calibration. Raises BadImage, BadIntrinsics.

    rectified: it is already. Nothing is kept: for images that are not of a stream.
    """
    rectifier = Rectifier(camera_from_info(info), rectified)
    to_rgb = compressed_to_rgb if hasattr(message, "format") else image_to_rgb
    rgb = rectifier.rectify(to_rgb(message))
    return Frame(rgb, rectifier.intrinsics, stamp_ns(message.header), message.header.frame_id, rectifier.valid)


def _in_words(camera: Intrinsics) -> str:
    return (
        f"fx {camera.fx_px:g} fy {camera.fy_px:g} cx {camera.cx_px:g} cy {camera.cy_px:g} "
        f"({camera.width_px} x {camera.height_px})"
    )


def within_range(depth_m: np.ndarray, least_m: float, most_m: float) -> np.ndarray:
    """Depth with -Inf where it is too near and +Inf where nothing is within range, as REP 117 has it."""
    near, far = depth_m < least_m, depth_m > most_m
    if near.any():
        depth_m = np.where(near, np.float32(-np.inf), depth_m)
    return np.where(far, np.float32(np.inf), depth_m) if far.any() else depth_m


@lru_cache(maxsize=2)
def cloud_builder(camera: Intrinsics, stride: int, least_m: float, most_m: float) -> CloudBuilder:
    """The builder of one camera's clouds, kept with its rays."""
    return CloudBuilder(camera, stride, least_m, most_m)


def grid_px(camera: Intrinsics, rows: int, columns: int) -> np.ndarray:
    """float64 (rows * columns, 2): the centres of equal cells that cover the image, row by row."""
    u = (np.arange(columns) + 0.5) * camera.width_px / columns - 0.5
    v = (np.arange(rows) + 0.5) * camera.height_px / rows - 0.5
    return np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2)


def told_grid(seen: Seen, rows: int, columns: int, least_m: float, most_m: float) -> np.ndarray:
    """float32 (rows, columns, 4): x, y, z and standard deviation of a grid of pixels, depth in the model's words."""
    told = seen.view.tell_depth_at(grid_px(seen.camera, rows, columns))
    in_range = (told.depth_m >= least_m) & (told.depth_m <= most_m)
    depth_m = np.where(in_range, told.depth_m, np.float32(np.nan))
    return sparse_cloud(told.uv_px, depth_m, told.std_m, seen.camera).reshape(rows, columns, 4)

# SPDX-License-Identifier: Apache-2.0
"""Processes one frame without any ROS call: from image message and calibration to a view of the model.

Everything that depends only on the camera (rectification maps, rays) is kept until the calibration changes.

Public names: FrameProcessor, PreparedFrame, FrameResult, Stopwatch, rectified_frame, cached_cloud_builder,
sparse_points.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from depthlm_ros.core import Frame, Intrinsics
from depthlm_ros.errors import BadIntrinsics
from depthlm_ros.geometry.canonical_view import CanvasPlacement
from depthlm_ros.geometry.point_cloud import CloudBuilder, sparse_cloud
from depthlm_ros.geometry.rectify import Rectifier
from depthlm_ros.model import Model
from depthlm_ros.ros.body_mask import BodyMask
from depthlm_ros.ros.camera_info_sync import CameraImage, is_same_camera, stamp_ns
from depthlm_ros.ros.message_in import camera_from_info, compressed_to_rgb, image_to_rgb, info_key
from depthlm_ros.ros.statistics import ProblemLog
from depthlm_ros.view import View

if TYPE_CHECKING:
    from sensor_msgs.msg import CameraInfo, CompressedImage, Image

CLOUD_FIELDS = ("x", "y", "z", "rgb")
SPARSE_FIELDS = ("x", "y", "z", "std")
# If the model sees a smaller share of the image than this, the node warns.
MIN_COVERAGE = 0.9
# A picture whose brightest value is not above this shows nothing. Images of 16 bits are darker than that if 12 of the
# bits are in use.
DARKEST_WHITE = 16
# Every n-th row is enough to find out whether a picture is black.
BRIGHTNESS_STRIDE = 8


class Stopwatch:
    """Measures the milliseconds that each stage of a frame takes."""

    def __init__(self) -> None:
        self._last_s = time.perf_counter()
        self.stages_ms: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """Adds the time since the last lap to a stage."""
        now_s = time.perf_counter()
        self.stages_ms[stage] = self.stages_ms.get(stage, 0.0) + 1e3 * (now_s - self._last_s)
        self._last_s = now_s

    def resume(self) -> None:
        """Leaves out the time since the last lap, in which the frame waited."""
        self._last_s = time.perf_counter()

    def move(self, stage: str, to: str, span_ms: float) -> None:
        """Moves a part of the time of one stage to another."""
        self.stages_ms[stage] -= span_ms
        self.stages_ms[to] = self.stages_ms.get(to, 0.0) + span_ms


@dataclass(frozen=True, eq=False)
class FrameResult:
    """The model's view of one frame, the image that it was made from, and the time that it took.

    All pixels refer to the rectified camera, view.frame.intrinsics.
    """

    view: View
    image: CameraImage
    stopwatch: Stopwatch = field(default_factory=Stopwatch)


@dataclass(frozen=True, eq=False)
class PreparedFrame:
    """A rectified frame as the model sees it, which has not looked yet."""

    placement: CanvasPlacement
    image: CameraImage
    stopwatch: Stopwatch


class FrameProcessor:
    """Turns images into frame results. One thread at a time prepares, one looks.

    is_compressed: whether the messages are CompressedImage. is_rectified: whether the images are rectified already.
    bit_depth: bits in use in images of 16 bits. mask: of the robot's own body in the images; None if it is not in
    sight. depth_scale: returns the present Frame.depth_scale. canvas_size_px: (width, height) of what the model saw of
    the last image; (0, 0) before.
    """

    canvas_size_px: tuple[int, int] = (0, 0)

    def __init__(
        self,
        model: Model,
        is_compressed: bool,
        is_rectified: bool,
        problems: ProblemLog,
        bit_depth: int = 16,
        mask: BodyMask | None = None,
        depth_scale: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self._model, self._is_rectified, self._problems = model, is_rectified, problems
        self._bit_depth, self._mask, self._depth_scale = bit_depth, mask, depth_scale
        self._frame_ids_reported: set[tuple[str, str]] = set()
        self._to_rgb = compressed_to_rgb if is_compressed else image_to_rgb
        self._info_key: tuple | None = None
        self._rectifier: Rectifier | None = None
        self._seen: np.ndarray | None = None

    def process(self, image: CameraImage) -> FrameResult:
        """Decodes and rectifies an image and runs the model.

        Raises BadInput for an unusable image or calibration, BackendFailed if the model fails.
        """
        return self.look(self.prepare(image))

    def prepare(self, image: CameraImage) -> PreparedFrame:
        """Does what comes before the model. Raises BadInput for an unusable image or calibration."""
        stopwatch, message = Stopwatch(), image.message
        rectifier = self._rectifier_for(image)
        stopwatch.lap("rectify")
        rgb = self._to_rgb(message, self._bit_depth)
        self._report_black(rgb, message)
        stopwatch.lap("decode")
        rgb = rectifier.rectify(rgb)
        seen, scale = self._seen_by(rectifier), self._depth_scale()
        frame = Frame(rgb, rectifier.intrinsics, image.stamp_ns, message.header.frame_id, seen, scale)
        stopwatch.lap("rectify")
        placement = self._model.place(frame)
        stopwatch.lap("normalise")
        return PreparedFrame(placement, image, stopwatch)

    def look(self, prepared: PreparedFrame) -> FrameResult:
        """Runs the model on a prepared frame. Raises BackendFailed."""
        prepared.stopwatch.resume()
        view = self._model.look_at(prepared.placement)
        self.canvas_size_px = view.canvas_size_px
        prepared.stopwatch.lap("normalise")
        prepared.stopwatch.move("normalise", "look", 1e3 * view.backend_s)
        return FrameResult(view, prepared.image, prepared.stopwatch)

    def _rectifier_for(self, image: CameraImage) -> Rectifier:
        if image.info is None:
            raise BadIntrinsics(
                f"the image is of camera frame {image.message.header.frame_id!r} but camera_info is of "
                f"{image.other_frame_id!r}: it is a CameraInfo of another camera; remap camera_info to the one that "
                "belongs to the images."
            )
        self._report_frame_ids(image.message, image.info)
        key = info_key(image.info)
        if key != self._info_key or self._rectifier is None:
            previous, self._info_key, self._rectifier = self._rectifier, key, None
            self._rectifier = Rectifier(camera_from_info(image.info, self._is_rectified), self._is_rectified)
            self._seen = None
            if previous is not None:
                self._report_change(previous.intrinsics, self._rectifier.intrinsics)
            self._report_poor_fit(self._rectifier.intrinsics)
        return self._rectifier

    def _report_frame_ids(self, message: Image | CompressedImage, info: CameraInfo) -> None:
        """Reports, once for each pair, frame ids that differ although the calibration must be this camera's."""
        frame_ids = message.header.frame_id, info.header.frame_id
        if is_same_camera(message, info) or frame_ids in self._frame_ids_reported:
            return
        self._frame_ids_reported.add(frame_ids)
        self._problems.report(
            "frame ids differ",
            f"the image is of camera frame {frame_ids[0]!r} but camera_info is of {frame_ids[1]!r}; it is used because "
            "only one publisher sends camera_info. If it is another camera's, remap camera_info, or set parameter "
            "strict_frame_ids to true to refuse such images.",
        )

    def _report_black(self, rgb: np.ndarray, message: Image | CompressedImage) -> None:
        brightest = int(rgb[::BRIGHTNESS_STRIDE].max(initial=0))
        if brightest > DARKEST_WHITE:
            return
        name = message.format if hasattr(message, "format") else message.encoding
        advice = "check the exposure, and whether the lens is covered"
        if "16" in name or name.lower().startswith("png"):
            advice = (
                "if the sensor leaves the upper bits empty, set parameter image_bit_depth to its number of bits (it is "
                f"{self._bit_depth}), usually 10 or 12; else {advice}"
            )
        self._problems.report(
            "black image",
            f"the picture is nearly black, so that its depth is a guess: the brightest value of the {name!r} image is "
            f"{brightest} of 255. To mend it: {advice}.",
        )

    def _seen_by(self, rectifier: Rectifier) -> np.ndarray | None:
        """Returns seen_pixels; a mask is rectified once."""
        if self._seen is None:
            self._seen = seen_pixels(rectifier, self._mask)
        return self._seen

    def _report_change(self, previous: Intrinsics, camera: Intrinsics) -> None:
        lens = ", with another distortion (D, R or the distortion model)" if previous == camera else ""
        self._problems.report(
            "intrinsics changed",
            f"the camera's calibration has changed from {_describe(previous)} to {_describe(camera)}{lens}; the new "
            "one is used. If the camera has no zoom lens and no new resolution, two sources publish on camera_info.",
        )

    def _report_poor_fit(self, camera: Intrinsics) -> None:
        """Reports a camera that the model, or the engine, was not made for."""
        if mismatch := self._model.describe_camera_mismatch(camera):
            self._problems.report("engine of another camera", mismatch)
            return
        share = self._model.coverage(camera)
        if share >= MIN_COVERAGE:
            return
        angle_deg = 2.0 * math.degrees(math.atan(camera.width_px / 2.0 / camera.fx_px))
        self._problems.report(
            "narrow view",
            f"the model sees {100.0 * share:.3g} % of this camera's image, the rest has no depth (NaN): "
            f"{_describe(camera)} means a field of view of {angle_deg:.0f} degrees, wider than the model's. Check that "
            "the focal length is right and in pixels of this size; if it is, use a longer lens, or P of camera_info "
            "for a narrower view.",
        )


def seen_pixels(rectifier: Rectifier, mask: BodyMask | None) -> np.ndarray | None:
    """Returns bool (H, W), False where the rectified image shows nothing of the world; None if there is no such pixel.

    Raises BadInput for a mask of another size than the images.
    """
    return mask.seen(rectifier) if mask else rectifier.valid


def rectified_frame(
    message: Image | CompressedImage,
    info: CameraInfo,
    is_rectified: bool,
    bit_depth: int = 16,
    mask: BodyMask | None = None,
) -> Frame:
    """Returns a single image, raw or compressed, rectified by its calibration. Raises BadImage, BadIntrinsics.

    is_rectified: whether it is rectified already. bit_depth: bits in use in an image of 16 bits. mask: of the robot's
    own body in it. Nothing is kept: for images that do not belong to a stream.
    """
    rectifier = Rectifier(camera_from_info(info, is_rectified), is_rectified)
    to_rgb = compressed_to_rgb if hasattr(message, "format") else image_to_rgb
    rgb = rectifier.rectify(to_rgb(message, bit_depth))
    seen = seen_pixels(rectifier, mask)
    return Frame(rgb, rectifier.intrinsics, stamp_ns(message.header), message.header.frame_id, seen)


def _describe(camera: Intrinsics) -> str:
    return (
        f"fx {camera.fx_px:g} fy {camera.fy_px:g} cx {camera.cx_px:g} cy {camera.cy_px:g} "
        f"({camera.width_px} x {camera.height_px})"
    )


@lru_cache(maxsize=2)
def cached_cloud_builder(camera: Intrinsics, stride: int, min_m: float, max_m: float) -> CloudBuilder:
    """Returns the builder of one camera's clouds; it is kept with its rays."""
    return CloudBuilder(camera, stride, min_m, max_m)


def grid_px(camera: Intrinsics, rows: int, columns: int) -> np.ndarray:
    """float64 (rows * columns, 2): the centres of equal cells that cover the image, row by row."""
    u = (np.arange(columns) + 0.5) * camera.width_px / columns - 0.5
    v = (np.arange(rows) + 0.5) * camera.height_px / rows - 0.5
    return np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2)


def sparse_points(view: View, rows: int, columns: int, min_m: float, max_m: float) -> np.ndarray:
    """float32 (rows, columns, 4): x, y, z and standard deviation in metres of a grid of pixels.

    The model is asked for each depth in words. Depths outside min_m to max_m are NaN.
    """
    camera = view.frame.intrinsics
    answers = view.tell_depth_at(grid_px(camera, rows, columns))
    is_in_range = (answers.depth_m >= min_m) & (answers.depth_m <= max_m)
    depth_m = np.where(is_in_range, answers.depth_m, np.float32(np.nan))
    return sparse_cloud(answers.uv_px, depth_m, answers.std_m, camera).reshape(rows, columns, 4)

# SPDX-License-Identifier: Apache-2.0
"""The values that the packages exchange: frozen dataclasses, with units in names and shapes in docstrings.

Pixels: u to the right, v down, zero-based; (0, 0) is the *centre* of the top-left pixel (the convention of OpenCV and
of sensor_msgs/CameraInfo).
Optical frame (REP 103): x right, y down, z forward, metres.
Depth is z along the optical axis, not the distance along the ray; NaN means unknown.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from depthlm_ros.errors import BadImage, BadInput, BadIntrinsics


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera without distortion: focal lengths and principal point in pixels.

    Raises BadIntrinsics for a focal length or size that is not a positive finite number.
    """

    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float
    width_px: int
    height_px: int

    def __post_init__(self) -> None:
        for name in ("fx_px", "fy_px"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise BadIntrinsics(
                    f"focal length {name[:2]} = {value}: it must be a positive number of pixels. "
                    "Calibrate the camera, or publish the calibration you have."
                )
        for name in ("cx_px", "cy_px"):
            if not math.isfinite(getattr(self, name)):
                raise BadIntrinsics(
                    f"principal point {name[:2]} = {getattr(self, name)} is not finite: calibrate the camera."
                )
        if self.width_px < 1 or self.height_px < 1:
            raise BadIntrinsics(f"image size {self.width_px} x {self.height_px}: both must be at least 1 pixel.")

    @property
    def matrix(self) -> np.ndarray:
        """(3, 3) float64 camera matrix K."""
        return np.array([[self.fx_px, 0.0, self.cx_px], [0.0, self.fy_px, self.cy_px], [0.0, 0.0, 1.0]])

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height)."""
        return self.width_px, self.height_px


@dataclass(frozen=True)
class Frame:
    """One rectified image and its camera.

    rgb: uint8 (H, W, 3), red first. stamp_ns and frame_id are those of the image's header. seen: bool (H, W), False
    where the rectified image shows nothing that the camera saw, so that nothing is known there; None if the camera saw
    all of it. depth_scale: what every length that a model tells of this frame is multiplied by, for a robot that knows
    how far the model is off: depth, standard deviations, numbers in words, points. Raises BadImage if shapes or types
    do not fit, BadInput if the scale is not a positive number.
    """

    rgb: np.ndarray
    intrinsics: Intrinsics
    stamp_ns: int = 0
    frame_id: str = ""
    seen: np.ndarray | None = None
    depth_scale: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.depth_scale) and self.depth_scale > 0):
            raise BadInput(
                f"depth_scale is {self.depth_scale}: give a positive number, measured depth over told depth."
            )
        shape = self.rgb.shape
        if self.rgb.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3:
            raise BadImage(f"image is {self.rgb.dtype} {shape}: expected uint8 (height, width, 3), red first.")
        if shape[:2] != (self.intrinsics.height_px, self.intrinsics.width_px):
            raise BadImage(
                f"image is {shape[1]} x {shape[0]} but its camera is "
                f"{self.intrinsics.width_px} x {self.intrinsics.height_px}: use the intrinsics of this resolution."
            )
        if self.seen is not None and (self.seen.dtype != np.bool_ or self.seen.shape != shape[:2]):
            raise BadImage(f"mask of seen pixels is {self.seen.dtype} {self.seen.shape}: expected bool {shape[:2]}.")


@dataclass(frozen=True)
class DepthMap:
    """Dense metric depth of one frame.

    depth_m: float32 (H, W), z along the optical axis, NaN means unknown, +inf means nothing within range.
    std_m: float32 (H, W), standard deviation of each pixel's depth, NaN where the depth is not finite; None if the
    model does not tell it. detail_px: side of a pixel of the image that the model saw, in pixels of the frame: smaller
    things than that are interpolated.
    """

    depth_m: np.ndarray
    intrinsics: Intrinsics
    stamp_ns: int = 0
    frame_id: str = ""
    std_m: np.ndarray | None = None
    detail_px: float = 1.0


@dataclass(frozen=True)
class PointDepths:
    """Depth at N pixels.

    uv_px: float64 (N, 2). depth_m, std_m: float32 (N,), NaN means unknown.
    """

    uv_px: np.ndarray
    depth_m: np.ndarray
    std_m: np.ndarray


@dataclass(frozen=True)
class Region:
    """An axis-aligned box in the image, pixels; (x_px, y_px) is its top-left corner."""

    x_px: float
    y_px: float
    width_px: float
    height_px: float
    label: str = ""


@dataclass(frozen=True)
class Question:
    """A question in words, with the pixels and regions of the frame that it is about.

    uv_px: float64 (N, 2); N may be 0. on_words: called with the model's words so far after every decoding step, in the
    thread that asks. What it raises ends the decoding, also of other questions that are asked together with this one.
    """

    text: str
    uv_px: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    regions: tuple[Region, ...] = ()
    on_words: Callable[[str], None] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Measurement:
    """One quantity measured in the depth map, independent of what the model's words say.

    quantity: "distance" (from the camera, the median over the visible surface), "nearest" (to its nearest visible
    point), "height", "width" (extents of the visible part), "gap" (least distance between two objects), or a relation
    that holds: "nearer", "left of", "above", "in front of". value, std: in `unit` ("m"), NaN if unknown; the value of a
    relation is the difference. about: indices into the answer's regions, followed by the question's pixels; for a
    relation the first one is the nearer, left or upper one. points_m: float64 (K, 3), the points at or between which it
    was measured, optical frame.
    """

    quantity: str
    value: float
    unit: str
    std: float
    about: tuple[int, ...] = ()
    points_m: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))


class Status(enum.Enum):
    """How the model dealt with a question. INCONSISTENT: it answered, but its words and the depth map disagree by more
    than their uncertainties allow."""

    OK = "ok"
    NOT_FOUND = "not_found"
    NOT_UNDERSTOOD = "not_understood"
    INCONSISTENT = "inconsistent"


@dataclass(frozen=True)
class Answer:
    """The reply of the model to a question, with the measurements for it.

    text: the reply in words. value, std: a number and its standard deviation in `unit` ("m", "deg", "" for none); NaN
    if the answer contains no number. Where the depth map tells the same quantity, the number in the words and the
    measured one are combined in value and text. words_value: the number as the model's words alone gave it; NaN without
    one. points_m: float64 (N, 3) in the camera's optical frame. regions: boxes that the answer is about. confidence: 0
    to 1, the model's own probability of the words it chose, calibrated. measurements: what the depth map says about the
    pixels or regions, ordered by quantity, then by object.
    """

    text: str
    status: Status = Status.OK
    value: float = math.nan
    unit: str = ""
    std: float = math.nan
    points_m: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    regions: tuple[Region, ...] = ()
    confidence: float = math.nan
    measurements: tuple[Measurement, ...] = ()
    words_value: float = math.nan


@dataclass(frozen=True)
class Matches:
    """Where N pixels of a first image are in a second one.

    uv_px: float64 (N, 2), pixels of the first image. matched_px: float64 (N, 2), pixels of the second, NaN where not
    found. replies: the model's words for each pixel, "" where it was not asked in words.
    """

    uv_px: np.ndarray
    matched_px: np.ndarray
    replies: tuple[str, ...]


@dataclass(frozen=True)
class RelativePose:
    """Pose of the second camera in the first camera's optical frame, measured in the images or told in words.

    rotation: float64 (3, 3), turns vectors of camera 2 into camera 1. translation_m: float64 (3,), centre of camera 2
    in camera 1. Both are NaN if they are unknown. angle_deg: the rotation angle that a model states itself in words (a
    check of the rotation), else NaN. direction: float64 (3,), unit vector. distance_m: NaN if unknown, also if it is
    not larger than its uncertainty. replies: question name ("rotation", "orientation", "direction", "distance") -> the
    model's words; empty if the pose was measured.
    """

    rotation: np.ndarray
    translation_m: np.ndarray
    angle_deg: float
    direction: np.ndarray
    distance_m: float
    replies: dict[str, str]

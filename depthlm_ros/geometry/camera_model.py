# SPDX-License-Identifier: Apache-2.0
"""The camera model: the content of a CameraInfo in plain Python, and its scaling to the delivered image.

Conventions (REP 103, REP 104, the comments of sensor_msgs/CameraInfo):
- K and P belong to the full-resolution, unbinned, uncropped image. The delivered image is that image cropped to the
  region of interest and then binned.
- (0, 0) is the centre of the top-left pixel (see pinhole.py).
- A cropped and binned principal point is (cx - roi.x) / binning, as in ROS's image_geometry. Exact averaging of bins
  would give (cx - roi.x + 0.5) / binning - 0.5. The difference is below half a delivered pixel, and following
  image_geometry keeps all nodes of a robot in agreement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadIntrinsics

# Distortion model -> the numbers of coefficients that OpenCV accepts for it.
COEFFICIENT_COUNTS = {
    "plumb_bob": (0, 4, 5),
    "rational_polynomial": (0, 8, 12, 14),
    "equidistant": (4,),
}

# OpenCV's fixed-point maps hold coordinates in 16 bits.
MAX_SIDE_PX = 32766
# Names that others use for a lens that is known here, and the name of that lens.
OTHER_NAMES = {
    "fisheye": "equidistant",
    "kannala_brandt": "equidistant",
    "kannala_brandt4": "equidistant",
    "kb4": "equidistant",
    "equi": "equidistant",
    "radtan": "plumb_bob",
    "radial-tangential": "plumb_bob",
    "radial_tangential": "plumb_bob",
    "brown_conrady": "plumb_bob",
    "brown-conrady": "plumb_bob",
    "opencv": "plumb_bob",
    "rational": "rational_polynomial",
}
# Lenses that bend rays even if all their coefficients are zero, by a part of their names.
BENT_BY_NATURE = (
    "fisheye", "kannala", "kb4", "kb8", "equi", "omni", "mei", "double_sphere", "double-sphere", "ds", "ucm", "unified",
    "scaramuzza", "ocam", "ftheta", "f-theta", "f_theta", "fov", "atan", "stereographic", "spherical", "cylindrical",
)  # fmt: skip
# As a share of the focal length: a point moves by less than two pixels over 640.
MOST_SKEW = 0.003
# Colour of resampled pixels that show nothing the camera saw, and their source coordinate: so far outside that no
# interpolation touches the image.
UNSEEN_GREY = 128
NOWHERE_PX = -16.0


@dataclass(frozen=True)
class Roi:
    """The region of interest: the window of the sensor that is delivered, in full-resolution pixels.

    0 x 0 at (0, 0) means the whole sensor. do_rectify is only stored: the rectified image keeps the window of the raw
    one.
    """

    x_px: int = 0
    y_px: int = 0
    width_px: int = 0
    height_px: int = 0
    do_rectify: bool = False


@dataclass(frozen=True, eq=False)
class CameraModel:
    """The content of one CameraInfo; two models are equal if their numbers are equal.

    width_px, height_px: the full sensor image. distortion_model: in lower case here. d: distortion coefficients; zeros
    beyond those of the distortion model are cut off, also if they are all that an unknown lens has. k, r: (3, 3), p:
    (3, 4), float64; flat sequences are reshaped. All-zero r means the identity, and p[0, 0] = 0 means that no P is
    given. A binning of 0 means 1. Raises BadIntrinsics for values that no camera can have.
    """

    width_px: int
    height_px: int
    distortion_model: str
    d: tuple[float, ...]
    k: np.ndarray
    r: np.ndarray
    p: np.ndarray
    binning_x: int = 1
    binning_y: int = 1
    roi: Roi = Roi()

    def __post_init__(self) -> None:
        r = _matrix("R", self.r, (3, 3))
        name = self.distortion_model.strip().lower()
        object.__setattr__(self, "distortion_model", name)
        normalised = {
            "d": _without_padding(name, tuple(float(value) for value in self.d)),
            "k": _matrix("K", self.k, (3, 3)),
            "r": r if r.any() else _read_only(np.eye(3)),
            "p": _matrix("P", self.p, (3, 4)),
            "binning_x": max(int(self.binning_x), 1),
            "binning_y": max(int(self.binning_y), 1),
        }
        for name, value in normalised.items():
            object.__setattr__(self, name, value)
        _check_size_and_roi(self)
        _check_matrices(self)
        _check_distortion(self)

    def _key(self) -> tuple:
        matrices = (self.k.tobytes(), self.r.tobytes(), self.p.tobytes())
        scalars = (self.width_px, self.height_px, self.binning_x, self.binning_y, self.roi)
        return (self.distortion_model, self.d, *matrices, *scalars)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CameraModel) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    @property
    def has_p(self) -> bool:
        """Whether the projection matrix P is given."""
        return bool(self.p[0, 0] > 0)

    @property
    def has_distortion(self) -> bool:
        """Whether the lens bends rays; equidistant lenses do this even with zero coefficients."""
        return self.distortion_model == "equidistant" or any(self.d)

    @property
    def window_px(self) -> tuple[int, int, int, int]:
        """(x, y, width, height) of the delivered window on the sensor, unbinned pixels."""
        if self.roi.width_px == 0:
            return 0, 0, self.width_px, self.height_px
        return self.roi.x_px, self.roi.y_px, self.roi.width_px, self.roi.height_px

    @property
    def delivered_size_px(self) -> tuple[int, int]:
        """(width, height) of the image on the topic: the window, binned, rounded down."""
        _, _, width, height = self.window_px
        return width // self.binning_x, height // self.binning_y

    @property
    def delivered_k(self) -> np.ndarray:
        """(3, 3) float64: K of the delivered raw image."""
        return self._delivered(self.k)

    @property
    def delivered_p(self) -> np.ndarray:
        """(3, 4) float64: P of the delivered image after rectification."""
        return self._delivered(self.p)

    def _delivered(self, matrix: np.ndarray) -> np.ndarray:
        x, y, _, _ = self.window_px
        scaled = matrix.copy()
        scaled[:2, 2] -= (x, y)
        scaled[0] /= self.binning_x
        scaled[1] /= self.binning_y
        return scaled

    @property
    def rectified_intrinsics(self) -> Intrinsics:
        """Camera of the delivered image once it is rectified: from P where it is given, else from K."""
        matrix = self.delivered_p if self.has_p else self.delivered_k
        return Intrinsics(
            float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[0, 2]), float(matrix[1, 2]), *self.delivered_size_px
        )

    def check_image_size(self, width_px: int, height_px: int) -> None:
        """Raises BadIntrinsics unless this camera delivers images of this size."""
        if (width_px, height_px) == self.delivered_size_px:
            return
        width, height = self.delivered_size_px
        raise BadIntrinsics(
            f"image is {width_px} x {height_px} but camera_info says {width} x {height} "
            f"(sensor {self.width_px} x {self.height_px}, binning {self.binning_x} x {self.binning_y}, window "
            f"{self.window_px}): use the camera_info of this image; a resized image needs a scaled camera_info."
        )


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _matrix(name: str, values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    array = np.array(values, dtype=np.float64)
    if array.size != shape[0] * shape[1]:
        raise BadIntrinsics(f"camera_info has {array.size} values in {name}: expected {shape[0]} x {shape[1]}.")
    return _read_only(array.reshape(shape))


def _without_padding(distortion_model: str, d: tuple[float, ...]) -> tuple[float, ...]:
    """Returns D without the zeros that a driver with an array of fixed length appends; any other D unchanged."""
    if distortion_model not in COEFFICIENT_COUNTS:
        return d if any(d) else ()
    fitting = [n for n in COEFFICIENT_COUNTS.get(distortion_model, ()) if n <= len(d) and not any(d[n:])]
    return d[: max(fitting)] if fitting else d


def _check_size_and_roi(model: CameraModel) -> None:
    if not (1 <= model.width_px <= MAX_SIDE_PX and 1 <= model.height_px <= MAX_SIDE_PX):
        raise BadIntrinsics(
            f"camera_info says the image is {model.width_px} x {model.height_px}: publish the calibrated size in it, "
            f"1 to {MAX_SIDE_PX} pixels a side."
        )
    roi = model.roi
    if roi == Roi(do_rectify=roi.do_rectify):
        return
    x_fits = 0 <= roi.x_px < roi.x_px + roi.width_px <= model.width_px
    y_fits = 0 <= roi.y_px < roi.y_px + roi.height_px <= model.height_px
    if not (x_fits and y_fits):
        raise BadIntrinsics(
            f"camera_info's roi {roi.width_px} x {roi.height_px} at ({roi.x_px}, {roi.y_px}) is not inside the sensor "
            f"{model.width_px} x {model.height_px}: set the roi in full-resolution pixels, or to zeros for everything."
        )


def _check_matrices(model: CameraModel) -> None:
    for row, name in enumerate(("fx", "fy")):
        value = float(model.k[row, row])
        if not (math.isfinite(value) and value > 0):
            raise BadIntrinsics(
                f"camera_info has {name} = {value}: the camera is not calibrated; calibrate it "
                "(for example with camera_calibration) or publish the camera_info you know to be right."
            )
    for name, matrix in (("P", model.p), ("K", model.k), ("R", model.r)):
        if not np.isfinite(matrix).all():
            raise BadIntrinsics(
                f"camera_info has NaN or inf in {name} = {matrix.tolist()}: calibrate the camera again."
            )
    if model.has_p:
        _check_zeros("P", model.p[:, :3])
    _check_zeros("K", model.k)
    if model.p[0, 0] < 0 or (model.has_p and model.p[1, 1] <= 0):
        raise BadIntrinsics(
            f"camera_info has P with fx = {model.p[0, 0]}, fy = {model.p[1, 1]}: both must be positive, "
            "or P all zero if the image has never been rectified."
        )
    if abs(np.linalg.det(model.r) - 1.0) > 1e-2:
        raise BadIntrinsics(f"camera_info has R = {model.r.tolist()}, which is not a rotation: use the identity.")
    if min(model.delivered_size_px) < 1:
        raise BadIntrinsics(
            f"camera_info's binning {model.binning_x} x {model.binning_y} leaves no pixel of the image."
        )


def _check_zeros(name: str, k: np.ndarray) -> None:
    """Raises BadIntrinsics for a K, or the left part of P, with other numbers where zeros belong.

    A K written column by column has its principal point there, and would pass for one with its principal point in the
    corner. A small skew, which hardly moves any pixel, is accepted and not used.
    """
    others = k[(0, 1, 2, 2), (1, 0, 0, 1)]
    if not (np.abs(others) <= MOST_SKEW * k[0, 0]).all():
        part = "" if name == "K" else " in its first three columns"
        raise BadIntrinsics(
            f"camera_info has {name} = {k.ravel().tolist()}{part}: expected [fx, 0, cx, 0, fy, cy, 0, 0, 1], row by "
            f"row, without skew. Publish {name} in this order; rectify the images of a skewed sensor before this node."
        )


def _check_distortion(model: CameraModel) -> None:
    counts = COEFFICIENT_COUNTS.get(model.distortion_model)
    if counts is None:
        _check_foreign_lens(model.distortion_model, model.d)
        return
    if len(model.d) not in counts:
        raise BadIntrinsics(
            f"camera_info has {len(model.d)} distortion coefficients for {model.distortion_model!r}: "
            f"expected {' or '.join(str(count) for count in counts if count)}, and only zeros after them. Publish D in "
            "the order of this model, or the distortion_model that D belongs to."
        )
    if not np.isfinite(model.d).all():
        raise BadIntrinsics(f"camera_info has D = {model.d}: every coefficient must be finite; calibrate again.")


def _check_foreign_lens(name: str, d: tuple[float, ...]) -> None:
    """Raises BadIntrinsics unless there is nothing to rectify: all coefficients are zero, and that means a pinhole."""
    if not d and not name.startswith(BENT_BY_NATURE):
        return
    known = ", ".join(COEFFICIENT_COUNTS)
    own_name = OTHER_NAMES.get(name)
    advice = "Rectify the image before this node and publish it with plumb_bob and zeros."
    if own_name:
        numbers = " or ".join(str(count) for count in COEFFICIENT_COUNTS[own_name] if count)
        advice = (
            f"If this is OpenCV's lens of that kind, publish it as {own_name} with its {numbers} coefficients; else "
        )
        advice += "rectify the image before this node and publish it with plumb_bob and zeros."
    raise BadIntrinsics(f"camera_info has distortion_model {name!r} with D = {list(d)}: known are {known}. {advice}")


def rectified_camera(
    width_px: int,
    height_px: int,
    distortion_model: str,
    d: tuple[float, ...],
    k: np.ndarray,
    r: np.ndarray,
    p: np.ndarray,
    **window: Any,
) -> CameraModel:
    """Returns the camera of images that are rectified already: a pinhole by P, or by K where no P is given.

    The arguments are those of CameraModel. Lens and rotation, and K beside P, belong to the raw images. They are not
    looked at, so that they may be wrong. Raises BadIntrinsics.
    """
    p = _matrix("P", p, (3, 4))
    left = p[:, :3] if p[0, 0] > 0 else k
    return CameraModel(width_px, height_px, "", (), left, np.eye(3), p, **window)

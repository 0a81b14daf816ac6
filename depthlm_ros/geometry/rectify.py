# SPDX-License-Identifier: Apache-2.0
"""Rectification: turns the image that a camera delivers into the image that a pinhole camera would deliver."""

from __future__ import annotations

from functools import cached_property

import cv2
import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadIntrinsics
from depthlm_ros.geometry.camera_model import NOWHERE_PX, UNSEEN_GREY, CameraModel
from depthlm_ros.geometry.pinhole import pixels_inside

# A lens and a P that belong together show most of the image. Where the rectified image would show a smaller share of
# the raw one, or would be empty but for such a share, one of the two is not of this camera.
MIN_SHARE_SHOWN = 0.01
# The share is counted on so many columns and rows of pixels.
SHARE_GRID = (64, 48)


class Rectifier:
    """Turns delivered images of one camera into rectified ones of the same size.

    The maps are computed once, for the first image of the right size: a camera_info with a nonsensical size must not
    cost its memory. Every method may be called from any thread.

    intrinsics: the pinhole camera of the output (P where given, else K; cropped and binned).
    """

    def __init__(self, model: CameraModel, rectified: bool) -> None:
        """rectified: the images arrive rectified already (topic image_rect), so they are returned unchanged.

        Raises BadIntrinsics for a lens and a P that cannot belong to one camera.
        """
        self.model = model
        self.intrinsics: Intrinsics = model.rectified_intrinsics
        self._is_identity = rectified or _is_pinhole_already(model)
        # Computed here, so that nothing but this comparison is done for each image.
        self._shape = model.delivered_size_px[::-1]
        if not self._is_identity:
            _check_share_shown(model)

    def rectify(self, image: np.ndarray) -> np.ndarray:
        """Returns the rectified image, same shape and dtype; the input itself where nothing needs to be done.

        image: (H, W) or (H, W, C). Raises BadIntrinsics if it does not have the size that this camera delivers.
        """
        if image.shape[:2] != self._shape:
            self.model.check_image_size(image.shape[1], image.shape[0])
        if self._is_identity:
            return image
        map_x, map_y, _ = self._maps
        out = cv2.remap(
            image,
            map_x,
            map_y,
            interpolation=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(UNSEEN_GREY,) * 4,
        )
        return out.reshape(image.shape)  # OpenCV drops an axis of length one

    @property
    def valid(self) -> np.ndarray | None:
        """bool (H, W), False where the output shows nothing that the camera saw; None if there is no such pixel."""
        return None if self._is_identity else self._maps[2]

    @cached_property
    def _maps(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        map_x, map_y, valid = _float_maps(self.model)
        return (*cv2.convertMaps(map_x, map_y, cv2.CV_16SC2), None if valid.all() else valid)


def _is_pinhole_already(model: CameraModel) -> bool:
    """Whether the delivered image needs no resampling: no distortion, no rotation, and P equal to K."""
    same_matrix = not model.has_p or np.array_equal(model.p[:, :3], model.k)
    return not model.has_distortion and same_matrix and np.array_equal(model.r, np.eye(3))


def _check_share_shown(model: CameraModel) -> None:
    """Raises BadIntrinsics if P would show next to nothing of the raw image, for a camera that is not turned."""
    size, new_k = model.delivered_size_px, model.rectified_intrinsics.matrix
    new_k[:2] *= np.divide(SHARE_GRID, size)[:, None]
    uv_px = np.stack(_source_px(model, np.eye(3), new_k, SHARE_GRID), axis=-1).reshape(-1, 2)
    seen_px = uv_px[pixels_inside(uv_px, size)]
    filled = len(seen_px) / len(uv_px)
    shown = float(np.prod((np.ptp(seen_px, axis=0) + 1.0) / size)) if len(seen_px) else 0.0
    if min(filled, shown) >= MIN_SHARE_SHOWN:
        return
    raise BadIntrinsics(
        f"camera_info has K with fx = {model.k[0, 0]:g} and P with fx = {model.p[0, 0]:g}, which cannot be one camera: "
        f"the rectified image would show {100.0 * shown:.2g} % of the raw one and be empty in "
        f"{100.0 * (1.0 - filled):.3g} % of its area. If the images are rectified already, say so (the node's "
        "parameter rectified_input: true), so that only P counts; else publish K, D, R and P of this camera."
    )


def _source_px(
    model: CameraModel, r: np.ndarray, new_k: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns u and v of the delivered raw image, float32 (H, W) each, that pixels of a pinhole camera show.

    r: rotation (3, 3) between the two. new_k, size: matrix (3, 3) and (width, height) of the pinhole camera.
    """
    d = np.array(model.d or (0.0,) * 4, np.float64)
    fisheye = model.distortion_model == "equidistant"
    init = cv2.fisheye.initUndistortRectifyMap if fisheye else cv2.initUndistortRectifyMap
    return init(model.delivered_k, d, np.array(r), new_k, size, cv2.CV_32FC1)


def _float_maps(model: CameraModel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns where each output pixel lies in the input, float32 (H, W) twice, and whether that is inside, bool."""
    size = model.delivered_size_px
    map_x, map_y = _source_px(model, model.r, model.rectified_intrinsics.matrix, size)
    width, height = size
    valid = pixels_inside(np.stack([map_x, map_y], axis=-1), size).reshape(map_x.shape) & ~_folded(model)
    # In the outer half pixel of the image the border colour is continued; outside, the map points at nothing.
    map_x = np.where(valid, map_x.clip(0, width - 1), NOWHERE_PX).astype(np.float32)
    map_y = np.where(valid, map_y.clip(0, height - 1), NOWHERE_PX).astype(np.float32)
    return map_x, map_y, valid


def _folded(model: CameraModel) -> np.ndarray:
    """Returns bool (H, W): output pixels beyond the angle up to which the distortion polynomial describes a lens.

    Beyond the angle where the distorted radius stops growing, a fitted polynomial turns back, and the map would show
    the same scene twice. Rays behind the raw camera are unseen too.
    """
    camera = model.rectified_intrinsics
    width, height = camera.size_px
    limit = _largest_angle(model)
    # Directions within an angle below 90 degrees form a convex cone: if the corners are inside, all pixels are.
    if (_angle_to_axis(model, np.array([0, width - 1]), np.array([0, height - 1])) <= limit).all():
        return np.zeros((height, width), bool)
    return ~(_angle_to_axis(model, np.arange(width), np.arange(height)) <= limit)


def _angle_to_axis(model: CameraModel, u_px: np.ndarray, v_px: np.ndarray) -> np.ndarray:
    """Returns float64 (len(v), len(u)): angle between the raw camera's axis and the ray of each pixel, radians."""
    camera = model.rectified_intrinsics
    x = (u_px - camera.cx_px) / camera.fx_px
    y = ((v_px - camera.cy_px) / camera.fy_px)[:, None]
    raw_x, raw_y, raw_z = (row[0] * x + row[1] * y + row[2] for row in model.r.T)
    return np.arctan2(np.hypot(raw_x, raw_y), raw_z)


def _largest_angle(model: CameraModel) -> float:
    """Returns the angle from the axis, radians, up to which a larger angle means a larger distorted radius."""
    angle = np.linspace(0.0, np.radians(89.9), 4096)
    turns = np.flatnonzero(np.diff(_distorted_radius(model, angle)) <= 0)
    return float(angle[turns[0]] if turns.size else angle[-1])


def _distorted_radius(model: CameraModel, angle: np.ndarray) -> np.ndarray:
    """Returns (N,): distance from the principal point, at focal length 1, of rays at these angles to the axis, radians.

    The radial part of the lens models as OpenCV's documentation defines them (calib3d, fisheye).
    """
    if model.distortion_model == "equidistant":
        return angle * (1.0 + np.polyval((*model.d[::-1], 0.0), angle**2))
    k1, k2, _, _, k3, k4, k5, k6 = (*model.d, *(0.0,) * 8)[:8]
    radius = np.tan(angle)
    r2 = radius**2
    return radius * (1.0 + np.polyval((k3, k2, k1, 0.0), r2)) / (1.0 + np.polyval((k6, k5, k4, 0.0), r2))

# SPDX-License-Identifier: Apache-2.0
"""Reads messages: turns images and camera calibrations into the arrays and values of the core.

No message is trusted: sizes, strides and buffer lengths are checked against each other, and what does not fit raises
BadImage with the numbers. The functions use only the fields of the messages; no ROS module is imported at run time.

The names of the pixel encodings are those of sensor_msgs/image_encodings.hpp (and nv12). Colours of the YUV encodings
are ITU-R BT.601 with limited range, as OpenCV and cv_bridge read them.

Public names: image_to_rgb, compressed_to_rgb, camera_from_info, info_key, ENCODINGS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import cv2
import numpy as np

from depthlm_ros.errors import BadImage
from depthlm_ros.geometry.camera_model import CameraModel, Roi, rectified_camera
from depthlm_ros.image_io import check_size, to_8_bits, with_end_marker

if TYPE_CHECKING:
    from sensor_msgs.msg import CameraInfo, CompressedImage, Image


@dataclass(frozen=True)
class Encoding:
    """How the pixels of one encoding are stored, and how they become RGB.

    channels: values per pixel in a stored row. dtype: type of one value. rows_per_2: stored rows per two image rows (3
    for the planar 4:2:0 encodings). even_width, even_height: whether the chroma samples need an even size. min_size_px:
    smallest width and height (below 3 x 3 OpenCV does not demosaic and returns black).
    to_rgb: uint8 (stored rows, W, channels) or (stored rows, W) -> uint8 (H, W, 3), red first. Values of 16 bits are
    brought to 8 before it.
    """

    channels: int
    to_rgb: Callable[[np.ndarray], np.ndarray]
    dtype: type = np.uint8
    rows_per_2: int = 2
    even_width: bool = False
    even_height: bool = False
    min_size_px: int = 1

    @property
    def bytes_per_pixel(self) -> int:
        """Bytes of one pixel in a stored row."""
        return self.channels * np.dtype(self.dtype).itemsize


def _opencv(conversion: int) -> Callable[[np.ndarray], np.ndarray]:
    return partial(cv2.cvtColor, code=conversion)


def _rgb8(pixels: np.ndarray) -> np.ndarray:
    return pixels


_UYVY = Encoding(2, _opencv(cv2.COLOR_YUV2RGB_UYVY), even_width=True)
_YUYV = Encoding(2, _opencv(cv2.COLOR_YUV2RGB_YUYV), even_width=True)

# OpenCV names a Bayer pattern by the second and third pixel of the second row, ROS by the pixels of the first two rows.
_BAYER_PATTERNS = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}

ENCODINGS: dict[str, Encoding] = {
    "rgb8": Encoding(3, _rgb8),
    "bgr8": Encoding(3, _opencv(cv2.COLOR_BGR2RGB)),
    "rgba8": Encoding(4, _opencv(cv2.COLOR_RGBA2RGB)),
    "bgra8": Encoding(4, _opencv(cv2.COLOR_BGRA2RGB)),
    "mono8": Encoding(1, _opencv(cv2.COLOR_GRAY2RGB)),
    "mono16": Encoding(1, _opencv(cv2.COLOR_GRAY2RGB), dtype=np.uint16),
    **{f"bayer_{name}8": Encoding(1, _opencv(code), min_size_px=3) for name, code in _BAYER_PATTERNS.items()},
    **{
        f"bayer_{name}16": Encoding(1, _opencv(code), dtype=np.uint16, min_size_px=3)
        for name, code in _BAYER_PATTERNS.items()
    },
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    "nv12": Encoding(1, _opencv(cv2.COLOR_YUV2RGB_NV12), rows_per_2=3, even_width=True, even_height=True),
    "nv21": Encoding(1, _opencv(cv2.COLOR_YUV2RGB_NV21), rows_per_2=3, even_width=True, even_height=True),
}


def image_to_rgb(message: Image, bit_depth: int = 16) -> np.ndarray:
    """Returns the pixels of a sensor_msgs/Image as uint8 (H, W, 3), red first.

    bit_depth: how many bits hold the picture if its values have 16; by default all, as the encodings define it.
    For rgb8 without padding the array is a view of the message's buffer and keeps it alive; do not write to it.
    Raises BadImage for an unknown encoding and for sizes that do not fit the buffer.
    """
    encoding = ENCODINGS.get(message.encoding.lower())
    if encoding is None:
        return _convert_with_cv_bridge(message)
    return encoding.to_rgb(to_8_bits(_stored_pixels(message, encoding), bit_depth))


def compressed_to_rgb(message: CompressedImage, bit_depth: int = 16) -> np.ndarray:
    """Returns the pixels of a sensor_msgs/CompressedImage (jpeg or png) as uint8 (H, W, 3), red first.

    The format names the camera's encoding before ";", and after "compressed" what the codec got. A Bayer mosaic that
    was compressed as it is becomes a colour picture here. bit_depth: as in image_to_rgb.
    The EXIF orientation is ignored: a rotated picture would no longer fit its calibration.
    Raises BadImage if the data cannot be decoded or is truncated.
    """
    camera_encoding, _, codec = message.format.lower().partition(";")
    codec_encoding = codec.partition("compressed")[2]
    pixels = to_8_bits(_decoded(message), bit_depth)
    if camera_encoding.strip().startswith("bayer") and _is_mosaic(pixels, codec_encoding):
        return _demosaiced(pixels, camera_encoding.strip(), message.format)
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    colours = pixels[..., :3]
    # image_transport states in which order the codec got the channels.
    return np.ascontiguousarray(colours) if "rgb" in codec_encoding else cv2.cvtColor(colours, cv2.COLOR_BGR2RGB)


def _decoded(message: CompressedImage) -> np.ndarray:
    """uint8 or uint16 (H, W) or (H, W, 3 or 4), in the order of the codec. Raises BadImage."""
    data, image_format = np.frombuffer(message.data, np.uint8), message.format
    if data.size == 0:
        raise BadImage(f"compressed image ({image_format!r}) holds no bytes: check the camera driver.")
    check_size(data, f"compressed image ({image_format!r})")
    complete = with_end_marker(data)
    if complete is None:
        raise BadImage(
            f"compressed image ({image_format!r}) ends after {data.size} bytes without its end marker: "
            "it was cut short; check the camera driver and the link."
        )
    try:
        pixels = cv2.imdecode(complete, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise BadImage(f"compressed image ({image_format!r}, {data.size} bytes) is refused: {error}.") from error
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        raise BadImage(
            f"compressed image ({image_format!r}, {data.size} bytes) does not decode: send jpeg or png. "
            "(compressedDepth is not a colour image.)"
        )
    return pixels


def _is_mosaic(pixels: np.ndarray, codec_encoding: str) -> bool:
    """Whether the codec got the mosaic of a Bayer camera: one channel, or three equal ones not called colours."""
    if pixels.ndim == 2:
        return True
    is_grey = np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 1], pixels[..., 2])
    return is_grey and not ("rgb" in codec_encoding or "bgr" in codec_encoding)


def _demosaiced(pixels: np.ndarray, camera_encoding: str, image_format: str) -> np.ndarray:
    encoding = ENCODINGS.get(camera_encoding)
    if encoding is None or min(pixels.shape[:2]) < encoding.min_size_px:
        known = ", ".join(name for name in ENCODINGS if name.startswith("bayer"))
        height, width = pixels.shape[:2]
        raise BadImage(
            f"compressed image ({image_format!r}, {width} x {height}) is the mosaic of a Bayer camera that cannot be "
            f"read: known are {known}, from {ENCODINGS['bayer_rggb8'].min_size_px} pixels a side. Let the camera "
            "driver name the pattern, or send colours."
        )
    return encoding.to_rgb(np.ascontiguousarray(pixels if pixels.ndim == 2 else pixels[..., 0]))


def camera_from_info(info: CameraInfo, is_rectified: bool = False) -> CameraModel:
    """Returns the camera of a sensor_msgs/CameraInfo. Raises BadIntrinsics for values that no camera can have.

    is_rectified: the images are rectified already. Then only P, or K where no P is given, says anything about them:
    the other numbers may be wrong.
    """
    roi = info.roi
    camera_type = rectified_camera if is_rectified else CameraModel
    return camera_type(
        width_px=info.width,
        height_px=info.height,
        distortion_model=info.distortion_model,
        d=tuple(info.d),
        k=np.asarray(info.k),
        r=np.asarray(info.r),
        p=np.asarray(info.p),
        binning_x=info.binning_x,
        binning_y=info.binning_y,
        roi=Roi(roi.x_offset, roi.y_offset, roi.width, roi.height, roi.do_rectify),
    )


def info_key(info: CameraInfo) -> tuple:
    """Returns a key of everything in a calibration except its header: equal keys mean the same camera."""
    roi = info.roi
    window = (roi.x_offset, roi.y_offset, roi.width, roi.height)
    numbers = tuple(np.asarray(field).tobytes() for field in (info.d, info.k, info.r, info.p))
    return (info.width, info.height, info.distortion_model, info.binning_x, info.binning_y, window, numbers)


def _stored_pixels(message: Image, encoding: Encoding) -> np.ndarray:
    """(stored rows, W, channels), or (stored rows, W) for one channel, in the byte order of this machine."""
    _check_size(message, encoding)
    width, rows = message.width, message.height * encoding.rows_per_2 // 2
    row_bytes = width * encoding.bytes_per_pixel
    step = message.step
    needed = step * (rows - 1) + row_bytes  # the last row may lack its padding
    buffer = np.frombuffer(message.data, np.uint8)
    if buffer.size < needed:
        raise BadImage(
            f"{message.encoding} image {width} x {message.height} with step {step} needs {needed} bytes "
            f"but holds {buffer.size}: the driver sends a wrong size or a truncated buffer."
        )
    lines = np.lib.stride_tricks.as_strided(buffer, (rows, row_bytes), (step, 1), writeable=False)
    stored_type = np.dtype(encoding.dtype).newbyteorder(">" if message.is_bigendian else "<")
    values = np.ascontiguousarray(lines).view(stored_type).astype(encoding.dtype, copy=False)
    return values.reshape(rows, width, encoding.channels) if encoding.channels > 1 else values


def _check_size(message: Image, encoding: Encoding) -> None:
    width, height, name = message.width, message.height, message.encoding
    if min(width, height) < encoding.min_size_px:
        raise BadImage(
            f"{name} image is {width} x {height}: both must be at least {encoding.min_size_px} pixel; "
            "check the camera driver."
        )
    if (encoding.even_width and width % 2) or (encoding.even_height and height % 2):
        raise BadImage(f"{name} image is {width} x {height}: its colour is stored for pairs of pixels, use even sizes.")
    if message.step < width * encoding.bytes_per_pixel:
        raise BadImage(
            f"{name} image has step {message.step}, but a row of {width} pixels takes "
            f"{width * encoding.bytes_per_pixel} bytes: check the camera driver."
        )


def _convert_with_cv_bridge(message: Image) -> np.ndarray:
    """Converts the encodings that ENCODINGS lacks, if cv_bridge is installed."""
    known = ", ".join(sorted(ENCODINGS))
    advice = f"encoding {message.encoding!r} is unknown. Known: {known}. Set the camera driver to one of them."
    try:
        from cv_bridge import CvBridge
    except ImportError:
        raise BadImage(advice) from None
    try:
        return CvBridge().imgmsg_to_cv2(message, desired_encoding="rgb8")
    except Exception as error:  # cv_bridge raises its own, OpenCV's and KeyError; all mean the same to the caller
        raise BadImage(f"{advice} (cv_bridge: {error})") from error

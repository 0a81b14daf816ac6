"""Pixel encodings of sensor_msgs/Image, as arrays: how each is stored and how it becomes RGB.

The names are those of sensor_msgs/image_encodings.hpp (plus nv12). Colours of the YUV encodings are
ITU-R BT.601 with limited range, as OpenCV, and with it cv_bridge, understands them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np


@dataclass(frozen=True)
class Encoding:
    """How one encoding lies in memory.

    channels: values per pixel in a stored row. dtype: of one value. rows_per_2: stored rows per two image
    rows (3 for the planar 4:2:0 encodings). even_width, even_height: whether the chroma samples need it.
    smallest_px: least width and height (OpenCV demosaics nothing below 3 x 3 and gives black).
    to_rgb: (stored rows, W, channels) or (stored rows, W) array -> uint8 (H, W, 3), red first.
    """

    channels: int
    to_rgb: Callable[[np.ndarray], np.ndarray]
    dtype: type = np.uint8
    rows_per_2: int = 2
    even_width: bool = False
    even_height: bool = False
    smallest_px: int = 1

    @property
    def bytes_per_pixel(self) -> int:
        """Bytes of one pixel in a stored row."""
        return self.channels * np.dtype(self.dtype).itemsize


def _opencv(conversion: int) -> Callable[[np.ndarray], np.ndarray]:
    return partial(cv2.cvtColor, code=conversion)


def _rgb8(pixels: np.ndarray) -> np.ndarray:
    return pixels


def _mono16(pixels: np.ndarray) -> np.ndarray:
    """65535 becomes 255: the full range of 16 bits, as the encoding defines it."""
    grey = cv2.convertScaleAbs(pixels, alpha=255.0 / 65535.0)
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)


_UYVY = Encoding(2, _opencv(cv2.COLOR_YUV2RGB_UYVY), even_width=True)
_YUYV = Encoding(2, _opencv(cv2.COLOR_YUV2RGB_YUYV), even_width=True)

# OpenCV names a Bayer pattern by the second and third pixel of the second row, ROS by the first two rows.
ENCODINGS: dict[str, Encoding] = {
    "rgb8": Encoding(3, _rgb8),
    "bgr8": Encoding(3, _opencv(cv2.COLOR_BGR2RGB)),
    "rgba8": Encoding(4, _opencv(cv2.COLOR_RGBA2RGB)),
    "bgra8": Encoding(4, _opencv(cv2.COLOR_BGRA2RGB)),
    "mono8": Encoding(1, _opencv(cv2.COLOR_GRAY2RGB)),
    "mono16": Encoding(1, _mono16, dtype=np.uint16),
    "bayer_rggb8": Encoding(1, _opencv(cv2.COLOR_BayerBG2RGB), smallest_px=3),
    "bayer_bggr8": Encoding(1, _opencv(cv2.COLOR_BayerRG2RGB), smallest_px=3),
    "bayer_gbrg8": Encoding(1, _opencv(cv2.COLOR_BayerGR2RGB), smallest_px=3),
    "bayer_grbg8": Encoding(1, _opencv(cv2.COLOR_BayerGB2RGB), smallest_px=3),
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    "nv12": Encoding(1, _opencv(cv2.COLOR_YUV2RGB_NV12), rows_per_2=3, even_width=True, even_height=True),
    "nv21": Encoding(1, _opencv(cv2.COLOR_YUV2RGB_NV21), rows_per_2=3, even_width=True, even_height=True),
}

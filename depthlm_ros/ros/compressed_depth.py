# SPDX-License-Identifier: Apache-2.0
"""Makes depth images for slow links: what image_transport's compressedDepth sends and reads.

The bytes are those of compressed_depth_image_transport (ros-perception/image_transport_plugins, codec.cpp): a header of
an int32 0 and two float32, then a PNG of 16 bits. 16UC1: millimetres, 0 = unknown; the two numbers are 0. 32FC1: an
inverse depth, A / z + B with these two numbers A and B, 0 = unknown, so that near depths are finer than far ones. Where
the plugin cuts off the digits of an inverse depth they are rounded here, which halves the error, and what does not fit
into 16 bits is unknown.
"""

from __future__ import annotations

import array
import struct

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from depthlm_ros.ros.message_fields import millimetres

INVERSE_DEPTH = 0
_MOST = 65535


def compressed_depth(
    header: Header, depth_m: np.ndarray, encoding: str, max_m: float, quantization_m: float, png_level: int
) -> CompressedImage:
    """Returns the message of a depth image, float32 (H, W) metres.

    encoding: 32FC1 or 16UC1, that of the depth image. max_m: farther depths are unknown. quantization_m: the depth at
    which a step of an inverse depth is 1 m. png_level: 0 to 9.
    """
    within_m = np.where(depth_m < max_m if encoding == "32FC1" else depth_m <= max_m, depth_m, np.float32(np.nan))
    factor = offset = np.float32(0.0)
    if encoding == "32FC1":
        factor, offset = quantization(max_m, quantization_m)
        values = inverse_depth(within_m, factor, offset)
    else:
        values = millimetres(within_m)
    png = cv2.imencode(".png", values, [cv2.IMWRITE_PNG_COMPRESSION, png_level])[1]
    message = CompressedImage(header=header, format=f"{encoding}; compressedDepth png")
    message.data = array.array("B", struct.pack("=iff", INVERSE_DEPTH, factor, offset))
    message.data.frombytes(memoryview(png).cast("B"))
    return message


def quantization(max_m: float, quantization_m: float) -> tuple[np.float32, np.float32]:
    """Returns A and B of the inverse depth A / z + B, which is 1 at max_m and changes by 1 per metre at about
    quantization_m."""
    factor = np.float32(quantization_m) * (np.float32(quantization_m) + np.float32(1.0))
    return factor, np.float32(1.0) - factor / np.float32(max_m)


def inverse_depth(depth_m: np.ndarray, factor: np.float32, offset: np.float32) -> np.ndarray:
    """uint16 (H, W): factor / z + offset, rounded; 0 where z is not a positive number or the result does not fit."""
    known_m = np.where((depth_m > 0) & np.isfinite(depth_m), depth_m, np.float32(np.nan))
    rounded = np.rint(factor / known_m + offset)
    return np.where((rounded >= 1) & (rounded <= _MOST), rounded, 0).astype(np.uint16)

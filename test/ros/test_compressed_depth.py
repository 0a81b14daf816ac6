# SPDX-License-Identifier: Apache-2.0
"""Compressed depth: another decoder reads what was meant, unknown stays unknown, and the header is the plugin's."""

import struct

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")

from std_msgs.msg import Header  # noqa: E402
from support.compressed_depth_reader import read_compressed_depth, read_grey_png  # noqa: E402

from depthlm_ros.ros.compressed_depth import compressed_depth  # noqa: E402

UNKNOWN = [np.nan, np.inf, -np.inf, 0.0, -2.0]


def message_of(depth_m, encoding="32FC1", max_m=100.0, quantization_m=100.0, png_level=1):
    return compressed_depth(Header(frame_id="eye"), depth_m, encoding, max_m, quantization_m, png_level)


def scene_m() -> np.ndarray:
    """Depths from 0.2 to 60 m with edges, and one row that holds everything that is unknown."""
    depth_m = np.geomspace(0.2, 60.0, 48 * 64).reshape(48, 64).astype(np.float32)
    depth_m[10:20, 5:30] = 1.5
    depth_m[0, : len(UNKNOWN)] = UNKNOWN
    return depth_m


@pytest.mark.parametrize("png_level", [0, 1, 9])
def test_inverse_depth_is_read_back_within_half_a_step_and_unknown_stays_unknown(png_level):
    depth_m = scene_m()
    message = message_of(depth_m, png_level=png_level)
    assert message.format == "32FC1; compressedDepth png" and message.header.frame_id == "eye"
    read_m = read_compressed_depth(message.data, message.format)
    unknown = np.zeros(depth_m.shape, bool)
    unknown[0, : len(UNKNOWN)] = True
    assert np.array_equal(np.isnan(read_m), unknown) and np.isfinite(read_m[~unknown]).all()
    step_m = depth_m[~unknown] ** 2 / (100.0 * 101.0)
    assert (np.abs(read_m - depth_m)[~unknown] <= 0.51 * step_m + 1e-6 * depth_m[~unknown]).all()


def test_millimetres_are_read_back_exactly_with_an_empty_header():
    message = message_of(scene_m(), "16UC1", max_m=50.0)
    assert message.format == "16UC1; compressedDepth png"
    assert struct.unpack("=iff", bytes(message.data[:12])) == (0, 0.0, 0.0)
    expected_m = np.where((scene_m() > 0) & (scene_m() <= 50.0), scene_m(), 0.0)
    assert np.array_equal(read_compressed_depth(message.data, message.format), np.rint(expected_m * 1000))


def test_header_holds_the_quantisation_as_the_plugin_computes_it():
    message = message_of(scene_m(), max_m=10.0, quantization_m=75.0)
    assert struct.unpack("=iff", bytes(message.data[:12])) == (0, 75.0 * 76.0, 1.0 - 75.0 * 76.0 / 10.0)


def test_depth_that_16_bits_cannot_hold_is_unknown_and_never_another_depth():
    depth_m = np.array([[0.01, 0.1, 0.1538, 0.1545, 9.999, 99.9, 100.0, 101.0, 1e6]], np.float32)
    message = message_of(depth_m)
    known = np.isfinite(read_compressed_depth(message.data, message.format))
    assert known.tolist() == [[False, False, False, True, True, True, False, False, False]]
    nearer = message_of(depth_m, max_m=5.0)
    assert read_grey_png(bytes(nearer.data)[12:])[0, 4:].tolist() == [0] * 5
